"""iBOT and iBOT-vMF: DINO's loss, and beside it the same question about masked patches (Appendix A.5).

    L = lambda_1 L_CLS + lambda_2 L_MIM,
    L_MIM = 1/2 sum_v  mean_b  1/max(1, |M_vb|) sum_{i in M_vb} -<P_t(patch i of view v), log P_s(patch i, masked)>

M_vb are the masked patches of view v of image b; an image without any adds nothing, and counts in the mean. The teacher
sees the view whole. Both terms have a centre of their own, that of the patches from all patches of both views, masked
or not, and a teacher temperature of its own. With vMF prototypes every score carries log C_p, and both centres are
those of Eq. 9. (L_MIM as printed in A.5 lacks the logarithm.)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vmflearn.ssl.fused_loss import prototype_loss
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.ssl.patch_network import PatchNetwork
from vmflearn.ssl.prototypes import Prototypes
from vmflearn.ssl.row_loss import patch_loss, patch_weights
from vmflearn.train.methods.base import Aim, Method, Part, Patches, Work, divided
from vmflearn.train.methods.dino import Centering, make_centering, repeated
from vmflearn.train.per_step import StepSettings, precision
from vmflearn.train.schedules import teacher_temperature
from vmflearn.train.typed import Amount, ConfigError, Temperature, Whole
from vmflearn.views.masking import MaskSpec, draw_masks

if TYPE_CHECKING:
    from vmflearn.train.config import Config

LOGITS = 2**23
"""Numbers in a chunk of the teacher's patch logits: 32 MiB. The centre needs all of them, never at once."""


@dataclass
class IBOTSettings:
    """What iBOT has beside head and teacher; the defaults are the published ones."""

    name: Literal["ibot"] = "ibot"
    mask_ratios: tuple[float, float] = (0.0, 0.3)
    """Shares of a view's patches that are masked; every view draws one of the two."""
    mask_spreads: tuple[float, float] = (0.0, 0.2)
    """The share is uniform in ratio +- spread."""
    mask_shape: Literal["block", "random"] = "block"
    start_epoch: Whole = 0
    """First epoch with masks."""
    shared_head: bool = True
    """Whether patches are scored by the prototypes of the class tokens."""
    patch_out_dim: int | None = None
    """Components of the patches' own prototypes, where the head is not shared; as many as ``head.out_dim`` if null."""
    patch_warmup_temp: Temperature = 0.04
    patch_temp: Temperature = 0.07
    patch_temp_warmup_epochs: Whole = 30
    """The teacher's temperature for patches; its warm-up begins with the masks."""
    cls_weight: Amount = 1.0
    patch_weight: Amount = 1.0
    """lambda_1 and lambda_2."""

    @property
    def masks(self) -> MaskSpec:
        """How masks are drawn; ValueError for shares out of range."""
        return MaskSpec(self.mask_ratios, self.mask_spreads, self.mask_shape)

    def teacher_temp(self, epoch: int) -> float:
        """The teacher's temperature for patches in an epoch."""
        since = max(0, epoch - self.start_epoch)
        return teacher_temperature(since, self.patch_warmup_temp, self.patch_temp, self.patch_temp_warmup_epochs)


class IBOT(Method):
    """DINO with masked patches.

    Parameters
    ----------
    student, teacher : PatchNetwork
    centering, patch_centering : LogitCentering or ProbabilityCentering
    settings : IBOTSettings
    seed : int
        Of the masks.
    """

    Settings = IBOTSettings
    student: PatchNetwork
    teacher: PatchNetwork

    def __init__(
        self,
        student: PatchNetwork,
        teacher: PatchNetwork,
        centering: Centering,
        patch_centering: Centering,
        settings: IBOTSettings,
        seed: int = 0,
    ):
        self.student, self.teacher, self.seed = student, teacher, seed
        self.centering, self.patch_centering, self.settings = centering, patch_centering, settings

    @classmethod
    def check(cls, config: "Config") -> None:
        """Masks that can be drawn, and a head that can be shared."""
        own: IBOTSettings = config.method
        try:
            MaskSpec(own.mask_ratios, own.mask_spreads, own.mask_shape)
        except ValueError as error:
            raise ConfigError(f"method.mask_ratios and mask_spreads: {error}") from None
        if config.teacher.centering == "sinkhorn":
            raise ConfigError("teacher.centering=sinkhorn: iBOT centres its patches; give logit or probability")
        if own.patch_out_dim is not None and own.patch_out_dim < 2:
            raise ConfigError(f"method.patch_out_dim must be at least 2, not {own.patch_out_dim}")
        if own.shared_head and own.patch_out_dim not in (None, config.head.out_dim):
            raise ConfigError(
                f"method.patch_out_dim={own.patch_out_dim} and head.out_dim={config.head.out_dim} differ, and "
                "method.shared_head=true scores both with the same prototypes: leave patch_out_dim out, or give "
                "method.shared_head=false"
            )
        if own.start_epoch + own.patch_temp_warmup_epochs > config.run.epochs:
            raise ConfigError(
                f"method.start_epoch={own.start_epoch} and patch_temp_warmup_epochs={own.patch_temp_warmup_epochs} are "
                f"together longer than the run (run.epochs={config.run.epochs}); shorten them or train longer"
            )

    @classmethod
    def network(cls, config: "Config", backbone: nn.Module, head: DINOHead) -> PatchNetwork:
        """With a mask token, and prototypes of the patches' own where the head is not shared."""
        own: IBOTSettings = config.method
        patch_prototypes = None
        if not own.shared_head:
            kept = config.head
            patch_prototypes = Prototypes(
                kept.bottleneck_dim, own.patch_out_dim or kept.out_dim, kept.normalization, kept.learn_magnitudes
            )
        return PatchNetwork(backbone, head, patch_prototypes)

    @classmethod
    def create(cls, config: "Config", student: MultiCropNetwork, teacher: MultiCropNetwork) -> "IBOT":
        """With two centres of the kind that the configuration names."""
        assert isinstance(student, PatchNetwork)
        assert isinstance(teacher, PatchNetwork)
        cls._grid(student, config.views.global_size)
        centers = [make_centering(config, p.out_dim) for p in (student.prototypes, student.patch_prototypes)]
        return cls(student, teacher, centers[0], centers[1], config.method, config.seed)

    @classmethod
    def work(cls, config: "Config", network: MultiCropNetwork) -> Work:
        """DINO's, and the patches: the student's where masked, the teacher's all."""
        passes = [(crop.size, 0.0) for crop in cls.crops(config)]
        n, grid = len(passes), cls._grid(network, config.views.global_size)
        spec = config.method.masks
        again, compared = repeated(n, network)
        patches, masked = 2 * grid[0] * grid[1], 2 * grid[0] * grid[1] * sum(spec.ratios) / len(spec.ratios)
        return Work(
            passes,
            passes[:2],
            student_rows=n + masked,
            teacher_rows=2 + patches,
            student_scored=n + masked,
            teacher_scored=2 + patches + masked,
            repeated=again,
            compared=compared,
            masked=masked,
        )

    @classmethod
    def rehearse(cls, config: "Config", network: MultiCropNetwork, crops: list[Tensor]) -> None:
        """As many rows through the head as there are crops and, on average, masked patches."""
        features = network.features(crops)
        rows = math.ceil(len(crops[0]) * cls.work(config, network).masked)
        network.head.bottleneck(torch.cat([features.flatten(0, 1), features.new_empty(rows, features.shape[-1])]))

    @staticmethod
    def _grid(network: MultiCropNetwork, side: int) -> tuple[int, int]:
        """Patches of a square view; ConfigError for one without room for masks."""
        backbone: Any = network.backbone
        high, wide = backbone.patch_embed.patch_size
        grid = side // high, side // wide
        try:
            MaskSpec().check_grid(grid)
        except ValueError as error:
            raise ConfigError(f"views.global_size={side} with patches of {high} x {wide}: {error}") from None
        return grid

    def divide(self, crops: Sequence[Tensor], settings: StepSettings, indices: Tensor | None) -> list[Part]:
        """Draw the masks of the two views."""
        backbone: Any = self.student.backbone
        high, wide = backbone.patch_embed.patch_size
        grid = crops[0].shape[-2] // high, crops[0].shape[-1] // wide
        if settings.epoch < self.settings.start_epoch:
            masks = torch.zeros(2, len(crops[0]), *grid, dtype=torch.bool)
        else:
            assert indices is not None, "masks are drawn by the images' positions in the data set"
            spec, epoch = self.settings.masks, settings.epoch
            masks = torch.stack(
                [draw_masks(spec, grid, seed=self.seed, epoch=epoch, indices=indices, crop=crop) for crop in range(2)]
            )
        parts = divided(crops, settings.accumulation)
        pieces = masks.to(crops[0].device).chunk(len(parts), dim=1)
        return [Part(part[:2], (part, piece)) for part, piece in zip(parts, pieces, strict=True)]

    @torch.no_grad()
    def aim(self, parts: Sequence[Part], settings: StepSettings) -> Aim:
        """Targets of the views and of their masked patches."""
        tau, patch_tau = settings.teacher_temp, self.settings.teacher_temp(settings.epoch)
        with precision(parts[0].views, settings):
            seen = [self.teacher.embed_all(part.views) for part in parts]
        features, teacher_y = (torch.cat([piece[i] for piece in seen], dim=1) for i in range(2))
        patches = [piece[2] for piece in seen]
        logits = self.teacher.prototypes(teacher_y, tau)
        targets = self.centering.probabilities(logits, tau)
        if not settings.center_normalizer:
            logits = logits - self.teacher.prototypes.log_normalizers(tau)
        # The student is asked for the masked patches.
        masks = [part.inputs[1] for part in parts]
        asked = [y[mask.flatten(2)] for y, mask in zip(patches, masks, strict=True)]
        asked_y = torch.cat(asked)
        patch_targets = self.teacher.patch_prototypes(asked_y, patch_tau)
        if len(patch_targets):  # a batch may have no masks
            patch_targets = self.patch_centering.probabilities(patch_targets, patch_tau)
        centers = (
            self.centering.batch_center([logits], tau),
            self.patch_centering.batch_center(self._patch_logits(patches, patch_tau, settings), patch_tau),
        )
        shares = patch_targets.split([len(y) for y in asked])
        per_part = list(zip(targets.chunk(len(parts), dim=1), shares, masks, strict=True))
        return Aim(targets, features, teacher_y, per_part, centers, Patches(patch_targets, asked_y, patch_tau))

    def _patch_logits(self, patches: list[Tensor], tau: float, settings: StepSettings) -> Iterator[Tensor]:
        """The teacher's logits of all patches, some rows at a time."""
        prototypes = self.teacher.patch_prototypes
        for y in patches:
            for rows in y.flatten(0, -2).split(max(1, LOGITS // prototypes.out_dim)):
                logits = prototypes(rows, tau)
                yield logits if settings.center_normalizer else logits - prototypes.log_normalizers(tau)

    def terms(self, outputs: tuple[Any, ...], target: Any, settings: StepSettings) -> dict[str, tuple[float, Tensor]]:
        """The class tokens' cross-entropy over pairs of crops, and the masked patches' within a view."""
        (_, y, patch_y), (targets, patch_targets, masks) = outputs, target
        tau, own = settings.student_temp, self.settings
        of_patches = patch_loss(patch_y, self.student.patch_prototypes, tau, patch_targets, patch_weights(masks))
        return {
            "loss": (own.cls_weight, prototype_loss(y, self.student.prototypes, tau, targets)),
            "patch_loss": (own.patch_weight, of_patches),
        }

    def update(self, aim: Aim) -> None:
        """Move both centres."""
        self.centering.move(aim.centers[0])
        self.patch_centering.move(aim.centers[1])

    def prototypes(self) -> list[Prototypes]:
        """The head's, and the patches' own."""
        own = self.student.own_patch_prototypes
        return [self.student.prototypes] if own is None else [self.student.prototypes, own]

    def centerings(self) -> dict[str, nn.Module]:
        """Both centres."""
        return {"centering": self.centering, "patch_centering": self.patch_centering}
