"""All tokens of a Vision Transformer, with patches covered by a mask token (iBOT) or left out (MSN).

iBOT:  x_i <- token where patch i is masked, after the patch embedding and before class token and positions
MSN:   x <- (x_class, x_i for i kept), after the positions: the blocks never see the others
"""

from typing import Any, cast

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn


def check_tokens(backbone: nn.Module) -> None:
    """Refuse a backbone whose tokens are not those of a class and of patches.

    Raises
    ------
    ValueError
        If it is no Vision Transformer with learned positions, a class token and patches.
    """
    plain = isinstance(backbone, VisionTransformer) and backbone.has_class_token and backbone.pos_embed is not None
    if not plain:
        raise ValueError(
            f"patch tokens need a Vision Transformer of timm with a class token, not {type(backbone).__name__}: "
            "choose a backbone such as vit_small_patch16_224, or the method dino"
        )


def token_features(
    backbone: nn.Module,
    images: Tensor,
    *,
    masks: Tensor | None = None,
    mask_token: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Tokens after the final norm, class token first.

    Parameters
    ----------
    backbone : nn.Module
        A Vision Transformer of `create_backbone`.
    images : Tensor, (batch, 3, height, width)
    masks : Tensor, (batch, h, w) bool, optional
        Patches whose embedding is replaced by `mask_token`.
    mask_token : Tensor, (1, dim)
        Learned; it gets a gradient (of zeros) where nothing is masked too.
    kept : Tensor, (1 or batch, n) int64, optional
        Positions of the patches that are computed on, see `draw_kept`.

    Returns
    -------
    Tensor, (batch, prefix + patches, dim)
        ``prefix`` is 1 but for networks with registers, whose tokens follow the class token. Without masks and
        ``kept`` equal to ``backbone.forward_features(images)``.

    Raises
    ------
    ValueError
        If the masks are not of the images' grid of patches.
    """
    vit = cast(Any, backbone)
    high, wide = vit.patch_embed.patch_size
    grid = images.shape[-2] // high, images.shape[-1] // wide
    x = vit.patch_embed(images[..., : grid[0] * high, : grid[1] * wide])  # (batch, h, w, dim) or (batch, h w, dim)
    if masks is not None:
        if masks.shape != (len(images), *grid):
            raise ValueError(
                f"masks must have shape {(len(images), *grid)}, the grid of patches, got {(*masks.shape,)}"
            )
        assert mask_token is not None
        x = torch.where(masks.reshape(*x.shape[:-1], 1), mask_token.to(x.dtype), x)
    x = vit._pos_embed(x)
    if kept is not None:
        prefix = vit.num_prefix_tokens
        rows = kept.to(x.device).expand(len(x), -1)
        patches = x[:, prefix:].gather(1, rows[:, :, None].expand(-1, -1, x.shape[-1]))
        x = torch.cat([x[:, :prefix], patches], dim=1)
    features: Tensor = vit.norm(vit.blocks(vit.norm_pre(x)))
    return features


def block_tokens(backbone: nn.Module, images: Tensor, n: int, *, norm: bool = True) -> tuple[list[Tensor], int]:
    """Tokens of the last blocks, as DINO's ``get_intermediate_layers`` gives them.

    Parameters
    ----------
    backbone : nn.Module
        A Vision Transformer of `create_backbone`.
    images : Tensor, (batch, 3, height, width)
    n : int
        Number of blocks, at most all of them.
    norm : bool
        Whether each goes through the final norm.

    Returns
    -------
    tokens : list of Tensor, (batch, prefix + patches, dim)
        Of the n last blocks in their order.
    prefix : int
        Tokens that are no patches; the class token is the first of them.

    Raises
    ------
    ValueError
        If the backbone is no Vision Transformer with a class token, or has fewer blocks.
    """
    check_tokens(backbone)
    vit = cast(Any, backbone)
    if not 1 <= n <= len(vit.blocks):
        raise ValueError(f"the network has {len(vit.blocks)} blocks, and the last {n} of them were asked for")
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, output: found.append(output)) for block in vit.blocks[-n:]]
    try:
        vit.forward_features(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [vit.norm(tokens) if norm else tokens for tokens in found], vit.num_prefix_tokens
