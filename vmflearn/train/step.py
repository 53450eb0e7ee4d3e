"""One training step, the same for every method.

In this order: teacher and targets; student, loss and backward, for the batch at once or part by part; check; clip;
frozen prototypes forget their gradient; AdamW; the teacher follows; centres. What is particular to a method stands in
`vmflearn.train.methods`.

A loss L is a mean over the images, so that with parts of equal size L = (L_1 + ... + L_n) / n, and gradients add up
in the same way. The targets are not: centring and Sinkhorn see the batch, so they are made for all of it first.
"""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vmflearn import distributed
from vmflearn.devices import Readback
from vmflearn.monitor.collapse import locate_not_finite
from vmflearn.ssl.koleo import koleo_loss
from vmflearn.train.methods.base import Method, Patches
from vmflearn.train.optimizer import drop_gradients, set_schedule
from vmflearn.train.per_step import StepSettings, precision

Embedding = Callable[..., tuple[Any, ...]]


class TrainingError(RuntimeError):
    """Training that went wrong; the message names the step and the suspects."""


@dataclass(frozen=True)
class StepResult:
    """What a step shows of itself.

    Attributes
    ----------
    terms : dict of float
        The terms of the loss by their names, means over all processes; ``"loss"`` is the images' cross-entropy.
    targets : Tensor, (views, batch, out_dim)
        The teacher's.
    features : Tensor, (views, batch, features)
        The teacher's, before the head.
    teacher_y : Tensor, (views, batch, bottleneck_dim)
        The teacher's bottleneck vectors.
    koleo : Tensor or None
        The KoLeo loss, without its weight, where it has one: a number that stays on the device until it is asked for.
    patches : Patches or None
        What the teacher made of the masked patches, in a method with targets for them.
    """

    terms: dict[str, float]
    targets: Tensor
    features: Tensor
    teacher_y: Tensor
    koleo: Tensor | None
    patches: Patches | None = None

    @property
    def loss(self) -> float:
        """The images' cross-entropy."""
        return self.terms["loss"]


def training_step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    crops: Sequence[Tensor],
    settings: StepSettings,
    *,
    indices: Tensor | None = None,
    embed: Embedding | None = None,
) -> StepResult:
    """Take one step.

    Parameters
    ----------
    method : Method
        Such as `vmflearn.train.methods.DINO`. Student, teacher and centres are changed, as is `optimizer`.
    optimizer : Optimizer
        Of `make_optimizer`.
    crops : sequence of Tensor, each (batch, 3, height, width)
        The teacher's views first.
    settings : StepSettings
    indices : Tensor, (batch,), optional
        Positions of the images in the data set, by which a method draws random numbers of its own.
    embed : callable, optional
        Gives what ``student.embed`` gives: the same under ``DistributedDataParallel``, which averages the gradients.

    Returns
    -------
    StepResult

    Raises
    ------
    TrainingError
        If the loss is not finite; nothing but gradients has been changed then, on any process.
    ValueError
        If the images cannot be divided into ``accumulation`` equal parts.
    """
    student = method.student
    embed = student.embed if embed is None else embed
    parts = method.divide(crops, settings, indices)
    aim = method.aim(parts, settings)

    optimizer.zero_grad()
    names: list[str] = []
    koleo, total, outputs = None, torch.zeros((), device=aim.targets.device), []
    for i, (part, target) in enumerate(zip(parts, aim.parts, strict=True)):
        last = i + 1 == len(parts)
        with nullcontext() if last else _unsynchronised(embed):
            with precision(crops, settings):
                out = embed(*part.inputs)
            terms = method.terms(out, target, settings)
            names = list(terms)
            loss = functools.reduce(torch.add, (weight * term for weight, term in terms.values())) / len(parts)
            total = total + torch.stack([term.detach() for _, term in terms.values()]) / len(parts)
            outputs.append([piece.detach() for piece in out[:2]])
            if last:
                readback = Readback(distributed.mean_over_processes(total))
                if settings.koleo > 0:
                    koleo = koleo_loss(student.prototypes.directions)
                    loss = loss + settings.koleo * koleo
            loss.backward()
    means = dict(zip(names, readback.values(), strict=True))
    if not all(map(math.isfinite, means.values())):
        student_features, y = (torch.cat(pieces, dim=1) for pieces in zip(*outputs, strict=True))
        _complain(means, settings, student_features=student_features, student_y=y, teacher_y=aim.teacher_y)

    method.clip(settings.clip_grad)
    if settings.freeze_prototypes:
        for prototypes in method.prototypes():
            drop_gradients(prototypes)
    set_schedule(optimizer, settings.lr, settings.weight_decay)
    optimizer.step()

    method.follow(settings.momentum)
    method.update(aim)
    koleo = None if koleo is None else koleo.detach()
    return StepResult(means, aim.targets, aim.features, aim.teacher_y, koleo, aim.patches)


def _unsynchronised(embed: Embedding) -> AbstractContextManager[None]:
    """Leave gradients on their process until those of the last part have been added."""
    return embed.no_sync() if isinstance(embed, DistributedDataParallel) else nullcontext()


def _complain(means: dict[str, float], settings: StepSettings, **tensors: Tensor) -> None:
    """Stop, on all processes at once, before a step that would destroy the weights."""
    found = locate_not_finite(**tensors)
    name, value = next((name, value) for name, value in means.items() if not math.isfinite(value))
    raise TrainingError(
        f"{name} is {value} (learning rate {settings.lr:.3g}); "
        + (found.evidence if found else "features and bottleneck vectors are finite: suspect the prototypes")
        + ". Usual cures: a lower learning rate, a longer warm-up, clip_grad, float32"
    )
