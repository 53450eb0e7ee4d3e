"""The k nearest of many vectors by cosine, in little memory and little more time than the products themselves.

Train rows are taken in blocks, each made of unit length once, and test rows in chunks: no matrix of all products is
ever held, and the train rows may lie on a disk. The k greatest of a block are merged with those found before.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

ROWS = 65536
"""Train rows at a time."""

Array = Tensor | NDArray[np.floating]
"""Vectors in memory, or on a disk behind a memory-mapped array, of which only what is at work is read."""


def nearest(train: Array, test: Tensor, k: int, *, queries: int = 1024, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """The nearest train rows of each test row, nearest first.

    Memory beyond the features is that of `queries` x `rows` products, of one block of `rows`, and of the result.

    Parameters
    ----------
    train : (n, d)
        Need not have unit length; only directions are compared.
    test : Tensor, (m, d)
        Where it is, there is computed. Its precision holds, or float32 if that is more.
    k : int
        1 to n.
    queries, rows : int
        Test and train rows at a time.

    Returns
    -------
    similarities : Tensor, (m, k)
        Cosines, falling.
    indices : Tensor, (m, k) int64

    Raises
    ------
    ValueError
        If a block of train rows holds a value that is not finite.
    """
    dtype, device = torch.promote_types(test.dtype, torch.float32), test.device
    test = F.normalize(test.to(dtype), dim=1)
    found = torch.empty(len(test), 0, dtype=dtype, device=device)
    indices = torch.empty(len(test), 0, dtype=torch.int64, device=device)
    for start in range(0, len(train), rows):
        block = _block(train, start, start + rows).to(device, dtype)
        lengths = block.norm(dim=1, keepdim=True)  # once, for both: looking at every value costs as much again
        if not lengths.isfinite().all() and not block.isfinite().all():
            raise ValueError("train_features holds values that are not finite; look at the network that made them")
        block = (block / lengths.clamp(min=1e-12)).T
        parts = [(chunk @ block).topk(min(k, block.shape[1]), dim=1) for chunk in test.split(queries)]
        new, places = (torch.cat(list(tensors)) for tensors in zip(*parts, strict=True))
        if start == 0:
            found, indices = new, places
            continue
        both, numbers = torch.cat([found, new], dim=1), torch.cat([indices, places + start], dim=1)
        found, chosen = both.topk(min(k, both.shape[1]), dim=1)
        indices = numbers.gather(1, chosen)
    return found, indices


def _block(train: Array, start: int, stop: int) -> Tensor:
    block = train[start:stop]
    return block if isinstance(block, Tensor) else torch.from_numpy(np.array(block))
