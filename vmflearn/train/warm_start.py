"""Start a run from weights that exist: a published checkpoint, one of this project's, or a backbone alone.

What fits is restored and what does not starts afresh, each said in a line: a run that silently begins with random
prototypes, or with a centre at zero under prototypes that have moved, looks like a broken method.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.published import load_published
from vmflearn.ssl.weight_files import read_weights
from vmflearn.train.config import ConfigError
from vmflearn.train.state import State


def start_from(state: State, path: str | Path) -> list[str]:
    """Fill a fresh state with the weights of a file; `load_published` lists the kinds of files.

    The backbones must be those of the configuration. The head is restored if its MLP is; its prototypes too, if there
    are as many, and with them the centre, if the file has one of the same kind (a file's "logit" and "probability"
    centres mean different things). Student and teacher get their own weights where the file has both, else the same.

    Parameters
    ----------
    state : State
        Changed, unless an error is raised.
    path : path

    Returns
    -------
    list of str
        What was restored, and what starts afresh.

    Raises
    ------
    ConfigError
        If the file cannot be read or is of another backbone; the tensors that differ are named.
    """
    path = Path(path)
    try:
        content = read_weights(path)
        own = {"teacher": load_published(path, "teacher")}
        own["student"] = load_published(path, "student") if {"student", "encoder"} & set(content) else own["teacher"]
    except ValueError as error:
        raise ConfigError(f"run.init_from: {error}") from None
    networks = {"student": state.student, "teacher": state.teacher}
    for name, network in networks.items():
        unlike = _unlike(network.backbone, own[name][0])
        if unlike:
            raise ConfigError(
                f"run.init_from={path}: its backbone is not that of the configuration: {unlike}; set model.backbone "
                "and model.options to the file's architecture"
            )
    for name, network in networks.items():
        network.backbone.load_state_dict(own[name][0].state_dict())
    both = "student and teacher" if own["student"] is not own["teacher"] else "student and teacher, both from one"
    lines = [f"starting from {path}", f"  restored: backbones of {both}"]
    heads = {name: (network.head, own[name][1]) for name, network in networks.items()}
    lines += _restore_heads(heads)
    prototypes = lines[-1].startswith("  restored: prototypes")
    lines.append(_restore_center(state, content) if prototypes else "  afresh: the centre")
    return [*lines, "  afresh: optimiser, schedules, step and linear probe"]


def _restore_heads(heads: Mapping[str, tuple[DINOHead, DINOHead | None]]) -> list[str]:
    """Fill the heads as far as they fit; the last line is about the prototypes."""
    ours, theirs = heads["teacher"]
    if theirs is None:
        return ["  afresh: the head's MLP (the file has none)", "  afresh: prototypes (the file has none)"]
    unlike = _unlike(ours.mlp, theirs.mlp)
    if unlike:
        return [f"  afresh: the head's MLP ({unlike})", "  afresh: prototypes (they belong to another head)"]
    fit = not _unlike(ours.prototypes, theirs.prototypes)
    for target, source in heads.values():
        assert source is not None
        target.mlp.load_state_dict(source.mlp.state_dict())
        if fit:
            target.prototypes.load_state_dict(source.prototypes.state_dict())
    lines = ["  restored: the head's MLP"]
    if not fit:
        return [*lines, f"  afresh: prototypes ({_unlike(ours.prototypes, theirs.prototypes)})"]
    was, now = theirs.prototypes.normalization, ours.prototypes.normalization
    return [*lines, "  restored: prototypes" + (f", read as {now!r} from now on, not {was!r}" if was != now else "")]


@torch.no_grad()
def _restore_center(state: State, content: Mapping[str, Any]) -> str:
    """Fill the centre from an own checkpoint or from DINO's, whose centre is that of the logits."""
    centering, kind = state.centering, state.config.teacher.centering
    if not isinstance(centering, LogitCentering | ProbabilityCentering):
        return "  afresh: sinkhorn has no centre"
    if isinstance(content.get("config"), dict):
        saved = content.get("centering", {}).get("center")
        theirs = content["config"].get("teacher", {}).get("centering")
    else:
        saved, theirs = content.get("dino_loss", {}).get("center"), "logit"
    if not isinstance(saved, Tensor) or saved.numel() != centering.center.numel():
        return "  afresh: the centre (the file has none for these prototypes)"
    if theirs != kind:
        return f"  afresh: the centre (the file's is one of {theirs} space, teacher.centering={kind})"
    centering.center.copy_(saved.flatten())
    return "  restored: the centre"


def _unlike(ours: nn.Module, theirs: nn.Module) -> str:
    """Names and shapes in which two modules differ, the first few; "" if a state dict of one fits the other."""
    here = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    found = [
        f"{name} is {there.get(name, 'missing')} in the file and {here.get(name, 'missing')} here"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]
    return "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
