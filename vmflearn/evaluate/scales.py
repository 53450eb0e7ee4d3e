"""Features of one image at several scales, for retrieval: the same scene is seldom photographed from one distance."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vmflearn.backbones.creation import evaluation_mode

SCALES = (1.0, 2**-0.5, 0.5)
"""Those of DINO's retrieval."""


def scale_features(backbone: nn.Module, images: Tensor, scales: Sequence[float] = SCALES) -> Tensor:
    """Unit mean of the features of images at several scales (bilinear).

    Parameters
    ----------
    backbone
        Maps (batch, 3, height, width) to (batch, d); on the images' device.
    images
        (batch, 3, height, width), normalised. Where the backbone has patches, pixels beyond the last whole patch are
        left out at each scale, as in the published code.
    scales
        Factors of height and width, in (0, 1].

    Returns
    -------
    Tensor
        (batch, d) float32; every row has length 1.

    Raises
    ------
    ValueError
        If an image holds no whole patch at a scale.
    """
    patching: Any = getattr(backbone, "patch_embed", None)
    high, wide = getattr(patching, "patch_size", (1, 1))
    total = torch.zeros((), device=images.device)
    with evaluation_mode(backbone):
        for scale in scales:
            seen = images if scale == 1 else F.interpolate(images, scale_factor=scale, mode="bilinear")
            height, width = seen.shape[-2] // high * high, seen.shape[-1] // wide * wide
            if not height or not width:
                raise ValueError(
                    f"an image of {images.shape[-2]} x {images.shape[-1]} pixels holds no patch of {high} x {wide} at "
                    f"scale {scale:.3g}: give it a greater size, or fewer scales"
                )
            total = total + backbone(seen[..., :height, :width]).float()
    return F.normalize(total, dim=1)
