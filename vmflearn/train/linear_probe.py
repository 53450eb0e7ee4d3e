"""A linear classifier that learns beside a run: how well labels can be read off the teacher's features as they are now.

It looks at features that the step has computed anyway, and costs one small matrix product a step. Its gradient stops at
the features: with or without it, the networks train to the same last bit.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vmflearn.distributed import mean_over_processes

LEARNING_RATE = 1e-2


class LinearProbe:
    """Multinomial logistic regression on features of unit length, one step of Adam for every step of the run.

    Weights start at zero, so that it draws no random numbers. Processes average their gradients, and so hold the same
    classifier.

    Parameters
    ----------
    labels : Tensor, (n,) int64
        Class of every training image, 0 to n_classes - 1.
    n_classes : int
        At least 2.
    n_features : int
    device : torch.device
    dtype : torch.dtype

    Raises
    ------
    ValueError
        With fewer than two classes, or labels out of their range.
    """

    def __init__(
        self,
        labels: Tensor,
        n_classes: int,
        n_features: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}: with one class every answer is right")
        if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= n_classes:
            raise ValueError(f"labels must be 0 to {n_classes - 1}, one for every training image")
        self.labels = labels.to(device)
        self.weight = torch.zeros(n_classes, n_features, device=device, dtype=dtype, requires_grad=True)
        self.bias = torch.zeros(n_classes, device=device, dtype=dtype, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=LEARNING_RATE)

    def learn(self, features: Tensor, indices: Tensor) -> None:
        """Take one step.

        Parameters
        ----------
        features : Tensor, (views, batch, n_features)
            Of the teacher's views; no gradient flows into them.
        indices : Tensor, (batch,) int64
            Which training images they show.
        """
        x = self._inputs(features.detach()).flatten(0, 1)
        y = self.labels[indices.to(self.labels.device)].repeat(len(features))
        with torch.enable_grad():
            loss = F.cross_entropy(F.linear(x, self.weight, self.bias), y)
        parameters = [self.weight, self.bias]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = mean_over_processes(gradient)
        self.optimizer.step()

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of rows (n, n_features) whose class (n,) is the most probable one."""
        scores = F.linear(self._inputs(features), self.weight, self.bias)
        return float((scores.argmax(dim=1) == labels.to(scores.device)).double().mean())

    def _inputs(self, features: Tensor) -> Tensor:
        """Directions, scaled so that an entry has a mean square of one."""
        return F.normalize(features.to(self.weight.dtype), dim=-1) * math.sqrt(features.shape[-1])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "weight": self.weight.detach().clone(),
            "bias": self.bias.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same classes and features."""
        with torch.no_grad():
            self.weight.copy_(state["weight"])
            self.bias.copy_(state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])
