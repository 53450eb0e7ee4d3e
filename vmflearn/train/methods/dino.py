"""DINO and DINO-vMF: the class token of every crop against the centred teacher's two views (Eqs. 3 to 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
from vmflearn.ssl.fused_loss import prototype_loss
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.ssl.sinkhorn import SinkhornKnopp
from vmflearn.train.methods.base import Aim, Method, Part, Work, divided
from vmflearn.train.per_step import StepSettings, precision

if TYPE_CHECKING:
    from vmflearn.train.config import Config

Centering = LogitCentering | ProbabilityCentering | SinkhornKnopp


@dataclass
class DINOSettings:
    """DINO has no settings of its own: those of head and teacher make the cells of the paper's Table 1."""

    name: Literal["dino"] = "dino"


class DINO(Method):
    """A teacher of two views, a student of all crops, one centre.

    Parameters
    ----------
    student, teacher : MultiCropNetwork
    centering : LogitCentering, ProbabilityCentering or SinkhornKnopp
    """

    Settings = DINOSettings

    def __init__(self, student: MultiCropNetwork, teacher: MultiCropNetwork, centering: Centering):
        self.student, self.teacher, self.centering = student, teacher, centering

    @classmethod
    def create(cls, config: "Config", student: MultiCropNetwork, teacher: MultiCropNetwork) -> "DINO":
        """With the centring that the configuration names."""
        return cls(student, teacher, make_centering(config, config.head.out_dim))

    @classmethod
    def work(cls, config: "Config", network: MultiCropNetwork) -> Work:
        """All crops through the student, two through the teacher."""
        passes = [(crop.size, 0.0) for crop in cls.crops(config)]
        n = len(passes)
        return Work(passes, passes[:2], n, 2, n, 2, *repeated(n, network))

    def divide(self, crops: Sequence[Tensor], settings: StepSettings, indices: Tensor | None) -> list[Part]:
        """The teacher sees the first two crops, the student all of them."""
        return [Part(part[:2], (part,)) for part in divided(crops, settings.accumulation)]

    @torch.no_grad()
    def aim(self, parts: Sequence[Part], settings: StepSettings) -> Aim:
        """Targets of the two views: P_t of Eqs. 8 and 9."""
        tau, prototypes = settings.teacher_temp, self.teacher.prototypes
        with precision(parts[0].views, settings):
            seen = [self.teacher.embed(part.views) for part in parts]
            features, teacher_y = (torch.cat(pieces, dim=1) for pieces in zip(*seen, strict=True))
        logits = prototypes(teacher_y, tau)
        targets = self.centering.probabilities(logits, tau)
        if not settings.center_normalizer:
            logits = logits - prototypes.log_normalizers(tau)
        centers = (self.centering.batch_center([logits], tau),)
        return Aim(targets, features, teacher_y, list(targets.chunk(len(parts), dim=1)), centers)

    def terms(
        self, outputs: tuple[Any, ...], target: Tensor, settings: StepSettings
    ) -> dict[str, tuple[float, Tensor]]:
        """The mean cross-entropy over the pairs of a view and another crop."""
        return {"loss": (1.0, prototype_loss(outputs[1], self.student.prototypes, settings.student_temp, target))}

    def update(self, aim: Aim) -> None:
        """Move the centre."""
        self.centering.move(*aim.centers)

    def centerings(self) -> dict[str, nn.Module]:
        """The centre."""
        return {"centering": self.centering}


def repeated(n_crops: int, network: MultiCropNetwork) -> tuple[float, float]:
    """What `prototype_loss` does beyond the last layer's own products, for `Work`.

    Logits again, and the two targets through the prototypes and into their gradient; each target against each crop's
    logits, and with the normaliser the sum of every crop's probabilities.
    """
    return n_crops + 4, (3 if network.prototypes.normalization == "vmf" else 2) * n_crops


def make_centering(config: "Config", out_dim: int) -> Centering:
    """The teacher's centring over so many components, by its name in a configuration."""
    teacher = config.teacher
    if teacher.centering == "sinkhorn":
        return SinkhornKnopp(out_dim)
    kind = LogitCentering if teacher.centering == "logit" else ProbabilityCentering
    return kind(out_dim, momentum=teacher.center_momentum)
