"""Start a run from weights that exist: a published checkpoint, one of this project's, or a backbone alone.

What fits is restored and what does not starts afresh, each said in a line: a run that silently begins with random
prototypes, or with a centre at zero under prototypes that have moved, looks like a broken method.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.ssl.patch_network import PatchNetwork
from vmflearn.ssl.prototypes import Prototypes
from vmflearn.ssl.sinkhorn import SinkhornKnopp
from vmflearn.train.checkpoints.checkpoint import differences
from vmflearn.train.config import ConfigError
from vmflearn.train.state import State
from vmflearn.weights.published import Published, heads_of, load_whole, tells_heads, tells_settings
from vmflearn.weights.run_folders import newest_weights
from vmflearn.weights.untold import POSITIONS, untold_differences

CENTERS = {"centering": "the centre", "patch_centering": "the centre of the patches"}


def start_from(state: State, path: str | Path) -> list[str]:
    """Fill a fresh state with the weights of a file; `load_published` lists the kinds of files.

    The backbones must be those of the configuration: in the shapes of their tensors, and where the file tells its
    settings in what no shape shows (heads of attention, activations, constants of norms). Where it does not, those of
    the configuration hold, and a line says so. How positions are resized may change, and is said. The head is restored
    if its MLP is; its prototypes too, if there are as many, and with them the centre, if the file has one of the same
    kind (a file's "logit" and "probability" centres mean different things). Of iBOT's files the token of masked
    patches, the prototypes of the patches and their centre are restored in the same way, as far as the method has a
    place for them. Student and teacher get their own weights where the file has both, else the same; in MSN they have
    one set of prototypes, the student's.

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
        path, content, lines = newest_weights(path)
        heads = None if tells_settings(path, content) else heads_of(state.student.backbone)
        own = {"teacher": load_whole(path, "teacher", num_heads=heads)}
        both = bool({"student", "encoder"} & set(content))
        own["student"] = load_whole(path, "student", num_heads=heads) if both else own["teacher"]
    except ValueError as error:
        raise ConfigError(f"run.init_from: {error}") from None
    networks = {"student": state.student, "teacher": state.teacher}
    for name, network in networks.items():
        unlike = _unlike(network.backbone, own[name].backbone)
        if unlike:
            raise ConfigError(
                f"run.init_from={path}: its backbone is not that of the configuration: {unlike}; set model.backbone "
                "and model.options to the file's architecture"
            )
    untold = _compare_untold(state, path, content, own["teacher"].backbone)
    theirs, ours = own["teacher"].method, state.config.method.name
    if theirs not in (None, ours):
        lines.append(f"  other: the file is of method {theirs}, this run of {ours}: it takes what both have")
    for name, network in networks.items():
        network.backbone.load_state_dict(own[name].backbone.state_dict())
    lines.append("  restored: backbones of student and teacher" + (", both from one" if not both else ""))
    pairs = [(state.student, own["student"]), (state.teacher, own["teacher"])]
    fitted: set[str] = set()
    lines += [*_restore_heads(pairs, fitted), *_restore_patches(pairs, fitted, ours)]
    lines += _restore_centers(state, own["teacher"], fitted)
    state.method.share()
    return [*lines, *untold, "  afresh: optimiser, schedules, step and linear probe"]


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


Pairs = Sequence[tuple[MultiCropNetwork, Published]]


def _restore_heads(pairs: Pairs, fitted: set[str]) -> list[str]:
    """Fill the heads as far as they fit, and note in ``fitted`` what does: "mlp", and the centre of the prototypes."""
    ours, theirs = pairs[-1][0].head, pairs[-1][1].head
    unlike = "the file has none" if theirs is None else _unlike(ours.mlp, theirs.mlp)
    if unlike:
        because = unlike if theirs is None else "they belong to another head"
        return [f"  afresh: the head's MLP ({unlike})", f"  afresh: prototypes ({because})"]
    fitted.add("mlp")
    for network, whole in pairs:
        assert whole.head is not None
        network.head.mlp.load_state_dict(whole.head.mlp.state_dict())
    found = [(network.prototypes, whole.head.prototypes) for network, whole in pairs if whole.head is not None]
    line, fit = _restore_prototypes("prototypes", found)
    fitted.update({"centering"} if fit else ())
    return ["  restored: the head's MLP", line]


def _restore_prototypes(title: str, pairs: Sequence[tuple[Prototypes, Prototypes]]) -> tuple[str, bool]:
    """Fill prototypes of ours by theirs; what to say, and whether they fitted."""
    unlike = next((found for ours, theirs in pairs if (found := _unlike(ours, theirs))), "")
    if unlike:
        return f"  afresh: {title} ({unlike})", False
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    was, now = pairs[-1][1].normalization, pairs[-1][0].normalization
    return f"  restored: {title}" + (f", read as {now!r} from now on, not {was!r}" if was != now else ""), True


@torch.no_grad()
def _restore_patches(pairs: Pairs, fitted: set[str], method: str) -> list[str]:
    """Fill what iBOT has for patches, and note in ``fitted`` the patches' centre if what scores them is the file's."""
    token = pairs[0][1].mask_token
    separate = any(whole.patch_prototypes is not None and not whole.shared for _, whole in pairs)
    if not isinstance(pairs[0][0], PatchNetwork):
        left = {"the token of masked patches": token is not None, "prototypes of the patches": separate}
        return [
            f"  set aside: {title} (method.name={method} has no place for it)" for title, has in left.items() if has
        ]
    word, why = ("restored", "") if token is not None else ("afresh", " (the file has none)")
    lines, found = [f"  {word}: the token of masked patches{why}"], []
    for network, whole in pairs:
        assert isinstance(network, PatchNetwork)
        if token is not None:  # a published teacher has none, and is shown none
            network.mask_token.copy_(token if whole.mask_token is None else whole.mask_token)
        if network.own_patch_prototypes is not None and whole.patch_prototypes is not None:
            found.append((network.own_patch_prototypes, whole.patch_prototypes))
    if pairs[0][0].own_patch_prototypes is None:
        if "centering" in fitted and pairs[-1][1].shared:
            fitted.add("patch_centering")
        return [*lines, "  set aside: prototypes of the patches (method.shared_head=true)"] if separate else lines
    if len(found) < len(pairs) or "mlp" not in fitted:
        why = "they belong to another head" if len(found) == len(pairs) else "the file has none"
        return [*lines, f"  afresh: prototypes of the patches ({why})"]
    line, fit = _restore_prototypes("prototypes of the patches", found)
    fitted.update({"patch_centering"} if fit else ())
    return [*lines, line]


@torch.no_grad()
def _restore_centers(state: State, theirs: Published, fitted: Collection[str]) -> list[str]:
    """Fill the centres of prototypes that are the file's, where they are of the same kind."""
    lines, kind, method = [], state.config.teacher.centering, state.config.method.name
    for name, title in CENTERS.items():
        centering, saved = state.method.centerings().get(name), theirs.centers.get(name)
        if isinstance(centering, SinkhornKnopp):
            lines.append("  afresh: sinkhorn has no centre")
        elif not isinstance(centering, LogitCentering | ProbabilityCentering):
            if saved is not None:
                lines.append(f"  set aside: {title} (method.name={method} has no place for it)")
        elif name not in fitted:
            lines.append(f"  afresh: {title}")
        elif saved is None or saved.numel() != centering.center.numel():
            lines.append(f"  afresh: {title} (the file has none for these prototypes)")
        elif theirs.centering != kind:
            lines.append(f"  afresh: {title} (the file's is one of {theirs.centering} space, teacher.centering={kind})")
        else:
            centering.center.copy_(saved)
            lines.append(f"  restored: {title}")
    return lines


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
