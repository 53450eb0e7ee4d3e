"""The points (dim, kappa) of the accuracy table: drawn from a fixed seed, off every grid."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

SEED = 20_251
# The two regimes of the library meet at these s = sqrt(nu^2 + kappa^2); points are drawn on both sides and next to it.
JOINS = {torch.float64: 26.0, torch.float32: 11.0}
GROUPS = (2, 3, 8, 30, 60, 512, 8192, 65536)  # last dimension of each group of the tables


class Point(NamedTuple):
    """One dimension and concentration."""

    dim: int
    kappa: float


def any_dim(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw dimensions from 2 to 65,536, uniform in their logarithm."""
    return np.rint(2 * 32768 ** rng.random(size)).astype(int)


def draw_points(n: int, dtype: torch.dtype) -> list[Point]:
    """Draw n points, kappa rounded to ``dtype``, sorted by dimension; the same for every call with the same n."""
    rng = np.random.default_rng(SEED)
    special = [(dim, kappa) for dim in range(2, 55) for kappa in _about_join(dim, dtype)]
    special += [(int(dim), kappa) for dim in (2, 3, *any_dim(rng, 30), 65536) for kappa in (0.0, 1e12)]
    special = [special[i] for i in rng.permutation(len(special))[: n // 10]]
    turning, small, near = n // 5, n // 5, n // 7
    wide = n - len(special) - turning - small - near
    dims, kappas = [any_dim(rng, wide)], [10 ** rng.uniform(-12, 12, wide)]  # the whole range
    dims.append(any_dim(rng, turning))  # A between 0.01 and 0.99
    kappas.append(dims[-1] * 10 ** rng.uniform(-2, 2, turning))
    dims.append(rng.integers(2, 65, small))  # the dimensions that have two regimes, and a few beyond
    kappas.append(10 ** rng.uniform(-6, 6, small))
    dims.append(rng.integers(2, 55, near))  # on both sides of the join
    s = rng.uniform(6, 40, near)
    kappas.append(np.sqrt(np.maximum(s**2 - (dims[-1] / 2 - 1) ** 2, 0.0)))
    points = [*zip(np.concatenate(dims).tolist(), np.concatenate(kappas).tolist(), strict=True), *special]
    rounded = torch.tensor([kappa for _, kappa in points], dtype=torch.float64).to(dtype).double().tolist()
    return sorted(Point(dim, kappa) for (dim, _), kappa in zip(points, rounded, strict=True))


def _about_join(dim: int, dtype: torch.dtype) -> list[float]:
    """Return the concentration of the join and its neighbours in ``dtype``; nothing where there is no join."""
    squared = JOINS[dtype] ** 2 - (dim / 2 - 1) ** 2
    if squared <= 0:
        return []
    join = torch.tensor(math.sqrt(squared), dtype=dtype)
    return [float(torch.nextafter(join, join - 1)), float(join), float(torch.nextafter(join, join + 1))]


def group_of(dim: int) -> str:
    """Name the group of dimensions that ``dim`` is in."""
    first = 2
    for last in GROUPS:
        if dim <= last:
            return str(last) if first == last else f"{first}-{last}"
        first = last + 1
    raise AssertionError(dim)
