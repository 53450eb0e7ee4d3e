"""One image of each crop's size through a backbone, before anything else is done: what does not fit is said in a line.

Options of a network are timm's own and cannot all be checked by name; whether crops go through is what matters, and a
pass tells it. It draws no random number that the run would draw, and leaves the network as it was.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vmflearn.backbones.creation import evaluation_mode
from vmflearn.train.config import Config, ConfigError

CHANNELS = 3


def check_crops(config: Config, backbone: nn.Module) -> None:
    """Refuse a backbone that does not turn the crops of a configuration into vectors.

    Parameters
    ----------
    config : Config
    backbone : nn.Module
        On any device, "meta" too.

    Raises
    ------
    ConfigError
        Naming the crops' size, ``model.backbone`` and ``model.options``.
    """
    views, model = config.views, config.model
    if model.options.get("in_chans", CHANNELS) != CHANNELS:
        raise ConfigError(
            f"model.options: in_chans={model.options['in_chans']}, and crops have {CHANNELS} channels; leave it out"
        )
    sizes = {"views.global_size": views.global_size} | ({"views.local_size": views.local_size} if views.n_local else {})
    patch = _patch(backbone)
    for key, size in sizes.items():
        if size % patch:
            raise ConfigError(f"{key}={size} is not a multiple of the backbone's patch, {patch}")
    for key, size in sizes.items():
        told = f"{key}={size}: model.backbone={model.backbone} with model.options={model.options}"
        try:
            output = _pass(backbone, size)
        except Exception as error:  # timm's networks fail in any way whatever
            raise ConfigError(
                f"{told} does not take such crops ({reason(error)}); a network that takes images of one size alone "
                "needs views.global_size and views.local_size to be that"
            ) from None
        wanted = (1, backbone.num_features)
        if not isinstance(output, Tensor) or output.shape != wanted:
            given = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ConfigError(f"{told} gives {given} for an image, and not one vector, {wanted}")


def reason(error: Exception) -> str:
    """The first line of an error, with its kind unless it is one of ours; the kind alone where it says nothing."""
    lines, kind = str(error).strip().splitlines(), type(error).__name__
    if not lines:
        return kind
    return lines[0] if isinstance(error, ValueError) else f"{kind}: {lines[0]}"


def _pass(backbone: nn.Module, size: int) -> Any:
    first = next(backbone.parameters())
    image = torch.zeros(1, CHANNELS, size, size, dtype=first.dtype, device=first.device)
    devices = [first.device] if first.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluation_mode(backbone):
        return backbone(image)


def _patch(backbone: nn.Module) -> int:
    """Side of the patches that crops must fill; 1 for a network that cuts none, or fills them up itself."""
    from timm.layers import PatchEmbed

    embed: Any = getattr(backbone, "patch_embed", None)
    return int(max(embed.patch_size)) if isinstance(embed, PatchEmbed) and not embed.dynamic_img_pad else 1
