"""What the public functions of this package accept: a dimension, a concentration, a mean resultant length."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

Real = Tensor | np.ndarray | float | Sequence[float]


def check_dim(dim: int) -> int:
    """Return `dim` as an int; it is the dimension p of the ambient space, so that the sphere is S^(p-1)."""
    if isinstance(dim, bool) or not isinstance(dim, Integral):
        raise ValueError(f"dim must be an integer, got {dim!r}; pass the number of coordinates, for example dim=256")
    if dim < 2:
        raise ValueError(f"dim must be at least 2 (the circle), got {dim}")
    return int(dim)


def as_real_tensor(value: Real, name: str) -> Tensor:
    """Return a floating-point tensor: tensors as they are, anything else (float, list, array) as float64."""
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a real number, an array or a tensor, got {value!r}") from error
    if not value.is_floating_point():
        raise ValueError(
            f"{name} must have a floating-point dtype, got {value.dtype}; convert it with .to(torch.float64)"
        )
    return value


def as_concentration(kappa: Real, name: str = "kappa") -> Tensor:
    """Return `kappa` as a floating-point tensor, every element finite and not negative."""
    kappa = as_real_tensor(kappa, name)
    valid = (kappa >= 0) & torch.isfinite(kappa)
    if not bool(valid.all()):
        raise ValueError(
            f"{name} must be finite and not negative, got {first_offender(kappa, valid)}; "
            "it is a concentration: 0 is the uniform distribution, larger is narrower"
        )
    return kappa


def first_offender(values: Tensor, valid: Tensor) -> float:
    """Return the first element of `values` where `valid` is false, for an error message."""
    return float(values.detach()[~valid].flatten()[0])
