"""From rows of numbers to directions: rows of unit length, handed out chunk by chunk and never copied as a whole.

Two classes with the same methods: `DenseRows` here (arrays, memory maps, tensors on any device) and `SparseRows` in
`vmflearn.sphere.sparse_rows`. A chunk of either offers the two products that expectation-maximisation is made of, and
what takes the place of the second where each row has one label,

    products:      <d_j, x_i>                          for directions d_j
    weighted_sum:  sum_i r_ji x_i                      for coefficients r_ji
    add_to:        R_j + sum over label j of w_i x_i   for labels and weights w_i

and hashes, from which `vmflearn.sphere.row_numbers` draws numbers that belong to the values of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vmflearn.distributed import gather_rows
from vmflearn.sphere.row_numbers import bits_of

# Lengths outside these bounds, or their squares, leave the range of the type: such rows are scaled in two steps.
_SAFE_LENGTH = {torch.float32: 1e30, torch.float64: 1e150}


class DenseChunk:
    """Unit rows (size, dim)."""

    __slots__ = ("x",)

    def __init__(self, x: Tensor):
        self.x = x

    def products(self, directions: Tensor, offsets: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """<d_j, x_i> + offsets_j, (m, size), for directions (m, dim) and offsets (m, 1)."""
        if offsets is None:
            return torch.mm(directions, self.x.T, out=out)
        return torch.addmm(offsets, directions, self.x.T, out=out)

    def weighted_sum(self, coefficients: Tensor) -> Tensor:
        """sum_i r_ji x_i, (m, dim), for coefficients r (m, size)."""
        return coefficients @ self.x

    def add_to(self, sums: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Add each row, times its weight (size,), to the row of ``sums`` (m, dim), float64, that its label names."""
        is_one = bool((weights == 1).all())  # as a rule, and then a pass over the rows is spared
        sums.index_add_(0, labels, self.x.double() if is_one else self.x * weights[:, None])

    def hashes(self, multipliers: np.ndarray) -> np.ndarray:
        """Hashes of the rows' values, (size,) int64, for multipliers (dim,) int64."""
        return bits_of(self.x.cpu().numpy()) @ multipliers


class DenseRows:
    """Rows (n, dim) of an array or tensor of any real type, scaled to unit length when a chunk is asked for.

    Parameters
    ----------
    data : Tensor (n, dim)
        As the user gave it: any type, strides and device; not changed, not copied.
    dtype : torch.dtype
        float32 or float64, in which chunks are handed out.
    device : torch.device
        Where chunks are handed out.
    inverse_lengths : Tensor (n,) or None
        1 / |x_i| in ``dtype`` on ``device``; None when all rows have unit length already.
    extreme : Tensor (n,) bool or None
        Rows to scale in two steps.
    """

    def __init__(
        self,
        data: Tensor,
        dtype: torch.dtype,
        device: torch.device,
        inverse_lengths: Tensor | None = None,
        extreme: Tensor | None = None,
    ):
        self.data, self.dtype, self.device = data, dtype, device
        self.inverse_lengths, self.extreme = inverse_lengths, extreme

    def __len__(self) -> int:
        return len(self.data)

    @property
    def dim(self) -> int:
        """Number of coordinates p."""
        return self.data.shape[1]

    def chunks(self, chunk_size: int) -> Iterator[tuple[slice, DenseChunk]]:
        """Yield (slice, chunk of unit rows)."""
        for first in range(0, len(self), chunk_size):
            chunk = slice(first, min(first + chunk_size, len(self)))
            yield chunk, DenseChunk(self._unit(chunk))

    def take(self, index: Tensor) -> DenseRows:
        """Copies of some rows, int64 indices."""
        return DenseRows(self._unit(index), self.dtype, self.device)

    def gathered(self) -> DenseRows:
        """Unit rows of all processes, in the order of their ranks."""
        return DenseRows(gather_rows(self._unit(slice(None))), self.dtype, self.device)

    def dense(self) -> Tensor:
        """All unit rows (n, dim), float64 on the CPU."""
        return self._unit(slice(None)).double().cpu()

    def products(self, directions: Tensor) -> Tensor:
        """<d_j, x_i> (m, n) for directions (m, dim) of any float type."""
        return DenseChunk(self._unit(slice(None))).products(directions.to(self.device, self.dtype))

    def _unit(self, index: slice | Tensor) -> Tensor:
        block = self.data[index.to(self.data.device) if isinstance(index, Tensor) else index]
        x = block.to(self.device, self.dtype)
        if self.inverse_lengths is None:
            return x
        x = x * self.inverse_lengths[index, None]
        if self.extreme is not None:
            extreme = self.extreme[index]
            x[extreme] = scale_in_two_steps(block.to(self.device)[extreme].double()).to(self.dtype)
        return x


def scale_in_two_steps(x: Tensor) -> Tensor:
    """Rows (n, dim) of float64 divided by their length: squares of 1e200 or 1e-200 would leave the range."""
    x = x / x.abs().amax(dim=1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of the products: float32 for rows of float32 and half types, float64 for all others."""
    return torch.float32 if dtype in (torch.float32, torch.float16, torch.bfloat16) else torch.float64


def length_tolerance(dtype: torch.dtype, dim: int) -> float:
    """Deviation from 1 that rounding explains in the length of a unit row: 8 sqrt(dim) eps."""
    return 8 * math.sqrt(dim) * torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps


def dense_rows(
    data: Tensor, device: torch.device, chunk_size: int, normalize: bool = True, name: str = "X"
) -> tuple[DenseRows, np.ndarray]:
    """Inspect the rows once, chunk by chunk.

    Parameters
    ----------
    data : Tensor (n, dim)
        Any real type.
    device : torch.device
        Where the products are to be made.
    chunk_size : int
        Rows inspected at once.
    normalize : bool, default=True
        False: refuse rows whose length is not 1 within `length_tolerance`, instead of scaling them.
    name : str, default="X"
        What errors call the data.

    Returns
    -------
    DenseRows
        The rows.
    ndarray (n,) bool
        Which rows are zero and so have no direction.

    Raises
    ------
    ValueError
        NaN or infinity, or a refused length; the first such rows are named.
    """
    dtype = working_dtype(data.dtype)
    safe = _SAFE_LENGTH[dtype]
    lengths = torch.empty(len(data), dtype=torch.float64)
    extreme = torch.zeros(len(data), dtype=torch.bool)
    bad = torch.zeros(len(data), dtype=torch.bool)
    for first in range(0, len(data), chunk_size):
        chunk = slice(first, min(first + chunk_size, len(data)))
        x = data[chunk].to(device, dtype)
        length = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).cpu()
        unsafe = ~((length > 1 / safe) & (length < safe))  # NaN too
        if bool(unsafe.any()):
            rest = x[unsafe.to(device)].cpu().double()
            largest = rest.abs().amax(dim=1)
            finite = torch.isfinite(rest).all(dim=1)
            bad[chunk][unsafe] = ~finite
            extreme[chunk][unsafe] = finite & (largest > 0)
            scaled = torch.linalg.vector_norm(rest / torch.where(largest > 0, largest, 1.0)[:, None], dim=1)
            length[unsafe] = torch.where(largest > 0, largest * scaled, 0.0)
        lengths[chunk] = length
    refuse_rows(bad.numpy(), lengths.numpy(), normalize, length_tolerance(data.dtype, data.shape[1]), name)
    is_zero = lengths == 0
    rows = DenseRows(data, dtype, device)
    if bool(((lengths - 1).abs() > length_tolerance(dtype, data.shape[1]))[~is_zero].any()):
        rows.inverse_lengths = torch.where(is_zero | extreme, 1.0, 1 / lengths).to(device, dtype)
        rows.extreme = extreme.to(device) if bool(extreme.any()) else None
    return rows, is_zero.numpy()


def refuse_rows(bad: np.ndarray, lengths: np.ndarray, normalize: bool, tolerance: float, name: str) -> None:
    """Raise ValueError for rows that are not finite, and without ``normalize`` for rows not of unit length."""
    if bad.any():
        first = np.flatnonzero(bad)[:5].tolist()
        raise ValueError(f"{name} contains NaN or infinity in {bad.sum()} rows, first {first}: remove or repair them")
    if normalize:
        return
    wrong = np.abs(lengths - 1) > tolerance
    if wrong.any():
        first = np.flatnonzero(wrong)[:5]
        raise ValueError(
            f"{name} has {wrong.sum()} rows whose length differs from 1 by more than {tolerance:.2g}, first "
            f"{first.tolist()} with lengths {[float(f'{x:.6g}') for x in lengths[first]]}: scale them, or set "
            "normalize=True"
        )
