"""From rows of numbers to directions: every row divided by its length."""

import numpy as np
import torch
from torch import Tensor


def unit_rows(array: np.ndarray, chunk_size: int, name: str = "X") -> tuple[Tensor, np.ndarray]:
    """Scale rows to unit length, in float64 whatever their type, without overflow or underflow.

    Parameters
    ----------
    array : ndarray (n, dim)
        float32 or float64; not changed.
    chunk_size : int
        Rows worked on at once.
    name : str, default="X"
        What the error calls the array.

    Returns
    -------
    rows : Tensor (n, dim)
        Unit rows in the type of ``array``; zero where the row is zero.
    is_zero : ndarray (n,) bool
        Which rows are zero and so have no direction.

    Raises
    ------
    ValueError
        NaN or infinity in the array; the first such rows are named.
    """
    rows = np.empty(array.shape, dtype=array.dtype)
    is_zero = np.empty(len(array), dtype=bool)
    bad: list[int] = []
    n_bad = 0
    for first in range(0, len(array), chunk_size):
        chunk = slice(first, first + chunk_size)
        block = array[chunk].astype(np.float64)
        largest = np.abs(block).max(axis=1, keepdims=True)
        is_bad = ~np.isfinite(largest[:, 0])
        if is_bad.any():
            n_bad += int(is_bad.sum())
            bad.extend((first + np.flatnonzero(is_bad)[: 5 - len(bad)]).tolist())
            continue
        is_zero[chunk] = largest[:, 0] == 0
        block /= np.where(largest > 0, largest, 1.0)  # squares of 1e200 or 1e-200 would leave the range
        block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1.0)
        rows[chunk] = block
    if n_bad:
        raise ValueError(f"{name} contains NaN or infinity in {n_bad} rows, first {bad}: remove or repair them")
    return torch.from_numpy(rows), is_zero
