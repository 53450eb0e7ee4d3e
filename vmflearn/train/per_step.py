"""What the schedules and the configuration say about one step."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vmflearn.train.schedules import cosine, teacher_temperature

if TYPE_CHECKING:
    from vmflearn.train.config import Config


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
    epoch, step : int
        Counted from 0: what a method draws its own random numbers by.
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
    epoch: int = 0
    step: int = 0
    accumulation: int = 1


def step_settings(config: "Config", step: int, steps_per_epoch: int) -> StepSettings:
    """What the schedules and the configuration say about a step (counted from 0)."""
    optim, teacher = config.optimizer, config.teacher
    epoch, total = step // steps_per_epoch, steps_per_epoch * config.run.epochs
    peak = optim.lr * optim.batch_size / 256
    return StepSettings(
        lr=cosine(step, total, peak, optim.min_lr, optim.warmup_epochs * steps_per_epoch),
        weight_decay=cosine(step, total, optim.weight_decay, optim.weight_decay_end),
        momentum=cosine(step, total, teacher.momentum, 1.0),
        student_temp=teacher.student_temp,
        teacher_temp=teacher_temperature(epoch, teacher.warmup_temp, teacher.temp, teacher.temp_warmup_epochs),
        clip_grad=optim.clip_grad,
        freeze_prototypes=epoch < optim.freeze_last_layer_epochs,
        center_normalizer=teacher.center_normalizer,
        koleo=config.head.koleo,
        autocast=config.run.precision == "bfloat16",
        epoch=epoch,
        step=step,
        accumulation=optim.accumulation,
    )


def precision(crops: Sequence[Tensor], settings: StepSettings) -> AbstractContextManager[None]:
    """Bfloat16 for matrix products, where it is wanted."""
    return torch.autocast(crops[0].device.type, torch.bfloat16) if settings.autocast else nullcontext()
