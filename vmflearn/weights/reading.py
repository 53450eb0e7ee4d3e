"""Reading files of weights that others made, without running anything that is in them.

A checkpoint of ``torch.save`` is a pickle, and a pickle may call any function when it is read. ``weights_only=True``
allows tensors and plain values alone; published training checkpoints also hold the command line (an
``argparse.Namespace``) and numpy numbers in the optimiser's groups, which are let in by name, and nothing else is.
"""

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

_SCALAR = np.float64(0).__reduce__()[0]  # the function that numpy's numbers are rebuilt with
ALLOWED: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "?")),
]
"""What a file may build besides tensors and plain values: none of it can call anything."""


def read_weights(path: Path) -> dict[str, Any]:
    """Contents of a checkpoint of ``torch.save`` or of a safetensors file, on the CPU.

    Tensors stay in the file until they are used: what is not wanted (an optimiser's state) takes no memory.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        What was saved; a safetensors file gives its tensors by name.

    Raises
    ------
    ValueError
        If there is no such file, it is empty, a directory, no file of weights, or asks for anything to be built or
        called that weights do not need (which is then not done).
    """
    if path.is_dir():
        raise ValueError(f"path={path} is a directory; give the file in it, such as {path / 'checkpoint.pth'}")
    if not path.is_file():
        raise ValueError(f"path={path}: there is no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"path={path} is empty: fetch or copy it again")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"path={path} is no readable safetensors file ({_first_line(error)})") from None
    try:
        with torch.serialization.safe_globals(ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged or foreign file fails in the unpickler in any way whatever
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise ValueError(
                f"path={path} asks for {refused[1]}, which weights do not need: the file was refused, and nothing in "
                "it was run. If you trust its source, read it where it was made and save the state dicts alone"
            ) from None
        raise ValueError(
            f"path={path} cannot be read as a checkpoint of torch.save ({_first_line(error)}): it is another kind of "
            "file, or was cut short"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"path={path} holds one {type(content).__name__}, not a dict of weights")
    return content


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text is advice to switch the safety off
        return "its contents are no pickle of weights"
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
