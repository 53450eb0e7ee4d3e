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
from vmflearn.train.checkpoints.checkpoint import DIGEST, differences
from vmflearn.train.checkpoints.digest import digest
from vmflearn.train.config import ConfigError
from vmflearn.train.state import State
from vmflearn.weights.published import heads_of, load_published, tells_heads, tells_settings
from vmflearn.weights.reading import read_weights
from vmflearn.weights.untold import POSITIONS, untold_differences


def start_from(state: State, path: str | Path) -> list[str]:
    """Fill a fresh state with the weights of a file; `load_published` lists the kinds of files.

    The backbones must be those of the configuration: in the shapes of their tensors, and where the file tells its
    settings in what no shape shows (heads of attention, activations, constants of norms). Where it does not, those of
    the configuration hold, and a line says so. How positions are resized may change, and is said. The head is restored
    if its MLP is; its prototypes too, if there are as many, and with them the centre, if the file has one of the same
    kind (a file's "logit" and "probability" centres mean different things). Student and teacher get their own weights
    where the file has both, else the same.

    Parameters
    ----------
    state : State
        Changed, unless an error is raised.
    path : path
        A file; or a run's folder, of which the newest checkpoint that can be read is taken.

    Returns
    -------
    list of str
        What was restored, and what starts afresh.

    Raises
    ------
    ConfigError
        If the file cannot be read, is damaged, or is of another backbone; the tensors or settings that differ are
        named.
    """
    path = Path(path)
    try:
        path, content, lines = _newest(path) if path.is_dir() else (path, _undamaged(path), [f"starting from {path}"])
        heads = None if tells_settings(path, content) else heads_of(state.student.backbone)
        own = {"teacher": load_published(path, "teacher", num_heads=heads)}
        both = bool({"student", "encoder"} & set(content))
        own["student"] = load_published(path, "student", num_heads=heads) if both else own["teacher"]
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
    untold = _compare_untold(state, path, content, own["teacher"][0])
    for name, network in networks.items():
        network.backbone.load_state_dict(own[name][0].state_dict())
    lines.append("  restored: backbones of student and teacher" + (", both from one" if not both else ""))
    lines += _restore_heads({name: (network.head, own[name][1]) for name, network in networks.items()})
    prototypes = lines[-1].startswith("  restored: prototypes")
    lines.append(_restore_center(state, content) if prototypes else "  afresh: the centre")
    return [*lines, *untold, "  afresh: optimiser, schedules, step and linear probe"]


def _newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest checkpoint of a run that can be read, its content, and what to say about the choice."""
    if (folder / "model.safetensors").exists():
        path = folder / "model.safetensors"
        return path, _undamaged(path), [f"starting from {path}"]
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    passed_over = []
    for path in sorted(inside.glob("step-*.pt"), reverse=True):
        try:
            content = _undamaged(path)
        except ValueError as error:
            passed_over.append(f"  passed over: {error}")
            continue
        best = "; its best.pt is another choice, by name" if (inside / "best.pt").exists() else ""
        return path, content, [f"starting from {path}, the newest checkpoint of {folder}{best}", *passed_over]
    if passed_over:
        raise ValueError(f"none of the checkpoints in {inside} can be read: {passed_over[0].partition(': ')[2]}")
    raise ValueError(
        f"path={folder} is a directory without checkpoints (step-*.pt): give the folder of a run, or a file"
    )


def _undamaged(path: Path) -> dict[str, Any]:
    """Contents of a file, proved to be what was saved if it is one of a run's, which carries a digest."""
    content = read_weights(path)
    expected = content.get(DIGEST)
    if isinstance(expected, str) and digest({key: content[key] for key in content if key != DIGEST}) != expected:
        raise ValueError(f"path={path} has changed since it was written: its digest differs; give another checkpoint")
    return content


def _compare_untold(state: State, path: Path, content: Mapping[str, Any], theirs: nn.Module) -> list[str]:
    """Refuse a network whose own settings are others, and say what the file does not tell."""
    ours, lines = state.student.backbone, []
    found = {name: (old, new) for name, old, new in untold_differences(theirs, ours)}
    if POSITIONS in found:
        old, new = found.pop(POSITIONS)
        lines.append(
            f"  changed: model.{POSITIONS}={new}, the file's is {old}: images of another size than the network's own "
            "get other features"
        )
    listed = "; ".join(f"{name} is {old} in the file and {new} here" for name, (old, new) in found.items())
    if found and tells_settings(path, content):
        options = differences(_options(theirs), _options(ours), prefix="model.options.")
        raise ConfigError(
            f"run.init_from={path}: its backbone has the tensors of the configuration's and other settings: {listed}; "
            "set model.backbone and model.options to the file's" + (f" ({'; '.join(options)})" if options else "")
        )
    if not tells_heads(path, content) and heads_of(ours) is not None:
        lines.append(f"  unknown: the file does not tell the heads of attention; {heads_of(ours)} as model.options say")
    for name, (old, new) in found.items():
        lines.append(
            f"  unknown: {name} is {new} as model.options say, {old} in published files; this one does not tell"
        )
    return lines


def _options(backbone: nn.Module) -> dict[str, Any]:
    options = backbone.timm_options
    assert isinstance(options, dict)
    return options


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
    centering, kind = state.method.centerings().get("centering"), state.config.teacher.centering
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
