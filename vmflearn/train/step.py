"""One training step: DINO's, with the mixture's normaliser where the head has one (Eqs. 3 to 9).

In this order: teacher and student; targets from the centred teacher; loss; check; backward; clip; frozen prototypes
forget their gradient; AdamW; EMA of the teacher; centre.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vmflearn import distributed
from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
from vmflearn.ssl.collapse import locate_not_finite
from vmflearn.ssl.fused_loss import prototype_loss
from vmflearn.ssl.koleo import koleo_loss
from vmflearn.ssl.methods import MultiCropNetwork
from vmflearn.ssl.sinkhorn import SinkhornKnopp
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
    koleo : float or None
        The KoLeo loss, without its weight, where it has one.
    """

    loss: float
    targets: Tensor
    features: Tensor
    teacher_y: Tensor
    koleo: float | None


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
        If the loss is not finite; nothing has been changed then, on any process.
    """
    tau_s, tau_t = settings.student_temp, settings.teacher_temp
    with torch.autocast(crops[0].device.type, torch.bfloat16) if settings.autocast else nullcontext():
        with torch.no_grad():
            features, teacher_y = teacher.embed(crops[:2])
        student_features, y = (embed or student.embed)(crops)
    with torch.no_grad():
        teacher_logits = teacher.prototypes(teacher_y, tau_t)
        targets = centering.probabilities(teacher_logits, tau_t)
    loss = prototype_loss(y, student.prototypes, tau_s, targets)
    mean_loss = float(distributed.mean_over_processes(loss.detach()))
    if not math.isfinite(mean_loss):
        _complain(mean_loss, settings, student_features=student_features, student_y=y, teacher_y=teacher_y)
    koleo = None
    if settings.koleo > 0:
        spread = koleo_loss(student.prototypes.directions)
        loss, koleo = loss + settings.koleo * spread, float(spread.detach())

    optimizer.zero_grad()
    loss.backward()
    clip_each(student.parameters(), settings.clip_grad)
    if settings.freeze_prototypes:
        drop_gradients(student.prototypes)
    set_schedule(optimizer, settings.lr, settings.weight_decay)
    optimizer.step()

    if not settings.center_normalizer:
        teacher_logits = teacher_logits - teacher.prototypes.log_normalizers(tau_t)
    update_teacher(teacher, student, settings.momentum)
    centering.update(teacher_logits, tau_t)
    return StepResult(mean_loss, targets, features, teacher_y, koleo)


def _complain(loss: float, settings: StepSettings, **tensors: Tensor) -> None:
    """Stop, on all processes at once, before a step that would destroy the weights."""
    found = locate_not_finite(**tensors)
    raise TrainingError(
        f"loss is {loss} (learning rate {settings.lr:.3g}); "
        + (found.evidence if found else "features and bottleneck vectors are finite: suspect the prototypes")
        + ". Usual cures: a lower learning rate, a longer warm-up, clip_grad, float32"
    )
