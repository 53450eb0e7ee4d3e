"""Rows of a sparse matrix as directions, with the methods of `vmflearn.sphere.rows.DenseRows`; they stay sparse.

Memory is O(nnz + chunk x K): the stored values are scaled once, positions are shared with the matrix given, and both
products are sparse times dense.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from vmflearn.distributed import gather_rows
from vmflearn.sphere.row_numbers import bits_of
from vmflearn.sphere.rows import length_tolerance, refuse_rows, working_dtype


class SparseChunk:
    """Unit rows (size, dim), compressed."""

    __slots__ = ("x",)

    def __init__(self, x: csr_array):
        self.x = x

    def products(self, directions: Tensor, offsets: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """<d_j, x_i> + offsets_j, (m, size), for directions (m, dim) and offsets (m, 1); ``out`` is not needed."""
        result = torch.from_numpy(self.x @ directions.T.numpy()).T
        return result if offsets is None else result.add_(offsets)

    def weighted_sum(self, coefficients: Tensor) -> Tensor:
        """sum_i r_ji x_i, (m, dim), for coefficients r (m, size)."""
        return torch.from_numpy(self.x.T @ coefficients.T.numpy()).T

    def add_to(self, sums: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Add each row, times its weight (size,), to the row of ``sums`` (m, dim), float64, that its label names."""
        size = len(labels)
        members = csr_array((weights.numpy(), (labels.numpy(), np.arange(size))), shape=(len(sums), size))
        sums += torch.from_numpy((members @ self.x).toarray())

    def hashes(self, multipliers: np.ndarray) -> np.ndarray:
        """Hashes of the rows' values, (size,) int64, for multipliers (dim,) int64."""
        bits = csr_array((bits_of(self.x.data), self.x.indices, self.x.indptr), shape=self.x.shape)
        return np.asarray(bits @ multipliers)


class SparseRows:
    """Rows of a compressed matrix (n, dim), float32 or float64, of unit length; on the CPU."""

    device = torch.device("cpu")

    def __init__(self, matrix: csr_array):
        self.matrix = matrix
        self.dtype = torch.float32 if matrix.dtype == np.float32 else torch.float64

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def dim(self) -> int:
        """Number of coordinates p."""
        return int(self.matrix.shape[1])

    def chunks(self, chunk_size: int) -> Iterator[tuple[slice, SparseChunk]]:
        """Yield (slice, chunk of unit rows)."""
        for first in range(0, len(self), chunk_size):
            chunk = slice(first, min(first + chunk_size, len(self)))
            yield chunk, SparseChunk(self.matrix[chunk])

    def take(self, index: Tensor) -> SparseRows:
        """Copies of some rows, int64 indices."""
        return SparseRows(self.matrix[index.numpy()])

    def gathered(self) -> SparseRows:
        """Unit rows of all processes, in the order of their ranks."""
        pieces = (self.matrix.data, self.matrix.indices.astype(np.int64), np.diff(self.matrix.indptr).astype(np.int64))
        data, indices, sizes = (gather_rows(torch.from_numpy(piece)).numpy() for piece in pieces)
        return SparseRows(csr_array((data, indices, np.append(0, np.cumsum(sizes))), shape=(len(sizes), self.dim)))

    def dense(self) -> Tensor:
        """All unit rows (n, dim), float64."""
        return torch.from_numpy(self.matrix.toarray()).double()

    def products(self, directions: Tensor) -> Tensor:
        """<d_j, x_i> (m, n) for directions (m, dim) of any float type."""
        return SparseChunk(self.matrix).products(directions.to(self.dtype))


def sparse_rows(matrix: csr_array, normalize: bool = True, name: str = "X") -> tuple[SparseRows, np.ndarray]:
    """Scale the rows of a compressed matrix to unit length; parameters, results, errors as in `rows.dense_rows`."""
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    row_of = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    values = np.asarray(matrix.data, dtype=np.float64)
    bad = np.zeros(matrix.shape[0], dtype=bool)
    bad[row_of[~np.isfinite(values)]] = True
    values = np.where(bad[row_of], 0.0, values)
    largest = np.zeros(matrix.shape[0])
    np.maximum.at(largest, row_of, np.abs(values))
    divisor = np.where(largest > 0, largest, 1.0)
    values /= divisor[row_of]  # squares of 1e200 would leave the range
    norms = np.sqrt(np.bincount(row_of, values**2, minlength=matrix.shape[0]))
    dtype = torch.from_numpy(matrix.data[:0]).dtype
    refuse_rows(bad, norms * divisor, normalize, length_tolerance(dtype, matrix.shape[1]), name)
    values /= np.where(norms > 0, norms, 1.0)[row_of]
    working = np.float32 if working_dtype(dtype) == torch.float32 else np.float64
    scaled = csr_array((values.astype(working), matrix.indices, matrix.indptr), shape=matrix.shape)
    return SparseRows(scaled), norms == 0
