"""Checkpoints that survive a kill, a full disk and a cut: written aside, then renamed; the last two and the best stay.

A checkpoint is a ``torch.save`` archive of tensors and plain values, read back with ``weights_only=True``. It carries a
digest of all that it holds: an archive of which some bytes have changed is still read by PyTorch, with other weights.
"""

import contextlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vmflearn import distributed
from vmflearn.weights.digest import DIGEST, digest

KEEP = 2
"""How many of the newest checkpoints stay; two, so that a damaged one leaves its predecessor."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used; the message says which, why and what to do."""


class BrokenCheckpointError(ValueError):
    """A checkpoint that was read, and lacks a part or holds something else in its place."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Name of the checkpoint taken after ``step`` steps."""
    return folder / f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, best: bool = False) -> Path:
    """Write a checkpoint atomically, then remove all but the newest two.

    The archive is written to a temporary name, flushed to the disk, and renamed: under its final name there is never
    a partial file. If anything fails (a full disk, say), the temporary file goes and earlier checkpoints are untouched.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    step : int
        Steps taken so far.
    state : dict
        Tensors and plain values.
    best : bool
        Also keep it as ``best.pt``.

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    path, state = checkpoint_path(folder, step), {**state, DIGEST: digest(state)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if best:  # first: a kill between the two leaves a best.pt that the resumed run writes again
            _write_aside(folder / "best.pt", lambda aside: _save(state, aside))
            _write_aside(path, lambda aside: link_or_copy(folder / "best.pt", aside))
        else:
            _write_aside(path, lambda aside: _save(state, aside))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {path} could not be written ({_reason(error)}); earlier checkpoints are intact: "
            "make room and start the same command again"
        ) from error
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.unlink()
    return path


def _save(state: dict[str, Any], path: Path) -> None:
    """Through a file of Python's, which says why it cannot be written; PyTorch's own speaks of positions."""
    with path.open("wb") as file:
        torch.save(state, file)


def _reason(error: BaseException) -> str:
    """What the system said, behind what was made of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0]


def _write_aside(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one move."""
    aside = path.with_suffix(".tmp")
    try:
        aside.unlink(missing_ok=True)
        write(aside)
        with aside.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Another name for a file where the file system knows such, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def load_newest(
    folder: Path, warn: Callable[[str], None], use: Callable[[dict[str, Any]], None] = lambda saved: None
) -> dict[str, Any] | None:
    """The newest checkpoint that can be read and used, or None where there is none at all; all processes call it.

    A damaged one (cut short, or not what its digest says, or without what ``use`` needs) is named through ``warn`` and
    set aside as ``*.damaged``; the one before it is taken.

    Parameters
    ----------
    folder : Path
    warn : callable
        Takes one line for the reader.
    use : callable, optional
        Takes what a checkpoint holds, and raises BrokenCheckpointError if that is not what it should be.

    Raises
    ------
    CheckpointError
        If checkpoints exist and none can be used: starting afresh silently would throw a run away. Or if a process
        cannot read what the first one can.
    """
    damaged: list[Path] = []
    for path in distributed.on_first(lambda: sorted(folder.glob("step-*.pt"), reverse=True)):
        saved, reason = _attempt(path)
        reasons = distributed.gather_objects(reason)
        if any(reasons) and not reasons[0]:
            process = next(i for i, found in enumerate(reasons) if found)
            raise CheckpointError(
                f"process {process} cannot read {path} ({reasons[process]}), and the first process can: all nodes must "
                "share the run folder"
            )
        reason = reasons[0]
        if saved is not None and not reason:
            try:
                use(saved)
            except BrokenCheckpointError as error:
                reason = str(error)
        if reason:
            warn(f"checkpoint {path} cannot be read ({reason[:120]}); looking for an earlier one")
            damaged.append(path)
            continue
        for bad in damaged:
            if distributed.rank() == 0:
                bad.rename(bad.with_suffix(".damaged"))
            warn(f"going back to {path.name}; {bad.name} is kept as {bad.stem}.damaged")
        return saved
    if damaged:
        raise CheckpointError(
            f"none of the checkpoints in {folder} can be read. Give another run folder, or remove this one to start "
            "afresh"
        )
    return None


def _attempt(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint, or why it cannot be read."""
    try:
        return _read(path), ""
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        return None, str(error).strip().partition("\n")[0] or type(error).__name__


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint, proved to be what was saved; one of an older version has no digest, and is taken as it is."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict):
        raise ValueError(f"it holds a {type(saved).__name__}, not the parts of a run")
    expected = saved.pop(DIGEST, None)
    if expected is not None and digest(saved) != expected:
        raise ValueError("its content has changed since it was written: the digest differs")
    return saved


def differences(
    saved: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any] | None = None, prefix: str = ""
) -> list[str]:
    """Settings in which two nested configurations differ, each as ``key: saved -> now``.

    A setting that the saved one does not know, being of an older version, counts as its default.
    """
    defaults, lines = defaults or {}, []
    for key in sorted({*saved, *now}):
        old, new = saved.get(key, defaults.get(key, "(absent)")), now.get(key, "(absent)")
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, defaults.get(key), f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines
