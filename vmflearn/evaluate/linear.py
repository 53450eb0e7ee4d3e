"""Linear classifiers on frozen features by stochastic gradient descent, one for every learning rate of a sweep at once.

Each starts from the same W ~ N(0, 0.01^2), b = 0, and takes the same batches; after DINO

    g = mean over the batch of (softmax(W x + b) - e_y) x^T,   m <- 0.9 m + g,   W <- W - rate_t m,

with rate_t = rate * batch / 256 * (1 + cos(pi epoch / epochs)) / 2. The features cost far more than the classifiers, so
that a sweep takes hardly longer than one of them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vmflearn.distributed import sum_over_processes

MOMENTUM = 0.9
INITIAL_SCALE = 0.01
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
"""For batches of 256; DINO's own is 1e-3."""


class LinearSweep:
    """Classifiers, one for each learning rate.

    Parameters
    ----------
    rates : sequence of float
        For batches of 256 images; positive.
    n_features, n_classes : int
        At least 1 and 2.
    epochs : int
        After which the rates are 0.
    seed : int
        Of the weights.
    device : str or torch.device

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(
        self,
        rates: Sequence[float],
        n_features: int,
        n_classes: int,
        *,
        epochs: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if not rates or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"rates must be positive numbers, got {list(rates)}")
        if n_classes < 2:
            raise ValueError(f"there are {n_classes} classes: with fewer than two every answer would be right")
        if epochs < 1:
            raise ValueError(f"epochs must be 1 or more, got {epochs}")
        first = torch.randn(n_features, n_classes, generator=torch.Generator().manual_seed(seed)) * INITIAL_SCALE
        first = torch.cat([first, torch.zeros(1, n_classes)]).to(device)  # the row of the constant 1 is b
        self.weights = first[:, None].repeat(1, len(rates), 1)  # (features + 1, rates, classes)
        self.momentum = torch.zeros_like(self.weights)
        self.rates = torch.tensor(rates, device=device)[:, None]
        self.epochs, self.epoch = epochs, 0

    def scores(self, features: Tensor) -> Tensor:
        """W x + b of images (n, d), (rates, n, classes)."""
        return self._scores(self._inputs(features)).transpose(0, 1)

    def _inputs(self, features: Tensor) -> Tensor:
        features = features.to(self.weights)
        return torch.cat([features, features.new_ones(len(features), 1)], dim=1)

    def _scores(self, inputs: Tensor) -> Tensor:
        return (inputs @ self.weights.flatten(1)).unflatten(1, self.weights.shape[1:])

    def step(self, features: Tensor, labels: Tensor) -> None:
        """Take one step of every classifier.

        Parameters
        ----------
        features : Tensor, (batch, d)
            Of this process; the batch is that of all processes together.
        labels : Tensor, (batch,) int64
        """
        inputs = self._inputs(features)
        errors = self._scores(inputs).softmax(dim=2)
        errors[torch.arange(len(labels), device=errors.device), :, labels.to(errors.device)] -= 1
        total = (inputs.mT @ errors.flatten(1)).view_as(self.weights)
        both = sum_over_processes(torch.cat([total.flatten(), total.new_tensor([len(labels)])]))
        count = float(both[-1])
        if count == 0:
            return
        self.momentum.mul_(MOMENTUM).add_(both[:-1].view_as(total) / count)
        falling = (1 + math.cos(math.pi * self.epoch / self.epochs)) / 2
        self.weights -= self.rates * (falling * count / 256) * self.momentum

    def end_epoch(self) -> None:
        """Let the learning rates fall."""
        self.epoch += 1

    def state_dict(self) -> dict[str, Tensor | int]:
        """What a stopped sweep goes on with."""
        return {"weights": self.weights, "momentum": self.momentum, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state of the same rates, features and classes."""
        self.weights.copy_(state["weights"])
        self.momentum.copy_(state["momentum"])
        self.epoch = int(state["epoch"])


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order (n,) of the images in an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
