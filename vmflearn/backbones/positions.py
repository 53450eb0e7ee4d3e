"""Positional embeddings on another grid of patches, as the published code resizes them.

A learned table of H0 x W0 embeddings is resized to the image's h x w patches by bicubic interpolation without
antialiasing. DINO hands the interpolation the factors ((h + 0.1)/H0, (w + 0.1)/W0) in place of the size, and the
coordinates follow the factors: the result differs from that of a resize to (h, w), and weights trained with it expect
it. MSN resizes to (h, w). A table of the image's own grid stays untouched in both.
"""

import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor

OFFSETS = {"dino": 0.1, "msn": 0.0}
"""What is added to the grid's height and width before the factor is taken."""


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], offset: float) -> Tensor:
    """Bring a table of positional embeddings to another grid.

    Parameters
    ----------
    table : Tensor, (1, 1 + H0 W0, dim)
        The class token's embedding, then those of the patches, row by row.
    old, new : (int, int)
        The grids (H0, W0) and (h, w).
    offset : float
        0.1 as in DINO; 0 for a resize to the exact size.

    Returns
    -------
    Tensor, (1, 1 + h w, dim)
    """
    if old == new:
        return table
    first, patches = table[:, :1], table[:, 1:].unflatten(1, old).permute(0, 3, 1, 2)
    patches = patches.to(torch.promote_types(table.dtype, torch.float32))
    if offset:
        factors = [(after + offset) / before for before, after in zip(old, new, strict=True)]
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic", align_corners=False)
    else:
        patches = F.interpolate(patches, size=new, mode="bicubic", align_corners=False)
    return torch.cat([first, patches.flatten(2).mT.to(table.dtype)], dim=1)


class PublishedVisionTransformer(VisionTransformer):
    """timm's Vision Transformer, with the published code's treatment of other image sizes.

    `adopt` turns a transformer of timm's into one; the parameters and their names stay. Pixels beyond the last whole
    patch are left out.
    """

    position_offset: float

    @classmethod
    def adopt(cls, vit: VisionTransformer, rule: str) -> None:
        """Change the class of a transformer with a class token, in place.

        Raises
        ------
        ValueError
            If it is no plain Vision Transformer with learned positions of one class token and patches.
        """
        plain = type(vit) is VisionTransformer and vit.pos_embed is not None and vit.dynamic_img_size
        if not plain or vit.no_embed_class or vit.num_prefix_tokens != 1:
            raise ValueError(
                f"position_interpolation={rule!r} is for Vision Transformers of timm whose positional embeddings are "
                f"those of one class token and the patches, with dynamic_img_size; this {type(vit).__name__} is not "
                "such a one: use 'timm'"
            )
        vit.__class__ = cls
        vit.position_offset = OFFSETS[rule]

    def forward_features(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """All tokens after the final norm, (batch, 1 + h w, dim), class token first."""
        high, wide = self.patch_embed.patch_size
        height, width = x.shape[-2] // high * high, x.shape[-1] // wide * wide
        if not height or not width:
            raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} pixels hold no patch of {high} x {wide}")
        return super().forward_features(x[..., :height, :width], *args, **kwargs)

    def _pos_embed(self, x: Tensor) -> Tensor:  # x: patches (batch, h, w, dim)
        positions = resize_positions(
            self.pos_embed, self.patch_embed.grid_size, (x.shape[1], x.shape[2]), self.position_offset
        )
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], dim=1)
        return self.pos_drop(tokens + positions)
