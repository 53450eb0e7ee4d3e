"""Which network a set of published tensors belongs to, read off their shapes."""

import math
import re
from collections.abc import Callable, Collection, Mapping

from torch import Tensor, nn

from vmflearn.backbones.creation import create_backbone
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.prototypes import Prototypes

HEAD_DIM = 64
"""Width of one attention head in DINO's, iBOT's and MSN's Vision Transformers: shapes do not tell the number of heads,
and MoCo v3's ViT-S, say, has twice as many."""

RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("conv2", (2, 2, 2, 2)): "resnet18",
    ("conv2", (3, 4, 6, 3)): "resnet34",
    ("conv3", (3, 4, 6, 3)): "resnet50",
    ("conv3", (3, 4, 23, 3)): "resnet101",
    ("conv3", (3, 8, 36, 3)): "resnet152",
}
"""ResNets by the last convolution of a block and the number of blocks in each stage."""


def some(names: Collection[str], shown: int = 8) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(sorted(names)[:shown])
    return first + (f" and {len(names) - shown} more" if len(names) > shown else "")


def backbone_of(
    tensors: Mapping[str, Tensor], position_interpolation: str = "dino", num_heads: int | None = None
) -> nn.Module:
    """A fresh backbone with the architecture that the tensors have.

    Parameters
    ----------
    tensors : mapping
        By name, as in DINO's Vision Transformer and torchvision's ResNet (which are timm's names).
    position_interpolation : str
        For a Vision Transformer, see `create_backbone`.
    num_heads : int, optional
        Of a Vision Transformer; None: as many as make heads of `HEAD_DIM`.

    Raises
    ------
    ValueError
        If they belong to neither, a tensor that tells the architecture is missing or odd, or the width is no multiple
        of ``num_heads``.
    """
    if any(name.startswith("blocks.") for name in tensors):
        return _transformer_of(tensors, position_interpolation, num_heads)
    if any(name.startswith("layer1.") for name in tensors):
        if num_heads is not None:
            raise ValueError(f"num_heads={num_heads} is for Vision Transformers, and the file holds a ResNet")
        return _resnet_of(tensors)
    held = f"names such as {some(tensors)}" if tensors else "no tensors"
    raise ValueError(f"the backbone is neither a Vision Transformer nor a ResNet: the file holds {held}")


def _transformer_of(tensors: Mapping[str, Tensor], position_interpolation: str, num_heads: int | None) -> nn.Module:
    telling = {"pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}
    _require(tensors, telling)
    _, n_tokens, dim = tensors["pos_embed"].shape
    _, in_chans, _, patch_size = tensors["patch_embed.proj.weight"].shape
    side = math.isqrt(max(n_tokens - 1, 0))
    if side == 0 or side**2 != n_tokens - 1:
        raise ValueError(f"pos_embed has {n_tokens} rows; expected one for the class token and a square of patches")
    if num_heads is None and dim % HEAD_DIM:
        raise ValueError(
            f"pos_embed has width {dim}; published transformers have a multiple of {HEAD_DIM}: else say num_heads"
        )
    num_heads = dim // HEAD_DIM if num_heads is None else num_heads
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide the width {dim} of pos_embed")
    numbers = [int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))]
    return create_backbone(
        "vit_small_patch16_224",
        position_interpolation=position_interpolation,
        img_size=side * patch_size,
        patch_size=patch_size,
        in_chans=in_chans,
        embed_dim=dim,
        depth=len(set(numbers)),
        num_heads=num_heads,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim,
    )


def _resnet_of(tensors: Mapping[str, Tensor]) -> nn.Module:
    _require(tensors, {"conv1.weight": 4})
    pattern = re.compile(r"layer([1-4])\.(\d+)\.(conv\d)\.weight")
    found = [match for name in tensors if (match := pattern.fullmatch(name))]
    last = max((match[3] for match in found), default="")
    blocks = tuple(len({match[2] for match in found if match[1] == stage}) for stage in "1234")
    if (last, blocks) not in RESNETS:
        raise ValueError(
            f"the backbone looks like a ResNet with {blocks} blocks that end in {last or 'no convolution'}; known are "
            f"{', '.join(RESNETS.values())}"
        )
    return create_backbone(RESNETS[last, blocks], in_chans=tensors["conv1.weight"].shape[1])


def head_of(
    tensors: Mapping[str, Tensor], normalization: str, *, learn_magnitudes: bool, in_file: Callable[[str], str] = str
) -> DINOHead:
    """A fresh head with the sizes of the tensors.

    Parameters
    ----------
    tensors : mapping
        By name, as in `DINOHead`.
    normalization : str
        Score of a component, see `Prototypes`.
    learn_magnitudes : bool
        As in `DINOHead`.
    in_file : callable
        Gives the name by which the file calls a tensor, for messages.

    Raises
    ------
    ValueError
        If a tensor that tells the sizes is missing or odd.
    """
    _require(tensors, {"mlp.0.weight": 2, "prototypes.weight_v": 2}, "head", in_file)
    batch_norm = any(name.endswith(".running_mean") for name in tensors)
    last = max(int(found[1]) for name in tensors if (found := re.match(r"mlp\.(\d+)\.", name)))
    out_dim, bottleneck_dim = tensors["prototypes.weight_v"].shape
    hidden_dim, in_dim = tensors["mlp.0.weight"].shape
    return DINOHead(
        in_dim,
        out_dim,
        normalization,
        hidden_dim=hidden_dim,
        bottleneck_dim=bottleneck_dim,
        n_layers=math.ceil(last / (3 if batch_norm else 2)) + 1,  # linear, [batch norm], GELU; linear, ...; linear
        batch_norm=batch_norm,
        learn_magnitudes=learn_magnitudes,
    )


def prototypes_of(
    tensors: Mapping[str, Tensor], normalization: str, *, learn_magnitudes: bool, in_file: Callable[[str], str] = str
) -> Prototypes:
    """Fresh prototypes with the sizes of the tensors; parameters and errors are those of `head_of`."""
    _require(tensors, {"weight_v": 2}, "prototypes", in_file)
    out_dim, bottleneck_dim = tensors["weight_v"].shape
    return Prototypes(bottleneck_dim, out_dim, normalization, learn_magnitudes)


def _require(
    tensors: Mapping[str, Tensor],
    telling: Mapping[str, int],
    part: str = "backbone",
    in_file: Callable[[str], str] = str,
) -> None:
    """The tensors that tell the architecture are there, with so many dimensions, none of which is empty."""
    missing = [in_file(name) for name in telling if name not in tensors]
    if missing:
        raise ValueError(
            f"missing: {', '.join(missing)}, without which the architecture is not known; the file holds "
            f"{len(tensors)} tensors of the {part}: {some([in_file(name) for name in tensors])}"
        )
    for name, dimensions in telling.items():
        shape = tuple(tensors[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise ValueError(f"mis-shaped: {in_file(name)} is {shape}, expected {dimensions} dimensions, none empty")
