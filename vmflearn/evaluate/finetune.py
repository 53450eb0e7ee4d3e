"""Fine-tuning: a pretrained Vision Transformer and a new classifier on its class token, trained together.

Optimiser, layer-wise decay, schedule, mixing and augmentation are timm's; what is here puts them together so that a
step depends on its number and the seed alone. A run that was killed goes on to the weights it would have had, on a
processor to the last bit, with any number of workers.
"""

import math
import random
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from timm.data import Mixup
from timm.layers import DropPath
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.nn import functional as F

from vmflearn import distributed
from vmflearn.backbones.tokens import check_tokens
from vmflearn.evaluate.recipes import Recipe


class FineTuning:
    """A network in training, its optimiser and its schedule.

    The learning rate changes at every step: it grows linearly, then falls as half a cosine that begins where the
    warm-up ends. DeiT's code changes it once an epoch.

    Parameters
    ----------
    backbone : nn.Module
        A Vision Transformer of `create_backbone`, on its device. It is changed: it gets a classifier and stochastic
        depth, and is trained.
    n_classes : int
        At least 2.
    recipe : Recipe
    steps_per_epoch : int
    seed : int
        Of the classifier and of all that is drawn in a step; the same on every process.
    precision : {"float32", "bf16"}

    Raises
    ------
    ValueError
        If the backbone is no Vision Transformer with a class token, or there are fewer than two classes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        recipe: Recipe,
        *,
        steps_per_epoch: int,
        seed: int = 0,
        precision: str = "float32",
    ):
        check_tokens(backbone)
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        self.recipe, self.seed, self.precision = recipe, seed, precision
        self.network = add_classifier(backbone, n_classes, recipe.head_std, seed)
        set_drop_path(backbone, recipe.drop_path)
        self.optimizer = create_optimizer_v2(
            self.network,
            opt="adamw",
            lr=recipe.peak_lr,
            weight_decay=recipe.weight_decay,
            layer_decay=None if recipe.layer_decay == 1 else recipe.layer_decay,
        )
        self.schedule, _ = create_scheduler_v2(
            self.optimizer,
            num_epochs=recipe.epochs - recipe.warmup_epochs,
            min_lr=recipe.min_lr,
            warmup_lr=recipe.warmup_lr,
            warmup_epochs=recipe.warmup_epochs,
            warmup_prefix=True,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )
        mixing = {"mixup_alpha": recipe.mixup, "cutmix_alpha": recipe.cutmix, "label_smoothing": recipe.smoothing}
        self.mix = Mixup(**mixing, num_classes=n_classes) if recipe.mixup or recipe.cutmix else None

    def step(self, number: int, batches: Iterable[tuple[Tensor, Tensor]], n_batches: int) -> float:
        """Take a step.

        Parameters
        ----------
        number : int
            From 0.
        batches : iterable of (Tensor, Tensor)
            This process's images (n, 3, height, width) and classes (n,), in equal parts, of which one at a time is in
            memory; n is even if the recipe mixes images.
        n_batches : int
            How many parts there are.

        Returns
        -------
        float
            This process's loss.

        Raises
        ------
        ValueError
            If it is not finite; nothing is changed then.
        """
        self.network.train()
        self.schedule.step_update(number)
        self.optimizer.zero_grad()
        total = 0.0
        for part, (images, labels) in enumerate(batches):
            seed_everything(self.seed, number, part, distributed.rank())
            device = next(self.network.parameters()).device
            x, y = images.to(device), labels.to(device)
            if self.mix is not None:
                x, y = self.mix(x, y)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.network(x)
            smoothing = 0.0 if self.mix is not None else self.recipe.smoothing  # mixing has smoothed the labels
            loss = F.cross_entropy(logits.float(), y, label_smoothing=smoothing) / n_batches
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(distributed.sum_over_processes(torch.tensor(total)).item()):
            raise ValueError(f"the loss of step {number} is {total}: lower the learning rate, or use float32")
        average_gradients(self.network)
        self.optimizer.step()
        return total

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser; the schedule depends on the step alone."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def add_classifier(backbone: nn.Module, n_classes: int, std: float, seed: int) -> nn.Module:
    """Give a Vision Transformer a classifier on its class token, drawn with a seed of its own; returns it."""
    vit = cast(Any, backbone)
    vit.reset_classifier(n_classes)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(vit.head.weight.shape)
    nn.init.trunc_normal_(weight, std=std, generator=generator)
    with torch.no_grad():
        vit.head.weight.copy_(weight)
        vit.head.bias.zero_()
    return backbone


def set_drop_path(backbone: nn.Module, rate: float) -> None:
    """Set the stochastic depth of a Vision Transformer's blocks: 0 in the first, ``rate`` in the last."""
    blocks = list(cast(Any, backbone).blocks)
    for i, block in enumerate(blocks):
        own = rate * i / max(1, len(blocks) - 1)
        block.drop_path1 = DropPath(own) if own else nn.Identity()
        block.drop_path2 = DropPath(own) if own else nn.Identity()


def average_gradients(network: nn.Module) -> None:
    """Put the mean over processes in place of each gradient."""
    if not distributed.is_distributed():
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    mean = distributed.mean_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, piece in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(piece.view_as(gradient))


def seed_everything(*numbers: int) -> None:
    """Seed the generators of Python, numpy and PyTorch, all of which timm draws from."""
    first, second, third = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(first))
    np.random.seed(int(second))  # noqa: NPY002 - timm draws from the global one
    torch.manual_seed(int(third))
