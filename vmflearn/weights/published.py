"""Published weights: DINO's, iBOT's and MSN's files, and this project's own, into a backbone and a head.

`load_published` gives these two, which is what features and clusters are made of; `load_whole` also what only training
needs: iBOT's token for masked patches, the prototypes that score its patches, and the centres.

Every tensor of the network must be in the file, with its shape, and every tensor of the file must have a place:
otherwise nothing is loaded, and the error lists the names. What shapes do not tell, the number of attention heads, is
said by the file, by whoever loads it, or assumed with a warning.
"""

import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmflearn.backbones.creation import LOADING, create_backbone
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.prototypes import NORMALIZATIONS, Prototypes
from vmflearn.weights.architectures import HEAD_DIM, backbone_of, head_of, prototypes_of, some
from vmflearn.weights.downloads import FOLDERS
from vmflearn.weights.reading import read_weights

# How a file's names of the head begin, and how they begin here; the first that fits holds.
DINO_HEAD = {"head.last_layer.": "prototypes.", "head.": ""}
DINO_PATCHES = {"head.last_layer2.": ""}
OWN_HEAD = {"head.": ""}
OWN_PATCHES = {"own_patch_prototypes.": ""}
MSN_HEAD = {
    "fc.fc1.": "mlp.0.",
    "fc.bn1.": "mlp.1.",
    "fc.fc2.": "mlp.3.",
    "fc.bn2.": "mlp.4.",
    "fc.fc3.": "mlp.6.",
    "prototypes": "prototypes.weight_v",
}
SPELLINGS = {
    **{
        f"head.{layer}.parametrizations.weight.original{i}": f"head.{layer}.weight_{kind}"
        for layer in ("last_layer", "last_layer2")
        for i, kind in enumerate("gv")
    },
    "head.mlp.weight": "head.mlp.0.weight",  # a head of one layer
    "head.mlp.bias": "head.mlp.0.bias",
}
"""Other names of the same tensors: of a newer PyTorch's weight norm, and of an MLP that is a single layer."""


MASK_TOKEN = "masked_embed"
"""iBOT's name of what stands for masked patches."""

WRAPPERS = ("state_dict", "model")
"""Under what a state dict lies in files that hold more than one thing."""

ARCHITECTURES = re.compile(r"(vit|deit)_(tiny|small|base|large)")
"""Transformers of DINO's and iBOT's code as their files name them, all with heads of 64."""


def load_published(
    path: str | PathLike[str],
    which: str = "teacher",
    normalization: str | None = None,
    *,
    num_heads: int | None = None,
) -> tuple[nn.Module, DINOHead | None]:
    """Load a published or an own checkpoint.

    ====================  ===========================================================  =====================
    file                  recognised by                                                gives
    ====================  ===========================================================  =====================
    DINO, full            ``student``, ``teacher``                                     backbone, head
    iBOT, full            the same; its ``masked_embed`` and the second last layer     backbone, head
                          (the patches') are checked, and given by `load_whole`
    MSN                   ``encoder`` (student), ``target_encoder``, ``prototypes``    backbone, head
    backbone alone        a flat dict of tensors, or one below ``state_dict`` or       backbone, None
                          ``model``
    of this project       ``student``, ``teacher`` and ``config``                      backbone, head
    exported backbone     ``*.safetensors`` with a ``*.json`` of the same name, or     backbone, None
                          with timm's ``config.json``
    ====================  ===========================================================  =====================

    Parameters
    ----------
    path : path
        The file. Nothing in it is run, and of its tensors only those asked for are read into memory.
    which : {"teacher", "student"}
        The network to take from a file that holds both. A backbone alone is what it is.
    normalization : {"none", "l2", "vmf"}, optional
        Score of the head's components, see `Prototypes`. None: "none" for DINO and iBOT, "l2" for MSN, and for an own
        run the one it was trained with. Files of DINO's form do not tell: say "vmf" where the normaliser was used.
    num_heads : int, optional
        Of a Vision Transformer whose file does not tell. None: as many as make heads of 64, as in all published files;
        a warning says so where the file may be another's.

    Returns
    -------
    backbone : nn.Module
        In evaluation mode, in float32 (float64 if the file is). The architecture is read off the tensors' shapes, or
        from an own file's configuration. A Vision Transformer's ``forward_features(images)`` gives all tokens after
        the final norm, class token first, and resizes positional embeddings as the published code does.
    head : DINOHead or None
        With the published prototypes, magnitudes included (MSN has none: ones).

    Raises
    ------
    ValueError
        If the file is missing, no file of weights, or asks to run anything; if a tensor is missing, unexpected,
        mis-shaped or of another kind of number (all are listed); if the architecture is not known, or has not
        ``num_heads``.

    Warns
    -----
    UserWarning
        If nothing tells the number of attention heads.
    """
    whole = _load(path, which, normalization, num_heads)
    return whole.backbone, whole.head


@dataclass(frozen=True)
class Published:
    """All that a file tells of one of its networks, and of its centres.

    Attributes
    ----------
    backbone : nn.Module
    head : DINOHead or None
    patch_prototypes : Prototypes or None
        What scores the patches in iBOT: those of ``head`` themselves where the file has them shared, which published
        files tell by holding equal tensors twice.
    mask_token : Tensor, (1, features), or None
        iBOT's, in place of masked patches; a published file has it for the student alone.
    centers : dict of Tensor
        The running centres, flat: ``centering`` that of the class tokens, ``patch_centering`` that of iBOT's patches.
    centering : str
        The space they are in, "logit" or "probability"; files of DINO's form have the first.
    method : str or None
        "dino", "ibot" or "msn"; None for a backbone alone.
    """

    backbone: nn.Module
    head: DINOHead | None
    patch_prototypes: Prototypes | None
    mask_token: Tensor | None
    centers: dict[str, Tensor]
    centering: str
    method: str | None

    @property
    def shared(self) -> bool:
        """Whether one set of prototypes scores class tokens and patches."""
        return self.head is not None and self.patch_prototypes is self.head.prototypes


def load_whole(
    path: str | PathLike[str],
    which: str = "teacher",
    normalization: str | None = None,
    *,
    num_heads: int | None = None,
) -> Published:
    """Load all that a checkpoint tells of a network, the centres included.

    Parameters, errors and warnings are those of `load_published`. A part that the file has and that fits no network is
    an error there too: a token of another width than the features, patch prototypes of another sphere than the head's.

    Returns
    -------
    Published
    """
    return _load(path, which, normalization, num_heads)


def _load(path: str | PathLike[str], which: str, normalization: str | None, num_heads: int | None) -> Published:
    if which not in ("teacher", "student"):
        raise ValueError(f"which must be 'teacher' or 'student', got {which!r}")
    if normalization not in (None, *NORMALIZATIONS):
        raise ValueError(f"normalization must be None or one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    path = Path(path)
    content = read_weights(path)
    try:
        told = tells_heads(path, content)
        heads = None if told else num_heads
        if path.suffix == ".safetensors":
            parts = {"backbone": _Part(_own_backbone(_description(path)), content)}
        elif isinstance(content.get("config"), dict):
            parts = _own_parts(content, which, normalization)
        elif "encoder" in content or "target_encoder" in content:
            parts = _msn_parts(content, which, normalization)
        else:
            parts = _dino_parts(content, which, normalization, heads)
        backbone, head, patch_prototypes = _assemble(parts)
        token = _mask_token(content, which, backbone)
        found = heads_of(backbone)
        if num_heads not in (None, found):
            raise ValueError(f"num_heads={num_heads}, and the file's network has {found or 'none'}")
    except ValueError as error:
        raise ValueError(f"path={path}: {error}") from None
    if not told and found is not None and num_heads is None:
        warnings.warn(
            f"path={path} does not tell the number of attention heads: {found} heads of {HEAD_DIM} were taken, as in "
            f"published files; say num_heads={found}, or what it is",
            stacklevel=3,
        )
    if patch_prototypes is None and head is not None and _scores_patches(content):
        patch_prototypes = head.prototypes
    centers, space = _centers(content)
    return Published(backbone, head, patch_prototypes, token, centers, space, method_of(content))


def heads_of(backbone: nn.Module) -> int | None:
    """Attention heads of a Vision Transformer; None for another network."""
    blocks: Any = getattr(backbone, "blocks", None)
    return getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None


def tells_settings(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file holds the settings of its network, or has them beside it: a run's, and an exported backbone."""
    return path.suffix == ".safetensors" or isinstance(content.get("config"), dict)


def tells_heads(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file tells its number of attention heads, by settings or by whose it is."""
    if tells_settings(path, content) or "encoder" in content or "target_encoder" in content:
        return True
    if "student" in content or "teacher" in content:
        return bool(ARCHITECTURES.fullmatch(str(getattr(content.get("args"), "arch", ""))))
    return path.name in {f"{folder}.pth" for folder in FOLDERS.values()}


@dataclass
class _Part:
    """A backbone or a head: how to build it, and its tensors under this project's names."""

    build: Callable[[], nn.Module]
    tensors: dict[str, Tensor]
    names: Mapping[str, str] = field(default_factory=dict)

    def in_file(self, name: str) -> str:
        """The name by which the file calls a tensor."""
        for theirs, ours in self.names.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name

    def problems(self, module: nn.Module) -> list[str]:
        """What keeps the tensors from filling the module exactly."""
        wanted = module.state_dict()
        lines = {
            "missing": [self.in_file(name) for name in wanted if name not in self.tensors],
            "unexpected": [self.in_file(name) for name in self.tensors if name not in wanted],
            "mis-shaped": [
                f"{self.in_file(name)} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
                for name, tensor in self.tensors.items()
                if name in wanted and tensor.shape != wanted[name].shape
            ],
            "of another kind": [
                f"{self.in_file(name)} {tensor.dtype} instead of {wanted[name].dtype}"
                for name, tensor in self.tensors.items()
                if name in wanted and tensor.is_floating_point() != wanted[name].is_floating_point()
            ],
        }
        return [f"{kind}: {some(names)}" for kind, names in lines.items() if names]


def _assemble(parts: Mapping[str, _Part]) -> tuple[nn.Module, DINOHead | None, Prototypes | None]:
    """Build the modules and fill them, or say everything that is wrong at once."""
    modules: dict[str, Any] = {}
    problems = []
    for name, part in parts.items():
        try:
            module = part.build()
        except (TypeError, ValueError) as error:
            problems.append(str(error))
        else:
            problems += part.problems(module)
            modules[name] = module
    backbone, head, patches = (modules.get(name) for name in ("backbone", "head", "patches"))
    if head is not None and backbone is not None and head.in_dim != backbone.num_features:
        problems.append(f"mis-shaped: the head takes {head.in_dim} features, the backbone has {backbone.num_features}")
    if head is not None and patches is not None and head.prototypes.bottleneck_dim != patches.bottleneck_dim:
        problems.append(
            f"mis-shaped: the patches' prototypes have {patches.bottleneck_dim} dimensions, those of the class tokens "
            f"{head.prototypes.bottleneck_dim}"
        )
    if problems or backbone is None:
        raise ValueError(f"the file does not fit and nothing was loaded. {'; '.join(problems)}")
    for name, module in modules.items():
        dtypes = {tensor.dtype for tensor in parts[name].tensors.values()}
        module.to(torch.float64 if torch.float64 in dtypes else torch.float32)
        module.load_state_dict(parts[name].tensors)
        module.eval()
    return backbone, head, patches


def _dino_parts(
    content: Mapping[str, Any], which: str, normalization: str | None, num_heads: int | None
) -> dict[str, _Part]:
    """DINO and iBOT, whole or the backbone alone."""
    if "student" in content or "teacher" in content:
        state = _network(content, which)
    else:
        state = next((content[key] for key in WRAPPERS if key in content), content)
    backbone, head = _split(state, "head.")
    backbone.pop(MASK_TOKEN, None)
    for layer in ("head.last_layer", "head.last_layer2"):
        if f"{layer}.weight" in head and f"{layer}.weight_g" not in head:  # without weight norm: g v/|v| = w
            weight = head.pop(f"{layer}.weight")
            dtype = torch.promote_types(weight.dtype, torch.float32)
            lengths = torch.linalg.vector_norm(weight, dim=-1, keepdim=True, dtype=dtype)
            head |= {f"{layer}.weight_v": weight, f"{layer}.weight_g": lengths}
    patches = {name: head.pop(name) for name in list(head) if name.startswith("head.last_layer2.")}
    parts = {"backbone": _Part(lambda: backbone_of(backbone, "dino", num_heads), backbone)}
    learned = not getattr(content.get("args"), "norm_last_layer", False)
    if head:
        parts["head"] = _head(head, DINO_HEAD, normalization or "none", learned)
    if not all(_equal(head.get(name.replace("last_layer2", "last_layer")), p) for name, p in patches.items()):
        parts["patches"] = _prototypes(patches, DINO_PATCHES, normalization or "none", learned)
    return parts


def _msn_parts(content: Mapping[str, Any], which: str, normalization: str | None) -> dict[str, _Part]:
    """MSN: two encoders with projection heads, and prototypes that both share."""
    backbone, head = _split(_network(content, {"student": "encoder", "teacher": "target_encoder"}[which]), "fc.")
    parts = {"backbone": _Part(lambda: backbone_of(backbone, "msn"), backbone)}
    if head or "prototypes" in content:
        if isinstance(content.get("prototypes"), Tensor):
            head["prototypes"] = content["prototypes"].detach()
        part = _head(head, MSN_HEAD, normalization or "l2", True)
        if "prototypes" in head:
            part.tensors["prototypes.weight_g"] = head["prototypes"].new_ones(len(head["prototypes"]), 1)
        parts["head"] = part
    return parts


def _own_parts(content: Mapping[str, Any], which: str, normalization: str | None) -> dict[str, _Part]:
    """A checkpoint of this project's training."""
    config = content["config"]
    backbone, head = _split(_network(content, which), "head.")
    backbone.pop("mask_token", None)
    patches = {name: backbone.pop(name) for name in list(backbone) if name.startswith("own_patch_prototypes.")}
    try:
        model, settings = config["model"], config["head"]
        normalization = normalization or settings["normalization"]
        build, learn = _own_backbone(model), settings["learn_magnitudes"]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its config is not that of a run of vmflearn ({error!r})") from None
    parts = {"backbone": _Part(build, backbone), "head": _head(head, OWN_HEAD, normalization, learn)}
    if patches:
        parts["patches"] = _prototypes(patches, OWN_PATCHES, normalization, learn)
    return parts


def _equal(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.dtype == other.dtype and torch.equal(one, other)


def method_of(content: Mapping[str, Any]) -> str | None:
    """The method whose training wrote a file, by its configuration or its names; None for a backbone alone."""
    config = content.get("config")
    if isinstance(config, Mapping):
        method = config.get("method")
        return str(method.get("name", "dino")) if isinstance(method, Mapping) else "dino"
    if "encoder" in content or "target_encoder" in content:
        return "msn"
    if "student" in content or "teacher" in content:
        return "ibot" if "ibot_loss" in content or _scores_patches(content) else "dino"
    return None


def _scores_patches(content: Mapping[str, Any]) -> bool:
    """Whether patches are scored in a file too: by the prototypes of the class tokens, unless it has others."""
    if isinstance(content.get("config"), Mapping):
        return method_of(content) == "ibot"
    networks = [content[name] for name in ("student", "teacher") if isinstance(content.get(name), Mapping)]
    return any("head.last_layer2." in str(name) for network in networks for name in network)


def _mask_token(content: Mapping[str, Any], which: str, backbone: nn.Module) -> Tensor | None:
    """The token of masked patches that a network has, checked against the features."""
    network = content.get(which)
    if not isinstance(network, Mapping):
        return None
    others = _split(network, "head.")[0]
    token = others.get("mask_token" if isinstance(content.get("config"), Mapping) else MASK_TOKEN)
    if token is not None and token.shape != (1, backbone.num_features):
        raise ValueError(
            f"the file does not fit and nothing was loaded. mis-shaped: the token of masked patches "
            f"{tuple(token.shape)} instead of {(1, backbone.num_features)}"
        )
    return token


def _centers(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The centres of a file by their names in this project's, flat, and the space that they are in."""
    config = content.get("config")
    if isinstance(config, Mapping):
        found = {name: (name, "center") for name in ("centering", "patch_centering")}
        space = str(config.get("teacher", {}).get("centering"))
    else:
        loss = "ibot_loss" if "ibot_loss" in content else "dino_loss"
        found = {"centering": (loss, "center"), "patch_centering": (loss, "center2")}
        space = "logit"
    centers = {}
    for name, (part, key) in found.items():
        state = content.get(part)
        center = state.get(key) if isinstance(state, Mapping) else None
        if isinstance(center, Tensor):
            centers[name] = center.flatten()
    return centers, space


def _own_backbone(model: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """The backbone of a run's settings; no pretrained weights are fetched, whatever the settings say."""
    name, rule = model["backbone"], model.get("position_interpolation", "timm")
    options = {key: value for key, value in model["options"].items() if key not in LOADING}
    return lambda: create_backbone(name, position_interpolation=rule, **options)


def _description(path: Path) -> dict[str, Any]:
    """The settings beside an exported backbone, which shapes alone do not tell."""
    beside, timms = path.with_suffix(".json"), path.with_name("config.json")
    try:
        if not beside.exists() and timms.exists():
            beside, about = timms, json.loads(timms.read_text(encoding="utf-8"))
            rule = about.get("position_interpolation", "timm")
            about = {
                "backbone": about["architecture"],
                "options": about.get("model_args", {}),
                "position_interpolation": rule,
            }
        else:
            about = json.loads(beside.read_text(encoding="utf-8"))
        return {"backbone": about["backbone"], "options": dict(about["options"])} | about
    except OSError:
        raise ValueError(f"{beside.name}, which tells the architecture, is not beside it: copy both") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{beside.name} beside it does not tell the architecture ({error})") from None


def _head(tensors: dict[str, Tensor], names: Mapping[str, str], normalization: str, learn: bool) -> _Part:
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next((theirs for theirs in names if name.startswith(theirs)), None)
        renamed[name if prefix is None else names[prefix] + name.removeprefix(prefix)] = tensor
    part = _Part(lambda: head_of(renamed, normalization, learn_magnitudes=learn, in_file=part.in_file), renamed, names)
    return part


def _prototypes(tensors: dict[str, Tensor], names: Mapping[str, str], normalization: str, learn: bool) -> _Part:
    """Prototypes of their own, under names of the file that begin with the one given."""
    (prefix,) = names
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    part = _Part(lambda: prototypes_of(bare, normalization, learn_magnitudes=learn, in_file=part.in_file), bare, names)
    return part


def _network(content: Mapping[str, Any], key: str) -> Any:
    if key not in content:
        raise ValueError(f"it has no {key!r}, only {some(content)}; ask for the other network with which")
    return content[key]


def _split(state: Any, head_prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the backbone and of the head, without the wrappers' ``module.``, ``_orig_mod.`` and ``backbone.``."""
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"expected a state dict with tensors, found {type(state).__name__} without any")
    others = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise ValueError(f"this is no state dict: {some(others)} are no tensors; it holds {some([*map(str, state)])}")
    unwrapped = [re.sub(r"(^|\.)(_orig_mod\.)+", r"\1", name) for name in state]  # torch.compile's, at any depth
    bare = [re.sub(r"^(module\.)*(backbone\.)?", "", name) for name in unwrapped]
    tensors = dict(zip((SPELLINGS.get(name, name) for name in bare), state.values(), strict=True))
    if len(tensors) < len(state):
        twice = {name for name in bare if bare.count(name) > 1}
        raise ValueError(f"names stand twice, with and without a prefix: {some(twice)}")
    head = {name: tensor for name, tensor in tensors.items() if name.startswith(head_prefix)}
    return {name: tensor for name, tensor in tensors.items() if name not in head}, head
