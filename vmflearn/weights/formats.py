"""The files of DINO, iBOT, MSN and of this project: what each calls its tensors, and which tensors those are here.

A file's networks become parts (a backbone, a head, the patches' prototypes), each with its tensors under this project's
names and a way to build the module that they fill; `vmflearn.weights.published` builds and fills them.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmflearn.backbones.creation import LOADING, create_backbone
from vmflearn.weights.architectures import backbone_of, head_of, prototypes_of, some

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


@dataclass
class Part:
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


def parts_of(
    path: Path, content: Mapping[str, Any], which: str, normalization: str | None, num_heads: int | None
) -> dict[str, Part]:
    """The parts of one network of a file: "backbone", and "head" and "patches" where it has them.

    Parameters
    ----------
    path : Path
        Its ending, and the settings that lie beside an exported backbone, tell what it is.
    content : mapping
        What is in the file.
    which, normalization, num_heads
        As for `vmflearn.weights.published.load_published`.

    Raises
    ------
    ValueError
        If the network is not there, or what stands in its place is no state dict.
    """
    if path.suffix == ".safetensors":
        return {"backbone": Part(_own_backbone(_description(path)), dict(content))}
    if isinstance(content.get("config"), dict):
        return _own_parts(content, which, normalization)
    if "encoder" in content or "target_encoder" in content:
        return _msn_parts(content, which, normalization)
    return _dino_parts(content, which, normalization, num_heads)


def _dino_parts(
    content: Mapping[str, Any], which: str, normalization: str | None, num_heads: int | None
) -> dict[str, Part]:
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
    parts = {"backbone": Part(lambda: backbone_of(backbone, "dino", num_heads), backbone)}
    learned = not getattr(content.get("args"), "norm_last_layer", False)
    if head:
        parts["head"] = _head(head, DINO_HEAD, normalization or "none", learned)
    if not all(_equal(head.get(name.replace("last_layer2", "last_layer")), p) for name, p in patches.items()):
        parts["patches"] = _prototypes(patches, DINO_PATCHES, normalization or "none", learned)
    return parts


def _msn_parts(content: Mapping[str, Any], which: str, normalization: str | None) -> dict[str, Part]:
    """MSN: two encoders with projection heads, and prototypes that both share."""
    backbone, head = _split(_network(content, {"student": "encoder", "teacher": "target_encoder"}[which]), "fc.")
    parts = {"backbone": Part(lambda: backbone_of(backbone, "msn"), backbone)}
    if head or "prototypes" in content:
        if isinstance(content.get("prototypes"), Tensor):
            head["prototypes"] = content["prototypes"].detach()
        part = _head(head, MSN_HEAD, normalization or "l2", True)
        if "prototypes" in head:
            part.tensors["prototypes.weight_g"] = head["prototypes"].new_ones(len(head["prototypes"]), 1)
        parts["head"] = part
    return parts


def _own_parts(content: Mapping[str, Any], which: str, normalization: str | None) -> dict[str, Part]:
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
    parts = {"backbone": Part(build, backbone), "head": _head(head, OWN_HEAD, normalization, learn)}
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
        return "ibot" if "ibot_loss" in content or scores_patches(content) else "dino"
    return None


def scores_patches(content: Mapping[str, Any]) -> bool:
    """Whether patches are scored in a file too: by the prototypes of the class tokens, unless it has others."""
    if isinstance(content.get("config"), Mapping):
        return method_of(content) == "ibot"
    networks = [content[name] for name in ("student", "teacher") if isinstance(content.get(name), Mapping)]
    return any("head.last_layer2." in str(name) for network in networks for name in network)


def mask_token_of(content: Mapping[str, Any], which: str, backbone: nn.Module) -> Tensor | None:
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


def centers_of(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
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


def _head(tensors: dict[str, Tensor], names: Mapping[str, str], normalization: str, learn: bool) -> Part:
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next((theirs for theirs in names if name.startswith(theirs)), None)
        renamed[name if prefix is None else names[prefix] + name.removeprefix(prefix)] = tensor
    part = Part(lambda: head_of(renamed, normalization, learn_magnitudes=learn, in_file=part.in_file), renamed, names)
    return part


def _prototypes(tensors: dict[str, Tensor], names: Mapping[str, str], normalization: str, learn: bool) -> Part:
    """Prototypes of their own, under names of the file that begin with the one given."""
    (prefix,) = names
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    part = Part(lambda: prototypes_of(bare, normalization, learn_magnitudes=learn, in_file=part.in_file), bare, names)
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
