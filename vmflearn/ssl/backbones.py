"""Backbones: networks that turn an image into one vector, the class token of a Vision Transformer.

They come from timm, under timm's names. What is added is what self-distillation needs: images of several sizes through
one network (DINO's local crops are smaller), and the attention of the class token, which fused kernels never write
down.
"""

import contextlib
import difflib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

POSITION_INTERPOLATIONS = ("timm", "dino", "msn")


def create_backbone(
    name: str, *, drop_path_rate: float = 0.0, position_interpolation: str = "timm", **timm_kwargs: object
) -> nn.Module:
    """Create a backbone by its timm name.

    Parameters
    ----------
    name
        Such as "vit_small_patch16_224"; other networks than Vision Transformers give their pooled features.
    drop_path_rate
        Stochastic depth of the last block; it falls linearly to 0 at the first.
    position_interpolation
        How a Vision Transformer's positional embeddings come to the grid of another image size: "timm" resizes them
        with antialiasing; "dino" and "msn" do what the published code does (see `vmflearn.ssl.positions`), so that
        published weights give the published features at every size.
    **timm_kwargs
        Passed on to ``timm.create_model``, such as ``img_size=32, patch_size=4, depth=4, in_chans=1``.

    Returns
    -------
    nn.Module
        Maps images (batch, in_chans, height, width) to (batch, num_features): for a Vision Transformer the class token
        after the final norm, which ``forward_features(images)`` gives first, before the patches' tokens. Its attribute
        `num_features` is the width. A Vision Transformer takes images of any height and width that are multiples of
        its patch size; with "dino" and "msn" any others too, and leaves out what is beyond the last whole patch.

    Raises
    ------
    ValueError
        If timm knows no such network, the Vision Transformer gives no class token, or ``position_interpolation`` is
        unknown or not for this network.
    """
    if position_interpolation not in POSITION_INTERPOLATIONS:
        raise ValueError(
            f"position_interpolation must be one of {', '.join(POSITION_INTERPOLATIONS)}, got "
            f"{position_interpolation!r}"
        )
    import timm
    from timm.models import VisionTransformer

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists the names"
        raise ValueError(f"timm has no backbone named {name!r}: {hint}")
    if timm.models.model_entrypoint(name).__module__ == VisionTransformer.__module__:
        timm_kwargs = {"dynamic_img_size": True} | timm_kwargs
    backbone = timm.create_model(name, num_classes=0, drop_path_rate=drop_path_rate, **timm_kwargs)
    if isinstance(backbone, VisionTransformer) and backbone.global_pool != "token":
        raise ValueError(
            f"the backbone {name!r} pools its tokens by {backbone.global_pool!r} and gives no class token; "
            "pass global_pool='token' if it has one, or choose another"
        )
    if position_interpolation != "timm":
        from vmflearn.ssl.positions import PublishedVisionTransformer

        PublishedVisionTransformer.adopt(backbone, position_interpolation)
    return backbone


def compile_blocks(backbone: nn.Module) -> None:
    """Let torch compile attention, MLP and norms of a Vision Transformer's blocks, in place; the state dict stays.

    Not the blocks themselves: stochastic depth has another rate in each of them, every rate would be a program of its
    own, and torch gives up after eight. This way all blocks share one program for each resolution.

    Raises
    ------
    ValueError
        If the backbone is no Vision Transformer.
    """
    blocks = getattr(backbone, "blocks", None)
    if blocks is None:
        raise ValueError(f"only the blocks of Vision Transformers are compiled, got {type(backbone).__name__}")
    for block in cast(Any, blocks):
        for part in (block.norm1, block.attn, block.norm2, block.mlp):
            part.compile(dynamic=False)


def attend_with_matrix(backbone: nn.Module) -> None:
    """Let attention write its matrix down, in place of PyTorch's fused kernel: the same values.

    In bfloat16 on a processor the fused kernel's backward pass takes a quarter of a training step, which is faster
    without it; in float32 the fused kernel is the faster one there (benchmarks/results/pretrain.md). On GPUs the two
    have not been compared.
    """
    for part in backbone.modules():
        if hasattr(part, "fused_attn"):
            cast(Any, part).fused_attn = False


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within the block the module is in evaluation mode and no gradient is kept; then every part is as it was.

    Parameters
    ----------
    module
        The module; its parts may be in different modes.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def attention_maps(backbone: nn.Module, images: Tensor) -> Tensor:
    """What the class token looks at in the last block of a Vision Transformer.

    Parameters
    ----------
    backbone
        A Vision Transformer of `create_backbone`.
    images
        (batch, 3, height, width), normalised.

    Returns
    -------
    Tensor
        (batch, heads, h, w) attention weights softmax(q k^T / sqrt(head_dim)) of the class token on the grid of
        patches, not negative. With the weights on the tokens that are no patches they sum to one.

    Raises
    ------
    ValueError
        If the backbone is no Vision Transformer with a class token.
    """
    if not (hasattr(backbone, "blocks") and getattr(backbone, "cls_token", None) is not None):
        raise ValueError(f"attention maps need a Vision Transformer with a class token, got {type(backbone).__name__}")
    vit = cast(Any, backbone)
    attention = vit.blocks[-1].attn
    seen: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with evaluation_mode(backbone):
            backbone(images)
            (tokens,) = seen  # (batch, n, dim), the input of the last attention
            batch, n, _ = tokens.shape
            qkv = attention.qkv(tokens).reshape(batch, n, 3, attention.num_heads, attention.head_dim)
            query, key, _ = qkv.permute(2, 0, 3, 1, 4)
            query, key = attention.q_norm(query)[:, :, :1], attention.k_norm(key)
            weights = (attention.scale * query @ key.mT).softmax(dim=-1)  # (batch, heads, 1, n)
    finally:
        hook.remove()
    height, width = (side // patch for side, patch in zip(images.shape[-2:], vit.patch_embed.patch_size, strict=True))
    return weights[:, :, 0, vit.num_prefix_tokens :].unflatten(-1, (height, width))
