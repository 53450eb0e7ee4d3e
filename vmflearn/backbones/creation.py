"""Backbones: networks that turn an image into one vector, the class token of a Vision Transformer.

They come from timm, under timm's names. What is added is what self-distillation needs: images of several sizes through
one network (DINO's local crops are smaller), and the attention of the class token, which fused kernels never write
down.
"""

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

POSITION_INTERPOLATIONS = ("timm", "dino", "msn")
LOADING = ("pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay")
"""timm's options that say where weights come from, and nothing of the network they go into."""


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
        with antialiasing; "dino" and "msn" do what the published code does (see `vmflearn.backbones.positions`), so
        that published weights give the published features at every size.
    **timm_kwargs
        Passed on to ``timm.create_model``, such as ``img_size=32, patch_size=4, depth=4, in_chans=1``.

    Returns
    -------
    nn.Module
        Maps images (batch, in_chans, height, width) to (batch, num_features): for a Vision Transformer the class token
        after the final norm, which ``forward_features(images)`` gives first, before the patches' tokens. Its attribute
        `num_features` is the width. A Vision Transformer takes images of any height and width that are multiples of
        its patch size; with "dino" and "msn" any others too, and leaves out what is beyond the last whole patch. Of the
        other networks convolutional ones take images of any size, and some (BEiT, CaiT, MaxViT, ...) only their own.
        Its attribute `timm_options` holds the options of which ``timm.create_model`` makes the same network.

    Raises
    ------
    ValueError
        If timm knows no such network, ``checkpoint_path`` is no file, the network gives no single vector, the Vision
        Transformer gives no class token, a rate of stochastic depth is given and the network has none, or
        ``position_interpolation`` is unknown or not for this network. What timm itself raises for options that do not
        fit comes through.
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
    weights = timm_kwargs.get("checkpoint_path")
    if weights and not Path(str(weights)).is_file():  # timm's own error says nothing
        raise ValueError(f"checkpoint_path={weights}: there is no such file")
    backbone = _create(name, drop_path_rate, timm_kwargs)
    if isinstance(backbone, VisionTransformer) and backbone.global_pool != "token":
        raise ValueError(
            f"the backbone {name!r} pools its tokens by {backbone.global_pool!r} and gives no class token; "
            "pass global_pool='token' if it has one, or choose another"
        )
    # What the network's last layers make of its features (MobileNetV3's 288 become 1,024) is what comes out.
    width = getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features", None)
    if not isinstance(width, int):
        raise ValueError(f"the backbone {name!r}, a {type(backbone).__name__}, gives no single vector of features")
    backbone.num_features = cast(Any, width)
    backbone.position_interpolation = cast(Any, position_interpolation)
    if position_interpolation != "timm":
        from vmflearn.backbones.positions import PublishedVisionTransformer

        PublishedVisionTransformer.adopt(backbone, position_interpolation)
    return backbone


def _create(name: str, drop_path_rate: float, options: dict[str, Any]) -> nn.Module:
    """A network of timm's without classifier, that takes images of several sizes where it has an option for that.

    A network's constructor refuses an option that it does not know before it has drawn any number.
    """
    import timm

    wanted = {"dynamic_img_size": True, "drop_path_rate": drop_path_rate}
    while True:
        extra = {key: value for key, value in wanted.items() if key not in options}
        try:
            backbone = timm.create_model(name, num_classes=0, **extra, **options)
        except TypeError as error:
            refused = next(
                (key for key in extra if "unexpected keyword" in str(error) and f"'{key}'" in str(error)), None
            )
            if refused is None:
                raise
            if refused == "drop_path_rate" and drop_path_rate:
                raise ValueError(
                    f"the backbone {name!r} has no stochastic depth: set its rate, model.drop_path of a run, to 0"
                ) from None
            del wanted[refused]
            if refused == "dynamic_img_size":
                wanted["strict_img_size"] = False  # what older Swin Transformers call it
        else:
            known = {**extra, **options}
            backbone.timm_options = {k: v for k, v in known.items() if k not in (*LOADING, "drop_path_rate")}
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
    blocks: list[Any] = list(cast(Any, getattr(backbone, "blocks", ())))
    parts = ("norm1", "attn", "norm2", "mlp")
    if not blocks or not all(isinstance(getattr(block, part, None), nn.Module) for block in blocks for part in parts):
        raise ValueError(f"only the blocks of Vision Transformers are compiled, got {type(backbone).__name__}")
    for block in blocks:
        for part in parts:
            getattr(block, part).compile(dynamic=False)


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
        If the backbone is no Vision Transformer with a class token, or its last block attends in another way (its
        MLP beside it, a difference of two attentions, ...).
    """
    from timm.models import VisionTransformer
    from timm.models.vision_transformer import Attention

    if not (isinstance(backbone, VisionTransformer) and backbone.cls_token is not None):
        raise ValueError(f"attention maps need a Vision Transformer with a class token, got {type(backbone).__name__}")
    vit = cast(Any, backbone)
    attention: Any = getattr(vit.blocks[-1], "attn", None)
    if type(attention) is not Attention:
        raise ValueError(
            f"attention maps are written for timm's plain attention; the last block of this {type(vit).__name__}, a "
            f"{type(vit.blocks[-1]).__name__}, attends in another way"
        )
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
    grid = vit.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
    return weights[:, :, 0, vit.num_prefix_tokens :].unflatten(-1, grid)
