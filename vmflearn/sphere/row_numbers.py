r"""Random numbers that belong to the values of a row: copies of a row have the same, wherever they stand.

The coordinates of a unit row, rounded to float32 and read as integers :math:`b_j`, are hashed linearly,
:math:`h = \sum_j a_j b_j` modulo :math:`2^{64}`, with random odd :math:`a_j`; a stream of numbers follows from h by the
steps of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014). Coordinates of zero add nothing, so that a sparse row has the
numbers of a dense one. In float64 the rounding to float32 leaves out what another order of operations may change: a
row has the same numbers at any length, in all but about one of a million coordinates.
"""

from __future__ import annotations

import numpy as np

_STEP, _FIRST, _SECOND = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def random_multipliers(dim: int, random: np.random.RandomState) -> np.ndarray:
    """Draw the odd numbers a_j of the hash, (dim,) int64."""
    return random.randint(-(2**63), 2**63 - 1, size=dim, dtype=np.int64) | 1


def bits_of(values: np.ndarray) -> np.ndarray:
    """The numbers rounded to float32, as integers, int64; zero for zero of either sign."""
    return (np.asarray(values, dtype=np.float32) + np.float32(0)).view(np.int32).astype(np.int64)


def uniform_numbers(hashes: np.ndarray, size: int) -> np.ndarray:
    """The first numbers of each row's stream.

    Parameters
    ----------
    hashes : ndarray (n,) int64
        The rows' hashes h.
    size : int
        Numbers a row.

    Returns
    -------
    ndarray (n, size)
        Float64, uniform in (0, 1).
    """
    z = hashes.view(np.uint64)[:, None] + _STEP * np.arange(1, size + 1, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(12)) + 0.5) * 2.0**-52
