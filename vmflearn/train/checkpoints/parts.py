"""What a checkpoint must hold before anything is changed by it: parts, types, shapes, as the run itself has them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vmflearn.train.checkpoints.checkpoint import BrokenCheckpointError

NEEDED = {"step": int, "best": float, "images": int, "config": dict}
LATER = {"recorded": int, "described": dict, "processes": int}
"""What older versions did not write."""
PENDING = {"metrics": dict, "timing": dict, "findings": list}


def check_values(saved: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check all but the parts with tensors.

    Parameters
    ----------
    saved : mapping
        What a checkpoint holds.
    defaults : mapping
        A configuration: what is a section in it must be one in the checkpoint's.

    Raises
    ------
    BrokenCheckpointError
        With the first fault.
    """
    wanted = NEEDED | {name: kind for name, kind in LATER.items() if name in saved}
    fault = _types(wanted, saved, "")
    if not fault:
        sections = {name: dict for name, value in defaults.items() if isinstance(value, dict)}
        fault = _types(
            {name: kind for name, kind in sections.items() if name in saved["config"]}, saved["config"], "config."
        )
    pending = saved.get("pending")
    if not fault and pending is not None:
        fault = _types(PENDING, pending, "pending.") if isinstance(pending, dict) else "pending is not a dict"
    if not fault and saved["step"] < 0:
        fault = f"step is {saved['step']}"
    if fault:
        raise BrokenCheckpointError(fault)


def _types(wanted: Mapping[str, type], found: Mapping[str, Any], prefix: str) -> str:
    for name, kind in wanted.items():
        if name not in found:
            return f"{prefix}{name} is missing"
        if type(found[name]) is not kind:
            return f"{prefix}{name} is a {type(found[name]).__name__}, not a {kind.__name__}"
    return ""


def unlike(wanted: Any, found: Any, name: str) -> str:
    """The first thing in which a saved state differs in kind from a state; "" if there is none.

    Tensors must have the same shape and type, mappings at least the same keys, all else the same type. What a mapping
    has beyond them is checked by whoever loads it.
    """
    if isinstance(wanted, Tensor):
        if not isinstance(found, Tensor):
            return f"{name} is a {type(found).__name__}, not a tensor"
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return f"{name} is {found.dtype} {tuple(found.shape)}, not {wanted.dtype} {tuple(wanted.shape)}"
    elif isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return f"{name} is a {type(found).__name__}, not a mapping"
        for key, value in wanted.items():
            if key not in found:
                return f"{name}.{key} is missing"
            if fault := unlike(value, found[key], f"{name}.{key}"):
                return fault
    elif type(found) is not type(wanted):
        return f"{name} is a {type(found).__name__}, not a {type(wanted).__name__}"
    return ""


def unlike_moments(optimizer: torch.optim.Optimizer, found: Mapping[str, Any], name: str) -> str:
    """The first thing in a saved state of Adam that does not fit this optimiser's parameters; "" if all does."""
    groups = optimizer.param_groups
    if len(found["param_groups"]) != len(groups):
        return f"{name} has {len(found['param_groups'])} groups of parameters, not {len(groups)}"
    for i, (group, saved) in enumerate(zip(groups, found["param_groups"], strict=True)):
        wanted = {key: group[key] for key in ("params", "lr", "betas", "eps", "weight_decay")}
        if fault := unlike(wanted, saved, f"{name}.param_groups.{i}"):
            return fault
        if len(saved["params"]) != len(group["params"]):
            return f"{name}.param_groups.{i} has {len(saved['params'])} parameters, not {len(group['params'])}"
        for number, parameter in zip(saved["params"], group["params"], strict=True):
            if number not in found["state"]:
                continue  # it has had no gradient yet
            moments = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            if fault := unlike(moments, found["state"][number], f"{name}.state.{number}"):
                return fault
    return ""
