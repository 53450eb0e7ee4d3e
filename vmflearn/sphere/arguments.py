"""What the public functions of this package accept: a dimension, a concentration, a mean resultant length."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

Real = Tensor | np.ndarray | float | Sequence[float]
LARGEST_ORDER = 1e12

# True inside vmap, grad and the like of torch.func. Not a public name: should it go, all calls take the general way.
in_transform: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def check_dim(dim: int) -> int:
    """Return `dim` as an int; it is the dimension p of the ambient space, so that the sphere is S^(p-1)."""
    if isinstance(dim, bool) or not isinstance(dim, numbers.Integral):
        raise ValueError(f"dim must be an integer, got {dim!r}; pass the number of coordinates, for example dim=256")
    if dim < 2:
        raise ValueError(f"dim must be at least 2 (the circle), got {dim}")
    return int(dim)


def as_real_tensor(value: Real, name: str, keep: bool = False) -> Tensor:
    """Return a floating-point tensor: tensors as they are, anything else (float, list, array) as float64.

    With ``keep`` an array of floating-point numbers keeps its precision, which tells how far rounding may have gone.
    """
    refuse_masked(value, name)
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
            if array.dtype.kind == "c":
                raise TypeError("complex")
            narrow = keep and array.dtype.kind == "f" and array.dtype.itemsize < 8
            value = as_tensor(array if narrow else array.astype(np.float64, copy=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a real number, an array or a tensor, got {value!r}") from error
    if not value.is_floating_point():
        raise ValueError(
            f"{name} must have a floating-point dtype, got {value.dtype}; convert it with .to(torch.float64)"
        )
    return value


def refuse_masked(value: object, name: str) -> None:
    """Refuse an array of which something is masked: what NumPy and torch make of it holds the masked numbers too."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} is masked in {int(value.mask.sum())} places: fill them, or leave their rows out")


def device_and_dtype(
    device: torch.device | str | torch.dtype | None, dtype: torch.dtype | None
) -> tuple[torch.device | str | None, torch.dtype | None]:
    """What ``to`` is asked for; a dtype may stand in the first place, as in ``Tensor.to``."""
    if not isinstance(device, torch.dtype):
        return device, dtype
    if dtype is not None:
        raise ValueError(f"to is given two dtypes, {device} and {dtype}: give one")
    return None, device


def as_tensor(array: np.ndarray) -> Tensor:
    """View an array as a tensor; copied only if its type, byte order or strides are unknown to torch."""
    known = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8
    if not known or not array.dtype.isnative or min(array.strides, default=0) < 0:
        array = np.array(array, dtype=array.dtype.newbyteorder("=") if known else np.float64, order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def is_visible(value: Tensor) -> bool:
    """Whether the values can be looked at: not while ``torch.compile`` traces, nor under ``vmap``.

    ``torch.jit.trace`` records one run, without what depends on values or on a derivative of ours: it is refused.
    """
    if torch.compiler.is_compiling():
        return False
    if torch.jit.is_tracing():
        raise RuntimeError("torch.jit.trace would record one run's constants; use torch.compile or torch.export")
    if not in_transform():
        return True
    try:
        return bool(torch.zeros_like(value.detach()).sum() == 0)
    except RuntimeError:  # vmap has no one answer for its batch
        return False


def as_concentration(kappa: Real, name: str = "kappa") -> Tensor:
    """Return `kappa` as a floating-point tensor, no element negative or NaN (where visible); infinity is allowed."""
    kappa = as_real_tensor(kappa, name)
    if not is_visible(kappa):
        return kappa
    if kappa.numel() and not bool(kappa.detach().min() >= 0):  # the minimum of anything and NaN is NaN
        raise ValueError(
            f"{name} must not be negative or NaN, got {first_offender(kappa, kappa >= 0)}; "
            "it is a concentration: 0 is the uniform distribution, larger is narrower"
        )
    return kappa


def as_order(order: float) -> Fraction:
    """Return the order of a Bessel function, exactly up to 2^-60, below which nothing computed here depends on it."""
    if isinstance(order, bool) or not isinstance(order, numbers.Real):
        raise ValueError(f"order must be a real number, got {order!r}; for example order=2.5")
    if not 0 <= order <= LARGEST_ORDER:
        raise ValueError(f"order must lie between 0 and {LARGEST_ORDER:.0e}, got {order}")
    exact = Fraction(order) if isinstance(order, Fraction) else Fraction(float(order))
    return Fraction(round(exact * 2**60), 2**60)


def first_offender(values: Tensor, valid: Tensor) -> float:
    """Return the first element of `values` where `valid` is false, for an error message."""
    return float(values.detach()[~valid].flatten()[0])
