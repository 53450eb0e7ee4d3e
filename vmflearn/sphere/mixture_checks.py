"""What the mixture estimator accepts: settings, rows, weights; and the same from all processes.

Each check raises ValueError with the argument, the value and what to do.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, issparse
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data
from torch import Tensor

from vmflearn.distributed import all_or_none, gather_rows, is_distributed, sum_over_processes, unlike
from vmflearn.sphere.arguments import as_tensor, refuse_masked
from vmflearn.sphere.em import Data
from vmflearn.sphere.mixture_start import float64_array
from vmflearn.sphere.rows import DenseRows, dense_rows
from vmflearn.sphere.sparse_rows import SparseRows, sparse_rows


def check_settings(estimator: Any) -> None:
    """Refuse constructor parameters that are out of range."""
    for name in ("n_components", "n_init", "chunk_size"):
        check_count(name, getattr(estimator, name))
    check_count("max_iter", estimator.max_iter, least=0)
    for name, choices in (
        ("concentration", ("free", "tied")),
        ("assignment", ("soft", "hard")),
        ("empty", ("keep", "reseed")),
        ("accelerated", (True, False)),
        ("normalize", (True, False)),
        ("warm_start", (True, False)),
    ):
        if getattr(estimator, name) not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {getattr(estimator, name)!r}")
    for name in ("tol", "shrinkage", "learning_offset"):
        value = getattr(estimator, name)
        if not _is_real(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    decay = estimator.learning_decay
    if not _is_real(decay) or not 0.5 < decay <= 1:
        raise ValueError(f"learning_decay must be a number in (0.5, 1], got {decay!r}")
    if isinstance(estimator.init, str) and estimator.init not in ("merge", "k-means++", "random"):
        raise ValueError(
            f"init must be 'merge', 'k-means++', 'random' or an array of directions, got {estimator.init!r}"
        )
    try:
        check_random_state(estimator.random_state)
    except ValueError as error:
        raise ValueError(
            f"random_state must be an integer from 0 to 2^32 - 1, a RandomState or None, got {estimator.random_state!r}"
        ) from error


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not an integer of at least ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def rows_of(estimator: Any, X: Any, reset: bool) -> tuple[DenseRows | SparseRows, np.ndarray]:
    """Unit rows of array, tensor, memory map, sparse matrix or frame (n, dim), and which of them are zero.

    ``reset`` tells whether the number of features is set (fit) or compared (all else).
    """
    refuse_masked(X, "X")
    # Later the number of features has to be that of fit anyway. NaN and infinity are refused with their rows below.
    settings = {"reset": reset, "ensure_all_finite": False, "ensure_min_features": 2 if reset else 1}
    device = device_of(estimator.device, X)
    chunk_size, normalize = int(estimator.chunk_size), bool(estimator.normalize)
    if isinstance(X, Tensor):
        if X.layout != torch.strided or X.is_complex():
            raise ValueError(f"X is a tensor of layout {X.layout} and dtype {X.dtype}: give a dense real tensor")
        # An array of that shape which takes no memory: scikit-learn checks the shape without touching the tensor.
        validate_data(estimator, np.broadcast_to(np.float64(0.0), tuple(X.shape)), **settings)
        return dense_rows(X.detach().to(device), device, chunk_size, normalize)
    if issparse(X) or _is_sparse_frame(X):
        if device.type != "cpu":
            raise ValueError(f"X is sparse and device is {device}: sparse rows are worked on by the CPU, device=None")
        matrix = validate_data(estimator, X, accept_sparse="csr", dtype=[np.float64, np.float32], **settings)
        return sparse_rows(csr_array(matrix), normalize)
    array = validate_data(estimator, X, dtype="numeric", **settings)
    data = as_tensor(array)
    if not isinstance(X, np.memmap):  # a memory map stays where it is: its chunks travel
        data = data.to(device)
    return dense_rows(data, device, chunk_size, normalize)


def _is_sparse_frame(X: Any) -> bool:
    """Whether X is a data frame of pandas all of whose columns are sparse, which alone has the accessor ``sparse``."""
    return hasattr(X, "columns") and hasattr(X, "sparse")


def device_of(device: Any, X: Any) -> torch.device:
    """The device asked for; without one that of a tensor, and the CPU for all else."""
    if device is None:
        return X.device if isinstance(X, Tensor) else torch.device("cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, dtype=torch.float64, device=device)  # sums are made in float64
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device={device!r} cannot be used here: {error}") from error
    return device


def data_of(estimator: Any, X: Any, sample_weight: ArrayLike | None, first: bool, reset: bool) -> Data:
    """Rows and weights of this process and totals of all, for `fit` and `partial_fit`.

    ``first`` tells that the mixture starts from these rows, so that there must be one for each component.
    """

    def local() -> tuple[DenseRows | SparseRows, np.ndarray]:
        check_settings(estimator)
        rows, is_zero = rows_of(estimator, X, reset)
        return rows, row_weights(is_zero, sample_weight)

    rows, weights = all_or_none(local)
    check_agreement(estimator, rows, first)
    largest = float(gather_rows(torch.tensor([weights.max(initial=0.0)], dtype=torch.float64)).max())
    exponent = math.frexp(largest)[1] - 1
    weights = np.ldexp(weights, -exponent)  # by a power of two: not a bit of an ordinary weight changes
    count, total = sum_over_processes(
        torch.tensor([float((weights > 0).sum()), float(weights.sum())], dtype=torch.float64)
    ).tolist()
    if count < (estimator.n_components if first else 1):
        raise ValueError(
            f"n_samples={int(count)} rows with a direction and positive weight for "
            f"n_components={estimator.n_components}: give more rows or lower n_components"
        )
    return Data(rows, torch.from_numpy(weights).to(rows.device), total, int(count), math.ldexp(1.0, exponent))


def row_weights(is_zero: np.ndarray, sample_weight: ArrayLike | None, warn: bool = True) -> np.ndarray:
    """Weights (n,) float64, zero for rows of zeros, of which there is a warning."""
    refuse_masked(sample_weight, "sample_weight")
    shape = np.broadcast_to(np.float64(0.0), (len(is_zero), 1))
    weights: np.ndarray = _check_sample_weight(sample_weight, shape, dtype=np.float64, copy=True)
    if (weights < 0).any():
        first = np.flatnonzero(weights < 0)[:5].tolist()
        raise ValueError(f"sample_weight is negative in rows {first}: weights must be >= 0")
    weights[is_zero] = 0.0
    if warn and is_zero.any():
        warnings.warn(
            f"X has {int(is_zero.sum())} rows of zeros, first {np.flatnonzero(is_zero)[:5].tolist()}: they have no "
            "direction and weigh nothing in the fit",
            UserWarning,
            stacklevel=6,
        )
    return weights


def check_agreement(estimator: Any, rows: DenseRows | SparseRows, first: bool) -> None:
    """Refuse, on all processes, rows, settings or fitted parameters that differ between processes.

    Otherwise one might end before the others, which would wait for it for ever.
    """
    names = ("n_features", "n_components", "bytes of a number", "sparse", "starts here")
    own = [rows.dim, estimator.n_components, rows.dtype.itemsize, isinstance(rows, SparseRows), first]
    table = gather_rows(torch.tensor([own], dtype=torch.int64))
    for name, column in zip(names, table.T, strict=True):
        if len(column.unique()) > 1:
            raise ValueError(f"{name} differs between processes, {column.tolist()}: give all the same kind of rows")
    if is_distributed():
        check_same(all_or_none(lambda: _shared(estimator, first)))


# What each process may have for itself: it changes rounding, or the first process decides.
_OWN = {"chunk_size", "device", "random_state", "verbose"}


def _shared(estimator: Any, first: bool) -> dict[str, Any]:
    """What all processes must have alike: numbers and names as they are, arrays as a fingerprint of their values."""
    values = {name: value for name, value in estimator.get_params(deep=False).items() if name not in _OWN}
    if not first:
        values |= {name: getattr(estimator, name) for name in ("weights_", "means_", "concentrations_")}
    return {name: value if _is_plain(value) else _fingerprint(name, value) for name, value in values.items()}


def check_same(own: dict[str, Any]) -> None:
    """Refuse, on all processes, numbers, names and fingerprints that differ between them."""
    for name, values in unlike(own).items():
        shown = ", ".join(str(value) if _is_plain(value) else f"array {value[0]}" for value in values)
        raise ValueError(f"{name} differs between processes, {shown}: give all the same values")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, Real))


def _fingerprint(name: str, value: Any) -> tuple[Any, ...]:
    values = float64_array(name, value)
    return values.shape, hashlib.sha256(values.tobytes()).hexdigest()
