"""Self-distillation with a von Mises-Fisher last layer: prototypes, heads, centring, losses, views and backbones.

Names are loaded when they are first used, so that ``import vmflearn.ssl`` pulls in neither timm nor torchvision.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmflearn.ssl.backbones import attention_maps, create_backbone
    from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
    from vmflearn.ssl.collapse import Finding, Monitor
    from vmflearn.ssl.diagnostics import effective_rank, teacher_statistics
    from vmflearn.ssl.downloads import fetch_published, published_names
    from vmflearn.ssl.fused_loss import prototype_loss
    from vmflearn.ssl.heads import DINOHead
    from vmflearn.ssl.koleo import koleo_loss
    from vmflearn.ssl.losses import dino_loss
    from vmflearn.ssl.methods import MultiCropNetwork
    from vmflearn.ssl.prototype_use import unique_prototypes, void_prototypes
    from vmflearn.ssl.prototypes import Prototypes
    from vmflearn.ssl.published import load_published
    from vmflearn.ssl.sinkhorn import SinkhornKnopp
    from vmflearn.ssl.transforms import MultiCropTransform
    from vmflearn.ssl.views import CropSpec, dino_crops, multi_crop

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
    "multi_crop",
    "prototype_loss",
    "published_names",
    "teacher_statistics",
    "unique_prototypes",
    "void_prototypes",
]

_MODULES = {
    "CropSpec": "views",
    "DINOHead": "heads",
    "Finding": "collapse",
    "LogitCentering": "centering",
    "Monitor": "collapse",
    "MultiCropNetwork": "methods",
    "MultiCropTransform": "transforms",
    "ProbabilityCentering": "centering",
    "Prototypes": "prototypes",
    "SinkhornKnopp": "sinkhorn",
    "koleo_loss": "koleo",
    "fetch_published": "downloads",
    "load_published": "published",
    "published_names": "downloads",
    "prototype_loss": "fused_loss",
    "attention_maps": "backbones",
    "create_backbone": "backbones",
    "dino_crops": "views",
    "dino_loss": "losses",
    "effective_rank": "diagnostics",
    "multi_crop": "views",
    "teacher_statistics": "diagnostics",
    "unique_prototypes": "prototype_use",
    "void_prototypes": "prototype_use",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
