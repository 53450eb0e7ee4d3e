"""One training step: DINO's, with the mixture's normaliser where the head has one (Eqs. 3 to 9).

In this order: teacher; targets from the centred teacher; student, loss and backward, for the batch at once or part by
part; check; clip; frozen prototypes forget their gradient; AdamW; EMA of the teacher; centre.

The loss L is a mean over the images, so that with parts of equal size L = (L_1 + ... + L_n) / n, and gradients add up
in the same way. The targets are not: centring and Sinkhorn see the batch, so they are made for all of it first.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vmflearn import distributed
from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
from vmflearn.ssl.collapse import locate_not_finite
from vmflearn.ssl.fused_loss import prototype_loss
from vmflearn.ssl.koleo import koleo_loss
from vmflearn.ssl.methods import MultiCropNetwork
from vmflearn.ssl.sinkhorn import SinkhornKnopp
from vmflearn.train.arrival import Arrival
from vmflearn.train.optimizer import clip_each, drop_gradients, set_schedule, update_teacher

Centering = LogitCentering | ProbabilityCentering | SinkhornKnopp
Embedding = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]


class TrainingError(RuntimeError):
    """Training that went wrong; the message names the step and the suspects."""


@dataclass(frozen=True)
class StepSettings:
    """What the schedules and the configuration say about one step.

    Attributes
    ----------
    lr, weight_decay : float
        Of AdamW, at this step.
    momentum : float
        Of the teacher's EMA.
    student_temp, teacher_temp : float
        Temperatures.
    clip_grad : float
        Largest norm of each gradient tensor; 0 switches clipping off.
    freeze_prototypes : bool
        Leave the student's prototypes as they are.
    center_normalizer : bool
        False leaves log C_p out of the responsibilities that move the centre: Eq. 9 as printed.
    koleo : float
        Weight of the KoLeo loss on the prototypes' directions.
    autocast : bool
        Run backbone and MLP in bfloat16.
    accumulation : int
        Parts into which each process divides its images, one after the other: activations are held for one part at a
        time. Batch norm and drop path see the parts; nothing else of the step does.
    """

    lr: float
    weight_decay: float
    momentum: float
    student_temp: float
    teacher_temp: float
    clip_grad: float = 0.0
    freeze_prototypes: bool = False
    center_normalizer: bool = True
    koleo: float = 0.0
    autocast: bool = False
    accumulation: int = 1


@dataclass(frozen=True)
class StepResult:
    """What a step shows of itself.

    Attributes
    ----------
    loss : float
        Cross-entropy, the mean over all processes.
    targets : Tensor, (2, batch, out_dim)
        The teacher's.
    features : Tensor, (2, batch, features)
        The teacher's, before the head.
    teacher_y : Tensor, (2, batch, bottleneck_dim)
        The teacher's bottleneck vectors.
    koleo : Tensor or None
        The KoLeo loss, without its weight, where it has one: a number that stays on the device until it is asked for.
    """

    loss: float
    targets: Tensor
    features: Tensor
    teacher_y: Tensor
    koleo: Tensor | None


def training_step(
    student: MultiCropNetwork,
    teacher: MultiCropNetwork,
    centering: Centering,
    optimizer: torch.optim.Optimizer,
    crops: Sequence[Tensor],
    settings: StepSettings,
    *,
    embed: Embedding | None = None,
) -> StepResult:
    """Take one step.

    Parameters
    ----------
    student, teacher : MultiCropNetwork
        Both are changed, as are `centering` and `optimizer`.
    centering : LogitCentering, ProbabilityCentering or SinkhornKnopp
    optimizer : Optimizer
        Of `make_optimizer`.
    crops : sequence of Tensor, each (batch, 3, height, width)
        The teacher's two views first.
    settings : StepSettings
    embed : callable, optional
        Gives the student's features and bottleneck vectors in place of ``student.embed``: the same under
        ``DistributedDataParallel``, which averages the gradients.

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
    tau_s, tau_t, n_parts = settings.student_temp, settings.teacher_temp, settings.accumulation
    embed = student.embed if embed is None else embed
    parts = _divide(crops, n_parts)
    with torch.no_grad(), _precision(crops, settings):
        seen = [teacher.embed(part[:2]) for part in parts]
        features, teacher_y = (torch.cat(pieces, dim=1) for pieces in zip(*seen, strict=True))
    with torch.no_grad():
        teacher_logits = teacher.prototypes(teacher_y, tau_t)
        targets = centering.probabilities(teacher_logits, tau_t)

    optimizer.zero_grad()
    koleo, total, outputs = None, torch.zeros((), device=targets.device), []
    for i, (part, target) in enumerate(zip(parts, targets.chunk(n_parts, dim=1), strict=True)):
        last = i + 1 == n_parts
        with nullcontext() if last else _unsynchronised(embed):
            with _precision(crops, settings):
                student_features, y = embed(part)
            loss = prototype_loss(y, student.prototypes, tau_s, target) / n_parts
            total = total + loss.detach()
            outputs.append((student_features.detach(), y.detach()))
            if last:
                arrival = Arrival(distributed.mean_over_processes(total))
                if settings.koleo > 0:
                    koleo = koleo_loss(student.prototypes.directions)
                    loss = loss + settings.koleo * koleo
            loss.backward()
    mean_loss = arrival.value()
    if not math.isfinite(mean_loss):
        student_features, y = (torch.cat(pieces, dim=1) for pieces in zip(*outputs, strict=True))
        _complain(mean_loss, settings, student_features=student_features, student_y=y, teacher_y=teacher_y)

    clip_each(student.parameters(), settings.clip_grad)
    if settings.freeze_prototypes:
        drop_gradients(student.prototypes)
    set_schedule(optimizer, settings.lr, settings.weight_decay)
    optimizer.step()

    if not settings.center_normalizer:
        teacher_logits = teacher_logits - teacher.prototypes.log_normalizers(tau_t)
    update_teacher(teacher, student, settings.momentum)
    centering.update(teacher_logits, tau_t)
    return StepResult(mean_loss, targets, features, teacher_y, None if koleo is None else koleo.detach())


def _precision(crops: Sequence[Tensor], settings: StepSettings) -> AbstractContextManager[None]:
    """Bfloat16 for matrix products, where it is wanted."""
    return torch.autocast(crops[0].device.type, torch.bfloat16) if settings.autocast else nullcontext()


def _divide(crops: Sequence[Tensor], n_parts: int) -> list[list[Tensor]]:
    """All crops of the first images, all crops of the next, and so on."""
    if n_parts < 1 or any(len(crop) % n_parts for crop in crops):
        raise ValueError(f"accumulation={n_parts} does not divide {len(crops[0])} images into equal parts")
    if n_parts == 1:
        return [list(crops)]
    return [list(part) for part in zip(*(crop.chunk(n_parts) for crop in crops), strict=True)]


def _unsynchronised(embed: Embedding) -> AbstractContextManager[None]:
    """Leave gradients on their process until those of the last part have been added."""
    return embed.no_sync() if isinstance(embed, DistributedDataParallel) else nullcontext()


def _complain(loss: float, settings: StepSettings, **tensors: Tensor) -> None:
    """Stop, on all processes at once, before a step that would destroy the weights."""
    found = locate_not_finite(**tensors)
    raise TrainingError(
        f"loss is {loss} (learning rate {settings.lr:.3g}); "
        + (found.evidence if found else "features and bottleneck vectors are finite: suspect the prototypes")
        + ". Usual cures: a lower learning rate, a longer warm-up, clip_grad, float32"
    )
