"""A network to be judged: its backbone, its head where it has one, and how images come to it.

What was published and what this project saved goes through `vmflearn.weights`; any other network comes from timm.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from vmflearn.backbones.creation import create_backbone
from vmflearn.ssl.heads import DINOHead
from vmflearn.views.photometric import IMAGENET_MEAN, IMAGENET_STD
from vmflearn.weights.digest import digest
from vmflearn.weights.downloads import TIMM_NAMES
from vmflearn.weights.published import load_published
from vmflearn.weights.run_folders import newest_weights

TIMM = "timm:"
SIZE = 224
"""Side of the images that a network sees of which nothing tells it."""


@dataclass(frozen=True)
class Model:
    """A network and how images come to it.

    Attributes
    ----------
    backbone : nn.Module
        In evaluation mode; maps images (batch, 3, size, size) to (batch, num_features).
    head : DINOHead or None
    digest : str
        SHA-256 of all weights and of what else decides on the features, 64 hexadecimal digits: equal weights in another
        file have the same.
    described : str
        Where it comes from, for people.
    size : int
        Side of the images in pixels.
    resized : int
        Their shorter side before the central square is cut: 8/7 of `size`, as DINO evaluates, or what timm says.
    mean, std : tuple of float
        Of the three colours, in [0, 1].
    """

    backbone: nn.Module
    head: DINOHead | None
    digest: str
    described: str
    size: int = SIZE
    resized: int = round(SIZE * 8 / 7)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def at_size(self, size: int) -> "Model":
        """The same network for images of another size, resized in proportion."""
        if size < 1:
            raise ValueError(f"size must be positive, got {size}")
        return replace(self, size=size, resized=round(size * self.resized / self.size))


def load_model(
    checkpoint: str | Path, *, which: str = "teacher", num_heads: int | None = None, size: int | None = None
) -> Model:
    """Load what is to be judged.

    Parameters
    ----------
    checkpoint : str or path
        A run's folder (its newest checkpoint), a checkpoint or an exported backbone of a run, a published file of
        DINO, iBOT or MSN, or ``timm:NAME``, of which timm fetches the pretrained weights unless it has them.
    which, num_heads
        As for `load_published`.
    size : int, optional
        Side of the images; None: the one that a run was trained with, or the network's own.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If there is no such file or network, it is damaged, or tensors are missing, unexpected or mis-shaped (all are
        listed).
    """
    text = str(checkpoint)
    model = _from_timm(text.removeprefix(TIMM)) if text.startswith(TIMM) else _from_file(Path(text), which, num_heads)
    return model if size is None else model.at_size(size)


def _from_timm(name: str) -> Model:
    from timm.data import resolve_model_data_config

    rule = "dino" if name in TIMM_NAMES.values() else "timm"
    try:
        backbone = create_backbone(name, position_interpolation=rule, pretrained=True)
    except (OSError, RuntimeError) as error:  # timm: no such weights, or none for this network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"checkpoint={TIMM}{name}: its pretrained weights are not at hand and cannot be fetched ({reason}); fetch "
            "them where there is a network, or give a file"
        ) from None
    asked = resolve_model_data_config(backbone)
    size = asked["input_size"][-1]
    return Model(
        backbone.eval(),
        None,
        _digest(backbone, None, rule),
        f"{TIMM}{name}",
        size,
        int(size / asked["crop_pct"]),
        tuple(asked["mean"]),
        tuple(asked["std"]),
    )


def _from_file(path: Path, which: str, num_heads: int | None) -> Model:
    if not path.exists():
        raise ValueError(
            f"checkpoint={path}: there is no such file or folder; give a run's folder, a file of weights, or {TIMM}NAME"
        )
    path, content, _ = newest_weights(path)
    backbone, head = load_published(path, which, num_heads=num_heads)
    rule = str(getattr(backbone, "position_interpolation", "timm"))
    size = _trained_size(content) or _own_size(backbone)
    return Model(backbone, head, _digest(backbone, head, rule), f"{path} ({which})", size, round(size * 8 / 7))


def _digest(backbone: nn.Module, head: nn.Module | None, rule: str) -> str:
    options = getattr(backbone, "timm_options", {})
    weights = {"backbone": backbone.state_dict(), "head": None if head is None else head.state_dict()}
    return digest({**weights, "positions": rule, "kind": type(backbone).__name__, "options": repr(options)})


def _trained_size(content: dict[str, Any]) -> int | None:
    """The size of global crops of a run of this project."""
    config = content.get("config")
    views = config.get("views") if isinstance(config, dict) else None
    return views.get("global_size") if isinstance(views, dict) else None


def _own_size(backbone: nn.Module) -> int:
    """The size that a Vision Transformer's positions are for; that of ImageNet for another network."""
    embedding = cast(Any, getattr(backbone, "patch_embed", None))
    size = getattr(embedding, "img_size", None)
    return int(size[0]) if size else SIZE
