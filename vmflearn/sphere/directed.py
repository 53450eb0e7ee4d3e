r"""What distributions around one direction share: two checked parameters, a batch, the form of the second moments.

If the density depends on x through :math:`t = \mu^\top x` alone, the mean lies along :math:`\mu` and

.. math:: \operatorname{Cov} x = a\,\mu\mu^\top + b\,(I - \mu\mu^\top), \qquad
          a = \operatorname{Var} t, \qquad b = \mathrm E(1 - t^2) / (p - 1) .
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vmflearn.sphere.arguments import Real, as_real_tensor, device_and_dtype, first_offender, is_visible
from vmflearn.sphere.constraints import check_unit_vectors, unit_vector
from vmflearn.sphere.directions import directions

Own = TypeVar("Own", bound="DirectedDistribution")


class DirectedDistribution(Distribution, ABC):
    """A distribution on the sphere with a direction ``loc`` and a concentration, symmetric about that direction.

    Parameters and errors as in `vmflearn.sphere.distribution.VonMisesFisher`.
    """

    arg_constraints = {"loc": unit_vector, "concentration": constraints.nonnegative}  # noqa: RUF012
    support = unit_vector
    has_rsample = True

    def __init__(self, loc: Real, concentration: Real, validate_args: bool | None = None) -> None:
        loc = as_real_tensor(loc, "loc", keep=True)
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(f"loc must have shape (..., dim) with dim at least 2, got shape {tuple(loc.shape)}")
        if isinstance(concentration, Tensor):
            concentration = as_real_tensor(concentration, "concentration")
        else:
            dtype = torch.promote_types(loc.dtype, torch.float32)  # float16 ends at 65504
            concentration = as_real_tensor(concentration, "concentration").to(loc.device, dtype)
        if concentration.device != loc.device:
            raise ValueError(
                f"loc is on {loc.device} and concentration on {concentration.device}; move one with .to(device)"
            )
        checked = True if validate_args is None else validate_args
        if checked and is_visible(concentration):
            valid = concentration >= 0
            if not bool(valid.all()):
                raise ValueError(
                    f"concentration must not be negative or NaN, got {first_offender(concentration, valid)}; "
                    "0 is the uniform distribution, larger is narrower, inf is the point mass"
                )
        if checked:
            check_unit_vectors(loc, "loc")
        try:
            batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        except RuntimeError as error:
            raise ValueError(
                f"concentration of shape {tuple(concentration.shape)} does not broadcast against the batch shape "
                f"{tuple(loc.shape[:-1])} of loc"
            ) from error
        self._set(loc.expand(*batch_shape, loc.shape[-1]), concentration.expand(batch_shape), checked)

    def _set(self, loc: Tensor, concentration: Tensor, checked: bool) -> None:
        self.loc, self.concentration = loc, concentration
        # The parameters are checked above, with messages that name the value.
        super().__init__(concentration.shape, loc.shape[-1:], validate_args=False)
        self._validate_args = checked

    def _with(self: Own, loc: Tensor, concentration: Tensor, instance: Any = None) -> Own:
        """The same distribution with other parameters, which are right already."""
        new: Own = self._get_checked_instance(DirectedDistribution, instance)  # refuses heirs with other constructors
        DirectedDistribution._set(new, loc, concentration, self._validate_args)
        return new

    @property
    def dim(self) -> int:
        """Number of coordinates p; the sphere is S^(p-1)."""
        return self._event_shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of means and divergences, that of ``loc`` and ``concentration`` together; samples have that of loc."""
        return torch.promote_types(self.loc.dtype, self.concentration.dtype)

    @property
    def device(self) -> torch.device:
        """Device of the parameters and of samples."""
        return self.loc.device

    def expand(self: Own, batch_shape: Any, _instance: Any = None) -> Own:
        """Return the distribution with its parameters broadcast to ``batch_shape``, without copying."""
        batch_shape = torch.Size(batch_shape)
        loc = self.loc.expand(*batch_shape, self.dim)
        return self._with(loc, self.concentration.expand(batch_shape), _instance)

    def to(self: Own, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Own:
        """Return the distribution on another device, or with parameters of another floating-point dtype.

        The dtype may come first, as in ``Tensor.to``. In a wider one ``loc`` is normalised again, because its length is
        one to the rounding of the narrower only.

        Raises
        ------
        ValueError
            A dtype that is not floating-point, or a finite concentration that would be infinite in it.
        """
        device, dtype = device_and_dtype(device, dtype)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point dtype, got {dtype}; pass for example torch.float32")
        loc, concentration = self.loc.to(dtype=dtype), self.concentration.to(dtype=dtype)
        if torch.finfo(loc.dtype).eps < torch.finfo(self.loc.dtype).eps:
            loc = directions(loc)
        kept = ~torch.isinf(concentration) | torch.isinf(self.concentration)
        if is_visible(concentration) and not bool(kept.all()):
            raise ValueError(
                f"concentration {first_offender(self.concentration, kept)} has no finite value in {dtype}: it would "
                "become a point mass"
            )
        return self._with(loc.to(device), concentration.to(device))

    def __getitem__(self: Own, index: Any) -> Own:
        """Part of the batch, as indexing tensors of the batch shape takes it."""
        if not self._batch_shape:
            raise TypeError(f"this {type(self).__name__} has no batch to index: its batch shape is empty")
        concentration = self.concentration[index]
        parts = index if isinstance(index, tuple) else (index,)
        has_ellipsis = any(part is Ellipsis for part in parts)  # which would reach to the last axis of loc
        return self._with(self.loc[(*parts, slice(None))] if has_ellipsis else self.loc[index], concentration)

    def working_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``loc`` and ``concentration`` in at least float32, 1 in place of infinities, and where those were."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        infinite = torch.isinf(self.concentration)
        return self.loc.to(dtype), torch.where(infinite, 1.0, self.concentration).to(dtype), infinite

    @property
    def mode(self) -> Tensor:
        """The direction of highest density, ``loc`` (at concentration 0 every direction is one)."""
        return self.loc

    @abstractmethod
    def _variances(self) -> tuple[Tensor, Tensor]:
        """Variance along the mean direction and across it, a and b of the module's equation, each (...)."""

    @property
    def variance(self) -> Tensor:
        r"""Variance of each coordinate, (..., dim): :math:`a\mu_i^2 + b(1 - \mu_i^2)`."""
        loc, _, _ = self.working_parameters()
        along, across = self._variances()
        squared = loc**2
        return (along.unsqueeze(-1) * squared + across.unsqueeze(-1) * (1 - squared)).to(self.dtype)

    @property
    def covariance_matrix(self) -> Tensor:
        r"""Covariances of the coordinates, (..., dim, dim): :math:`a\mu\mu^\top + b(I - \mu\mu^\top)`."""
        loc, _, _ = self.working_parameters()
        along, across = (v[..., None, None] for v in self._variances())
        outer = loc.unsqueeze(-1) * loc.unsqueeze(-2)
        identity = torch.eye(self.dim, dtype=loc.dtype, device=loc.device)
        return (along * outer + across * (identity - outer)).to(self.dtype)
