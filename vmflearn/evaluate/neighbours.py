"""The k nearest of many vectors by cosine, in little memory and little more time than the products themselves.

Train rows are taken in blocks, each made of unit length once, and test rows in chunks: no matrix of all products is
ever held, and the train rows may lie on a disk. The k greatest of a block are merged with those found before.

The k greatest of a row of products lie in the k groups whose greatest are greatest: each of those groups has one that
is no less. Maxima of groups are found as fast as memory is read, and only the k groups are searched.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

ROWS = 16384
"""Train rows at a time: products of a thousand test rows with them take 64 MiB."""

GROUP = 16
"""Products in a group."""

Array = Tensor | NDArray[np.floating]
"""Vectors in memory, or on a disk behind a memory-mapped array, of which only what is at work is read."""


@torch.no_grad()
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
    # Written again and again: fresh memory for every chunk would cost half as much as the products.
    buffer = torch.empty(min(queries, len(test)) * min(rows, len(train)), dtype=dtype, device=device)
    for start in range(0, len(train), rows):
        block = _block(train, start, start + rows).to(device, dtype)
        lengths = block.norm(dim=1, keepdim=True)  # once, for both: looking at every value costs as much again
        if not lengths.isfinite().all() and not block.isfinite().all():
            raise ValueError("train_features holds values that are not finite; look at the network that made them")
        block = (block / lengths.clamp(min=1e-12)).T
        parts = [greatest(_product(chunk, block, buffer), min(k, block.shape[1])) for chunk in test.split(queries)]
        new, places = (torch.cat(list(tensors)) for tensors in zip(*parts, strict=True))
        if start == 0:
            found, indices = new, places
            continue
        both, numbers = torch.cat([found, new], dim=1), torch.cat([indices, places + start], dim=1)
        found, chosen = both.topk(min(k, both.shape[1]), dim=1)
        indices = numbers.gather(1, chosen)
    return found, indices


def greatest(products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and places, (m, k), of the k greatest in each row of products (m, n); greatest first."""
    width = products.shape[1] // GROUP
    if width <= 2 * k:
        values, places = products.topk(k, dim=1)
        return values, places
    # Group j holds every width-th product from the j-th on, so that the maxima run along memory.
    maxima = products[:, : GROUP * width].unflatten(1, (GROUP, width)).amax(dim=1)
    first = maxima.topk(k, dim=1).indices[:, None, :]
    steps = width * torch.arange(GROUP, device=products.device)[:, None]
    rest = torch.arange(GROUP * width, products.shape[1], device=products.device).expand(len(products), -1)
    candidates = torch.cat([(first + steps).flatten(1), rest], dim=1)
    values, order = products.gather(1, candidates).topk(k, dim=1)
    return values, candidates.gather(1, order)


def _product(chunk: Tensor, block: Tensor, buffer: Tensor) -> Tensor:
    size = (len(chunk), block.shape[1])
    return torch.mm(chunk, block, out=buffer[: size[0] * size[1]].view(size))


def _block(train: Array, start: int, stop: int) -> Tensor:
    block = train[start:stop]
    return block if isinstance(block, Tensor) else torch.from_numpy(np.array(block))
