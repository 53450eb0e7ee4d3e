"""A fingerprint of a state: equal for equal tensors and values, whatever file they went through."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DIGEST = "sha256"
"""Where a checkpoint holds the digest of the rest of it."""


def digest(state: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of nested dictionaries, lists, tensors and plain values.

    Dictionaries count in the order of their keys' text, so that a state read back gives the digest it was saved with.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    found = hashlib.sha256()
    _feed(found, state)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    """Add a value; what it is and how long comes before what it holds, so that no two values read alike."""
    if isinstance(value, Tensor):
        found.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        found.update(f"mapping {len(value)}\n".encode())
        for key in sorted(value, key=repr):
            _feed(found, key)
            _feed(found, value[key])
    elif isinstance(value, list | tuple):
        found.update(f"{type(value).__name__} {len(value)}\n".encode())
        for item in value:
            _feed(found, item)
    else:
        text = repr(value).encode()
        found.update(f"{type(value).__name__} {len(text)}\n".encode() + text)
