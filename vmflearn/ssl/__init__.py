"""Self-distillation with a von Mises-Fisher last layer: prototypes, heads, centring and losses.

The names that such a training loop needs of its neighbours (views, backbones, weights, monitor) can be had here too.

Names are loaded when they are first used, so that ``import vmflearn.ssl`` pulls in neither timm nor torchvision.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmflearn.backbones.creation import attention_maps, create_backbone
    from vmflearn.monitor.collapse import Finding, Monitor
    from vmflearn.monitor.prototype_use import unique_prototypes, void_prototypes
    from vmflearn.monitor.statistics import effective_rank, teacher_statistics
    from vmflearn.ssl.anchor_loss import msn_loss
    from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
    from vmflearn.ssl.fused_loss import prototype_loss
    from vmflearn.ssl.heads import DINOHead
    from vmflearn.ssl.koleo import koleo_loss
    from vmflearn.ssl.losses import dino_loss
    from vmflearn.ssl.network import MultiCropNetwork
    from vmflearn.ssl.prototypes import Prototypes
    from vmflearn.ssl.row_loss import patch_loss
    from vmflearn.ssl.sinkhorn import SinkhornKnopp
    from vmflearn.views.batched import CropSpec, dino_crops, multi_crop
    from vmflearn.views.per_image import MultiCropTransform
    from vmflearn.weights.downloads import fetch_published, published_names
    from vmflearn.weights.published import load_published

__all__ = [
    "CropSpec",
    "DINOHead",
    "Finding",
    "LogitCentering",
    "Monitor",
    "MultiCropNetwork",
    "MultiCropTransform",
    "ProbabilityCentering",
    "Prototypes",
    "SinkhornKnopp",
    "attention_maps",
    "create_backbone",
    "dino_crops",
    "dino_loss",
    "effective_rank",
    "fetch_published",
    "koleo_loss",
    "load_published",
    "msn_loss",
    "multi_crop",
    "patch_loss",
    "prototype_loss",
    "published_names",
    "teacher_statistics",
    "unique_prototypes",
    "void_prototypes",
]

_MODULES = {
    "msn_loss": "vmflearn.ssl.anchor_loss",
    "patch_loss": "vmflearn.ssl.row_loss",
    "CropSpec": "vmflearn.views.batched",
    "DINOHead": "vmflearn.ssl.heads",
    "Finding": "vmflearn.monitor.collapse",
    "LogitCentering": "vmflearn.ssl.centering",
    "Monitor": "vmflearn.monitor.collapse",
    "MultiCropNetwork": "vmflearn.ssl.network",
    "MultiCropTransform": "vmflearn.views.per_image",
    "ProbabilityCentering": "vmflearn.ssl.centering",
    "Prototypes": "vmflearn.ssl.prototypes",
    "SinkhornKnopp": "vmflearn.ssl.sinkhorn",
    "koleo_loss": "vmflearn.ssl.koleo",
    "fetch_published": "vmflearn.weights.downloads",
    "load_published": "vmflearn.weights.published",
    "published_names": "vmflearn.weights.downloads",
    "prototype_loss": "vmflearn.ssl.fused_loss",
    "attention_maps": "vmflearn.backbones.creation",
    "create_backbone": "vmflearn.backbones.creation",
    "dino_crops": "vmflearn.views.batched",
    "dino_loss": "vmflearn.ssl.losses",
    "effective_rank": "vmflearn.monitor.statistics",
    "multi_crop": "vmflearn.views.batched",
    "teacher_statistics": "vmflearn.monitor.statistics",
    "unique_prototypes": "vmflearn.monitor.prototype_use",
    "void_prototypes": "vmflearn.monitor.prototype_use",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
