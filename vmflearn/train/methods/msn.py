"""MSN: views without some of their patches against the whole view, balanced instead of centred (Assran et al., 2022).

The teacher sees one random view. The student sees other ones, of which patches are dropped, and small focal crops. All
are assigned to prototypes that both networks share,

    p = softmax(z(y)),      q = Sinkhorn(p_t^(1/T) / sum),      L = mean CE(q, p) + lambda (ln K - H(mean p))

z being the cosine over tau in MSN, and with vMF prototypes (an experiment of ours, in no paper) the complete logits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vmflearn.ssl.anchor_loss import msn_loss
from vmflearn.ssl.anchor_network import AnchorNetwork
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.ssl.sinkhorn import SinkhornKnopp
from vmflearn.train.methods.base import Aim, Method, Part, Work
from vmflearn.train.per_step import StepSettings, precision, step_settings
from vmflearn.train.typed import Amount, ConfigError, Count, Limits, Share
from vmflearn.views.crops import CropSpec
from vmflearn.views.masking import draw_kept

if TYPE_CHECKING:
    from vmflearn.train.config import Config


@dataclass
class MSNSettings:
    """What MSN has beside head and teacher; the defaults are those of the published ViT-S/16.

    Targets are sharpened by the ratio of ``teacher.temp`` to ``teacher.student_temp``. ``views.n_local`` are the focal
    crops.
    """

    name: Literal["msn"] = "msn"
    n_random: Count = 1
    """Random views of the student, of the teacher's size."""
    dropped: Share = 0.15
    """Share of their patches that is left out."""
    own_patches: bool = False
    """Every image loses patches of its own; false: all images of a step lose the same, as in the published code."""
    balanced: bool = True
    """Balance the targets over the components by Sinkhorn's iterations."""
    mean_entropy: Amount = 1.0
    """lambda."""
    warmup_lr: Amount = 5e-5
    """Learning rate from which the warm-up rises, for a batch of 256."""
    stretch: Annotated[float, Limits("be at least 1", 1)] = 1.25
    """How many times the run's length the schedules are planned for: they stop before their end."""


class MSN(Method):
    """Anchors against a target view.

    Both networks score with the same prototypes: the teacher's are a copy of the student's, taken after each step. (As
    one module they would be averaged with themselves, and switching off the teacher's gradients would freeze them.)

    Parameters
    ----------
    student, teacher : AnchorNetwork
    settings : MSNSettings
    seed : int
        Of the dropped patches.
    """

    Settings = MSNSettings
    student: AnchorNetwork
    teacher: AnchorNetwork
    undecayed = ("head.prototypes.",)
    cures: ClassVar[Mapping[str, str]] = {
        "constant output": "method.balanced=true, more of method.mean_entropy, a smaller learning rate",
    }

    def __init__(self, student: AnchorNetwork, teacher: AnchorNetwork, settings: MSNSettings, seed: int = 0):
        self.student, self.teacher, self.settings, self.seed = student, teacher, settings, seed
        self.balance = SinkhornKnopp(student.prototypes.out_dim)

    @classmethod
    def check(cls, config: "Config") -> None:
        """One part, Sinkhorn in the place of centring, and views to learn from."""
        if config.teacher.centering != "sinkhorn":
            raise ConfigError(
                f"teacher.centering={config.teacher.centering}: MSN has no centre, and balances its targets; give "
                "teacher.centering=sinkhorn (method.balanced=false switches it off)"
            )
        if config.optimizer.accumulation != 1:
            raise ConfigError(
                f"optimizer.accumulation={config.optimizer.accumulation}: the mean entropy of MSN is not a mean over "
                "images, and needs the batch of a process in one part; give 1"
            )
        if config.method.dropped >= 1:
            raise ConfigError(f"method.dropped must be below 1, not {config.method.dropped}: no patch would be left")

    @classmethod
    def crops(cls, config: "Config") -> tuple[CropSpec, ...]:
        """The target view, the random views and the focal ones, as MSN cuts and colours them."""
        views = config.views

        def spec(size: int, scale: tuple[float, float]) -> CropSpec:
            return CropSpec(
                size,
                scale,
                blur=0.5,
                solarize=0.0,
                sigma=views.blur_sigma,
                jitter=views.color_jitter,
                grey=views.grey,
                saturation=0.4,
                bilinear=True,
            )

        whole, focal = spec(views.global_size, views.global_scale), spec(views.local_size, views.local_scale)
        return (whole,) * (1 + config.method.n_random) + (focal,) * views.n_local

    @classmethod
    def schedule(cls, config: "Config", step: int, steps_per_epoch: int) -> StepSettings:
        """MSN's: the rate from a start that is not zero, the EMA along a line, both planned for a longer run.

        Rate and weight decay of the published code are those of the step's number counted from one.
        """
        optim, own, teacher = config.optimizer, config.method, config.teacher
        length = own.stretch * steps_per_epoch * config.run.epochs
        total = int(length)
        warmup, scale = optim.warmup_epochs * steps_per_epoch, optim.batch_size / 256
        peak, first, n = optim.lr * scale, own.warmup_lr * scale, step + 1
        if n < warmup:
            lr = first + n / warmup * (peak - first)
        else:
            lr = max(optim.min_lr, _cosine(peak, optim.min_lr, (n - warmup) / max(1, total - warmup)))
        return replace(
            step_settings(config, step, steps_per_epoch),
            lr=lr,
            weight_decay=_cosine(optim.weight_decay, optim.weight_decay_end, n / total),
            momentum=teacher.momentum + (1 - teacher.momentum) * step / length,
        )

    @classmethod
    def network(cls, config: "Config", backbone: nn.Module, head: DINOHead) -> AnchorNetwork:
        """With dropped patches."""
        return AnchorNetwork(backbone, head)

    @classmethod
    def create(cls, config: "Config", student: MultiCropNetwork, teacher: MultiCropNetwork) -> "MSN":
        """With the settings of the configuration."""
        assert isinstance(student, AnchorNetwork)
        assert isinstance(teacher, AnchorNetwork)
        try:
            draw_kept(cls._patches(student, config.views.global_size), config.method.dropped, 0)
        except ValueError as error:
            raise ConfigError(f"method.dropped={config.method.dropped}: {error}") from None
        return cls(student, teacher, config.method, config.seed)

    @classmethod
    def work(cls, config: "Config", network: MultiCropNetwork) -> Work:
        """One whole view through the teacher; the student's without the dropped patches."""
        target, *anchors = cls.crops(config)
        own = config.method
        passes = [(crop.size, own.dropped if i < own.n_random else 0.0) for i, crop in enumerate(anchors)]
        return Work(passes, [(target.size, 0.0)], len(passes), 1, len(passes), 1)

    @classmethod
    def rehearse(cls, config: "Config", network: MultiCropNetwork, crops: list[Tensor]) -> None:
        """On the patches that are kept."""
        assert isinstance(network, AnchorNetwork)
        n_patches = cls._patches(network, crops[0].shape[-1])
        kept = torch.zeros(1, math.floor(n_patches * (1 - config.method.dropped)), dtype=torch.int64)
        network.embed(crops[1:], kept)

    @staticmethod
    def _patches(network: MultiCropNetwork, side: int) -> int:
        backbone: Any = network.backbone
        high, wide = backbone.patch_embed.patch_size
        return (side // high) * (side // wide)

    def divide(self, crops: Sequence[Tensor], settings: StepSettings, indices: Tensor | None) -> list[Part]:
        """The target view for the teacher, all others for the student; the patches that are kept."""
        if settings.accumulation != 1:
            raise ValueError(
                f"accumulation={settings.accumulation}: the mean entropy of MSN is not a mean over images, and needs "
                "the batch in one part"
            )
        own, n_patches = self.settings, self._patches(self.student, crops[0].shape[-1])
        if not own.dropped:
            return [Part([crops[0]], (list(crops[1:]),))]
        if own.own_patches:
            assert indices is not None, "patches are drawn by the images' positions in the data set"
            views = np.arange(own.n_random).repeat(len(indices))
            key: tuple[Any, ...] = (self.seed, settings.epoch, np.tile(np.asarray(indices), own.n_random), views)
        else:
            key = (self.seed, settings.step)
        kept = draw_kept(n_patches, own.dropped, *key).to(crops[0].device)
        return [Part([crops[0]], (list(crops[1:]), kept))]

    @torch.no_grad()
    def aim(self, parts: Sequence[Part], settings: StepSettings) -> Aim:
        """Sharpened and balanced assignments of the target view."""
        with precision(parts[0].views, settings):
            features, y = self.teacher.embed(parts[0].views)
        # p^(1/T) has 1/T times the logits; T is the ratio of the temperatures
        sharpening = settings.teacher_temp / settings.student_temp
        logits = self.teacher.prototypes(y, settings.student_temp) / sharpening
        targets = torch.softmax(logits, dim=-1)
        if self.settings.balanced:
            targets = self.balance.probabilities(torch.log_softmax(logits, dim=-1), settings.student_temp)
        return Aim(targets, features, y, [targets], ())

    def terms(self, outputs: tuple[Any, ...], target: Any, settings: StepSettings) -> dict[str, tuple[float, Tensor]]:
        """Cross-entropy over all anchors, and how far their mean is from uniform."""
        logits = self.student.prototypes(outputs[1], settings.student_temp)
        cross_entropy, mean_entropy = msn_loss(logits, target)
        return {"loss": (1.0, cross_entropy), "mean_entropy": (self.settings.mean_entropy, mean_entropy)}

    def clip(self, max_norm: float) -> None:
        """Scale all gradients but the prototypes' together, when their common norm exceeds the bound."""
        if max_norm > 0:
            network = self.student
            nn.utils.clip_grad_norm_([*network.backbone.parameters(), *network.head.mlp.parameters()], max_norm)

    def follow(self, momentum: float) -> None:
        """EMA of backbone and head; the prototypes are the student's."""
        super().follow(momentum)
        self.share()

    def share(self) -> None:
        """The teacher's prototypes are the student's."""
        self.teacher.prototypes.load_state_dict(self.student.prototypes.state_dict())

    def update(self, aim: Aim) -> None:
        """There is no centre."""

    def centerings(self) -> dict[str, nn.Module]:
        """None."""
        return {}


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
