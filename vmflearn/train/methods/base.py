"""What a self-distillation method has to say for itself; the loop and the step know nothing else of it.

A method holds a student, its teacher, and what centres or balances the teacher. The step asks it, in this order:

1. `divide` - what the networks are fed with, part by part (masks are drawn here);
2. `aim`    - what the teacher makes of the whole batch, and the targets;
3. `terms`  - the loss of a part of the batch, term by term;
4. `clip`   - the student's gradients;
5. `follow` - the teacher after the student's update;
6. `update` - the centres.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.ssl.prototypes import Prototypes
from vmflearn.train.optimizer import clip_each, update_teacher
from vmflearn.train.per_step import StepSettings, step_settings
from vmflearn.views.crops import CropSpec, dino_crops

if TYPE_CHECKING:
    from vmflearn.train.config import Config


@dataclass(frozen=True)
class Part:
    """Some of a process's images, on their way through both networks.

    Attributes
    ----------
    views : list of Tensor, each (n, 3, height, width)
        What the teacher sees.
    inputs : tuple
        What the student's ``embed`` is called with.
    """

    views: list[Tensor]
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class Patches:
    """What the teacher made of the masked patches of a batch, for the monitor.

    Attributes
    ----------
    targets : Tensor, (patches, patch_out_dim)
        None of them in a batch without masks.
    y : Tensor, (patches, bottleneck_dim)
        Their bottleneck vectors.
    temperature : float
        The teacher's, for patches.
    """

    targets: Tensor
    y: Tensor
    temperature: float


@dataclass(frozen=True)
class Aim:
    """What the teacher made of a batch.

    Attributes
    ----------
    targets : Tensor, (views, batch, out_dim)
        Of the images: what the monitor watches.
    features : Tensor, (views, batch, features)
        The teacher's, before the head.
    teacher_y : Tensor, (views, batch, bottleneck_dim)
        The teacher's bottleneck vectors.
    parts : list
        What `Method.terms` compares the student with, an entry for each part.
    centers : tuple
        Where the batch would have the centres: what `Method.update` moves them towards. Made here, since the teacher
        moves before they do, and so that no logits are held while the student computes.
    patches : Patches or None
        Of a method with targets for patches.
    """

    targets: Tensor
    features: Tensor
    teacher_y: Tensor
    parts: list[Any]
    centers: tuple[Any, ...]
    patches: Patches | None = None


@dataclass(frozen=True)
class Work:
    """What a step computes for each image, in passes and rows.

    Attributes
    ----------
    student, teacher : list of (int, float)
        Passes through a backbone: side of the crop in pixels, share of its patches that is left out.
    student_rows, teacher_rows : float
        Rows that the projection of each takes.
    student_scored, teacher_scored : float
        Rows that the prototypes of each score.
    repeated : float
        Rows that are scored again, or taken through the prototypes, to save memory.
    compared : float
        Pairs of a target and a row of logits whose inner product is a matrix product.
    masked : float
        Patches of an image for which there are targets, on average.
    """

    student: list[tuple[int, float]]
    teacher: list[tuple[int, float]]
    student_rows: float
    teacher_rows: float
    student_scored: float
    teacher_scored: float
    repeated: float = 0.0
    compared: float = 0.0
    masked: float = 0.0


class Method(ABC):
    """Student, teacher and what makes targets.

    Attributes
    ----------
    Settings : type
        The dataclass of the configuration's section ``method``; its field ``name`` is the method's.
    student, teacher : MultiCropNetwork
        Of one architecture. The student's ``embed`` gives features and bottleneck vectors first.
    undecayed : tuple of str
        Beginnings of the student's parameter names that weight decay leaves alone, besides biases and gains.
    teacher_lags : bool
        Whether the teacher stays behind the student, as an average of its past does. Where it is a copy, say false: the
        monitor takes equal networks for a mistake otherwise.
    cures : dict of str
        By the name of a finding of the monitor, what helps where it is something else than in DINO.
    """

    Settings: ClassVar[type]
    student: MultiCropNetwork
    teacher: MultiCropNetwork
    undecayed: tuple[str, ...] = ()
    teacher_lags: ClassVar[bool] = True
    cures: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def check(cls, config: "Config") -> None:
        """Refuse a configuration that the method cannot run.

        Raises
        ------
        ConfigError
            Naming key and value.
        """
        return  # nothing that the configuration itself does not check

    @classmethod
    def crops(cls, config: "Config") -> tuple[CropSpec, ...]:
        """How the views of an image are cut: DINO's two global crops and its local ones."""
        views = config.views
        return dino_crops(
            views.global_size,
            views.local_size,
            views.n_local,
            views.global_scale,
            views.local_scale,
            views.blur_sigma,
            views.color_jitter,
            views.grey,
        )

    @classmethod
    def schedule(cls, config: "Config", step: int, steps_per_epoch: int) -> StepSettings:
        """What a step (counted from 0) is taken with: DINO's schedules."""
        return step_settings(config, step, steps_per_epoch)

    @classmethod
    def network(cls, config: "Config", backbone: nn.Module, head: DINOHead) -> MultiCropNetwork:
        """Student or teacher, of a backbone and a head.

        Raises
        ------
        ValueError
            If the backbone does not serve.
        """
        return MultiCropNetwork(backbone, head)

    @classmethod
    @abstractmethod
    def create(cls, config: "Config", student: MultiCropNetwork, teacher: MultiCropNetwork) -> "Method":
        """The method that a configuration asks for, on networks of `network`."""

    @classmethod
    @abstractmethod
    def work(cls, config: "Config", network: MultiCropNetwork) -> Work:
        """What a step computes, for each image."""

    @classmethod
    def rehearse(cls, config: "Config", network: MultiCropNetwork, crops: list[Tensor]) -> None:
        """The student's forward pass on crops without content: what it keeps for the backward pass is counted."""
        network.embed(crops)

    @abstractmethod
    def divide(self, crops: Sequence[Tensor], settings: StepSettings, indices: Tensor | None) -> list[Part]:
        """The batch in ``settings.accumulation`` equal parts.

        Parameters
        ----------
        crops : sequence of Tensor, each (batch, 3, height, width)
        settings : StepSettings
        indices : Tensor, (batch,), optional
            Positions of the images in the data set, for a method that draws random numbers of its own for them.

        Raises
        ------
        ValueError
            If the images cannot be divided so.
        """

    @abstractmethod
    def aim(self, parts: Sequence[Part], settings: StepSettings) -> Aim:
        """Targets of the whole batch, without gradients."""

    @abstractmethod
    def terms(self, outputs: tuple[Any, ...], target: Any, settings: StepSettings) -> dict[str, tuple[float, Tensor]]:
        """The loss of a part: what the student's ``embed`` gave against an entry of ``Aim.parts``.

        Returns
        -------
        dict of (float, Tensor)
            Terms by name, each a weight and a scalar that is a mean over the part's images. ``"loss"``, the images'
            cross-entropy, comes first. The weighted sum is minimised, the terms are recorded without weights.
        """

    def clip(self, max_norm: float) -> None:
        """Bound the student's gradients; 0 switches it off. As DINO does it: each tensor by its own norm."""
        clip_each(self.student.parameters(), max_norm)

    def follow(self, momentum: float) -> None:
        """Let the teacher follow the student: teacher <- m teacher + (1 - m) student."""
        update_teacher(self.teacher, self.student, momentum)

    @abstractmethod
    def update(self, aim: Aim) -> None:
        """Move the centres."""

    def share(self) -> None:
        """Give the teacher what it has in common with the student at all times: nothing, in most methods."""
        return

    def prototypes(self) -> list[Prototypes]:
        """The student's last layers, which are frozen in the first epochs."""
        return [self.student.prototypes]

    @abstractmethod
    def centerings(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the networks, by its name there."""


def divided(crops: Sequence[Tensor], n_parts: int) -> list[list[Tensor]]:
    """All crops of the first images, all crops of the next, and so on.

    Raises
    ------
    ValueError
        If the parts would not be equal.
    """
    if n_parts < 1 or any(len(crop) % n_parts for crop in crops):
        raise ValueError(f"accumulation={n_parts} does not divide {len(crops[0])} images into equal parts")
    return [list(part) for part in zip(*(crop.chunk(n_parts) for crop in crops), strict=True)]
