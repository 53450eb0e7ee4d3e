"""Settings of a network that its tensors do not tell: heads of attention, activations, the constants of norms, pooling.

Weights fit a network with another number of heads, name by name and shape by shape, and give other features.
"""

from collections.abc import Mapping
from typing import Any

from timm.layers import DropPath, PatchDropout
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import nn

from vmflearn.backbones.positions import PublishedVisionTransformer
from vmflearn.backbones.stochastic_depth import SubsetBlock

DROPS = (nn.modules.dropout._DropoutNd, DropPath, PatchDropout)
"""What leaves something out in training alone."""

SAME: Mapping[type, type] = {PublishedVisionTransformer: VisionTransformer, SubsetBlock: Block}
"""Layers that are others in training, or whose difference is a setting of its own."""

POSITIONS = "position_interpolation"
"""The one setting that changes nothing of images of the network's own size: how positions come to others."""

NO_MATTER = {"training", "fused_attn", "momentum", "grad_checkpointing", "dynamic_img_size", "strict_img_size"} | {
    "position_offset"  # POSITIONS tells it
}
"""Attributes that change nothing of the features of an image that both networks take."""


def untold_differences(theirs: nn.Module, ours: nn.Module) -> list[tuple[str, Any, Any]]:
    """In what two networks differ that no name and no shape of a tensor tells.

    Parameters
    ----------
    theirs, ours : nn.Module
        Networks whose state dicts fit each other.

    Returns
    -------
    list of (str, object, object)
        Such as ``("blocks.0.attn.num_heads", 6, 12)``: where, theirs and ours, "absent" where it is in one of them
        alone. Layers that differ in the same setting are named by the first of them. What leaves something out in
        training (dropout, stochastic depth) is not compared.
    """
    there, here = _settings(theirs), _settings(ours)
    found: dict[tuple[str, str, str], tuple[str, Any, Any]] = {}
    for name in {**there, **here}:
        old, new = there.get(name, "absent"), here.get(name, "absent")
        if old != new:
            found.setdefault((name.rpartition(".")[2], str(old), str(new)), (name, old, new))
    return list(found.values())


def _settings(network: nn.Module) -> dict[str, Any]:
    """Kinds of all layers, and their attributes that are plain values or functions."""
    settings: dict[str, Any] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, DROPS):
            continue
        if not isinstance(layer, nn.Identity):  # it may stand where the other network drops
            kind = SAME.get(type(layer), type(layer)).__name__
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # several processes: SyncBatchNorm
                kind = kind.removeprefix("Sync").removesuffix("2d")
            settings[name or "network"] = kind
        for key, value in vars(layer).items():
            if key.startswith("_") or key in NO_MATTER or "drop" in key:
                continue
            if callable(value):
                value = getattr(value, "__name__", None)
            if isinstance(value, bool | int | float | str | tuple):
                settings[f"{name}.{key}".removeprefix(".")] = value
    return settings
