"""The weights of a run's folder: its newest checkpoint that can be read, proved to be what was saved."""

from pathlib import Path
from typing import Any

from vmflearn.weights.digest import DIGEST, digest
from vmflearn.weights.reading import read_weights


def newest_weights(path: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """A file of weights, or the newest of a run's folder that can be read.

    Parameters
    ----------
    path : Path
        A file; a run's folder, or its ``checkpoints``; or the ``backbone`` folder that a run exports for timm.

    Returns
    -------
    path : Path
        The file.
    content : dict
        What is in it.
    lines : list of str
        What to say about the choice.

    Raises
    ------
    ValueError
        If there is none, or it cannot be read or is damaged.
    """
    if not path.is_dir():
        return path, undamaged_weights(path), [f"starting from {path}"]
    if (path / "model.safetensors").exists():
        path = path / "model.safetensors"
        return path, undamaged_weights(path), [f"starting from {path}"]
    folder, passed_over = path, []
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    for path in sorted(inside.glob("step-*.pt"), reverse=True):
        try:
            content = undamaged_weights(path)
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


def undamaged_weights(path: Path) -> dict[str, Any]:
    """Contents of a file, proved to be what was saved if it is one of a run's, which carries a digest.

    Raises
    ------
    ValueError
        As `read_weights`, or if the digest differs.
    """
    content = read_weights(path)
    expected = content.get(DIGEST)
    if isinstance(expected, str) and digest({key: content[key] for key in content if key != DIGEST}) != expected:
        raise ValueError(f"path={path} has changed since it was written: its digest differs; give another checkpoint")
    return content
