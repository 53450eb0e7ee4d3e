"""Unit vectors, as a constraint of ``torch.distributions``, and how far rounding may take them from length one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to, transforms

from vmflearn.sphere.arguments import as_real_tensor, first_offender, is_visible
from vmflearn.sphere.directions import directions


class _UnitVector(constraints.Constraint):
    """Vectors of length one, within what rounding and normalisation in the dtype can leave."""

    is_discrete = False
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (lengths(value) - 1).abs() <= length_tolerance(value.dtype)


unit_vector = _UnitVector()


class UnitVectorTransform(transforms.Transform):
    """x / |x|, from vectors of any length but zero; the inverse leaves unit vectors as they are."""

    domain = constraints.independent(constraints.real, 1)
    codomain = unit_vector
    bijective = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitVectorTransform)

    __hash__ = transforms.Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return directions(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return y


transform_to.register(unit_vector, lambda constraint: UnitVectorTransform())


def lengths(value: Tensor) -> Tensor:
    """Euclidean lengths of the vectors along the last axis, in float64 (float32 on MPS)."""
    return torch.linalg.vector_norm(value, dim=-1, dtype=torch.float32 if value.device.type == "mps" else torch.float64)


def length_tolerance(dtype: torch.dtype) -> float:
    """How far from 1 the length of a unit vector may be: 1e-10 in float64, 1e-5 in float32, 1e-2 in half precision."""
    return {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 1e-2)


def check_unit_vectors(value: Tensor, name: str, row: bool = False) -> None:
    """Raise `ValueError` that names the length (and with ``row`` the index) of the first vector not of length one."""
    if not is_visible(value):
        return
    valid = unit_vector.check(value)
    if bool(valid.all()):
        return
    length = first_offender(lengths(value), valid)
    where = f" at index {tuple((~valid).nonzero()[0].tolist())}" if row else ""
    raise ValueError(
        f"{name} must be of unit length, got a vector of length {length}{where}; "
        f"normalise it with torch.nn.functional.normalize({name}, dim=-1)"
    )


def check_value(value: object, dim: int) -> None:
    """Check the argument of a ``log_prob``: a tensor of unit vectors with ``dim`` coordinates."""
    if not isinstance(value, Tensor) or value.dim() < 1 or value.shape[-1] != dim:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"value must be a tensor of shape (..., {dim}), got {shape}")
    as_real_tensor(value, "value")
    check_unit_vectors(value, "value")
