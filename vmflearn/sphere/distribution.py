r"""The von Mises-Fisher distribution on the unit sphere, as a ``torch.distributions.Distribution``.

.. math:: f(x) = C_p(\kappa)\, e^{\kappa\,\mu^\top x}, \qquad \|x\| = \|\mu\| = 1

with respect to surface measure (section 3 of the paper). Its logarithm is computed as
:math:`\log C_p(0) + E(\kappa) - \tfrac12\kappa\|x - \mu\|^2` with :math:`E = \kappa - \log H(\kappa)`: near the mode
:math:`\log C_p` and :math:`\kappa\mu^\top x` are large and nearly cancel, while these terms are small.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.distributions.utils import broadcast_all

from vmflearn.sphere.arguments import Real, as_concentration, as_real_tensor, first_offender
from vmflearn.sphere.expansion import log_normalizer_at_zero
from vmflearn.sphere.kernels import complement_kernel, excess_kernel, length_derivative_kernel, length_kernel
from vmflearn.sphere.sampling import sample_complement, sample_tangent


class _UnitVector(constraints.Constraint):
    """Vectors of length one, within what rounding and normalisation in the dtype can leave."""

    is_discrete = False
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(value.double(), dim=-1)
        return (length - 1).abs() <= length_tolerance(value.dtype)


unit_vector = _UnitVector()


def length_tolerance(dtype: torch.dtype) -> float:
    """How far from 1 the length of a unit vector may be: 1e-10 in float64, 1e-5 in float32, 1e-2 in half precision."""
    return {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 1e-2)


class VonMisesFisher(Distribution):
    r"""The von Mises-Fisher distribution with mean direction ``loc`` and concentration ``concentration``.

    Parameters
    ----------
    loc : Tensor (..., dim)
        Mean direction, of unit length (it is refused, not normalised, when it is not), dim >= 2.
    concentration : Tensor (...) or number
        Finite and not negative; 0 is the uniform distribution. Broadcast against the batch shape of ``loc``.
    validate_args : bool, optional
        Whether to check the parameters and the argument of `log_prob`; default yes, whatever the default of
        ``torch.distributions`` is, because ``torch.compile`` turns that one off for the whole process.

    Raises
    ------
    ValueError
        ``loc`` without a coordinate axis, of fewer than two coordinates or not of unit length; ``concentration``
        negative, infinite or NaN; shapes that do not broadcast.

    Notes
    -----
    `sample` is exact rejection sampling (Ulrich 1984, Wood 1994). There is no `rsample`: a gradient taken through the
    accepted proposal would be biased.

    Examples
    --------
    >>> import torch
    >>> vmf = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(10.0))
    >>> vmf.sample((5,)).shape
    torch.Size([5, 3])
    """

    arg_constraints = {"loc": unit_vector, "concentration": constraints.nonnegative}  # noqa: RUF012
    support = unit_vector
    has_rsample = False

    def __init__(self, loc: Real, concentration: Real, validate_args: bool | None = None) -> None:
        loc = as_real_tensor(loc, "loc")
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(f"loc must have shape (..., dim) with dim at least 2, got shape {tuple(loc.shape)}")
        if not isinstance(concentration, Tensor):
            concentration = as_real_tensor(concentration, "concentration").to(loc)
        checked = True if validate_args is None else validate_args
        if checked:
            concentration = as_concentration(concentration, "concentration")
            valid = unit_vector.check(loc)
            if not bool(valid.all()):
                length = first_offender(torch.linalg.vector_norm(loc.detach(), dim=-1), valid)
                raise ValueError(
                    f"loc must be of unit length, got a vector of length {length}; "
                    "normalise it with torch.nn.functional.normalize(loc, dim=-1)"
                )
        try:
            batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        except RuntimeError as error:
            raise ValueError(
                f"concentration of shape {tuple(concentration.shape)} does not broadcast against the batch shape "
                f"{tuple(loc.shape[:-1])} of loc"
            ) from error
        self.loc = loc.expand(*batch_shape, loc.shape[-1])
        self.concentration = concentration.expand(batch_shape)
        # The parameters are checked above, with messages that name the value.
        super().__init__(batch_shape, loc.shape[-1:], validate_args=False)
        self._validate_args = checked

    @property
    def dim(self) -> int:
        """Number of coordinates p; the sphere is S^(p-1)."""
        return self._event_shape[0]

    def expand(self, batch_shape: Any, _instance: VonMisesFisher | None = None) -> VonMisesFisher:
        """Return the distribution with its parameters broadcast to ``batch_shape``, without copying."""
        new = self._get_checked_instance(VonMisesFisher, _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(*batch_shape, self.dim)
        new.concentration = self.concentration.expand(batch_shape)
        super(VonMisesFisher, new).__init__(batch_shape, self._event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        r"""Mean vector :math:`A_p(\kappa)\,\mu`, of shape (..., dim); it lies inside the sphere."""
        return length_kernel(self.concentration, self.dim).unsqueeze(-1) * self.loc

    @property
    def mode(self) -> Tensor:
        """The direction of highest density, ``loc`` (at concentration 0 every direction is one)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        r"""Variance of each coordinate, (..., dim): :math:`A'\mu_i^2 + (A/\kappa)(1 - \mu_i^2)`."""
        kappa = self.concentration
        along = length_derivative_kernel(kappa, self.dim)
        positive = kappa > 0
        safe = torch.where(positive, kappa, 1.0)
        across = torch.where(positive, length_kernel(safe, self.dim) / safe, 1 / self.dim)
        squared = self.loc**2
        return along.unsqueeze(-1) * squared + across.unsqueeze(-1) * (1 - squared)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Log-density with respect to surface measure.

        Parameters
        ----------
        value : Tensor (..., dim)
            Unit vectors, broadcast against the batch shape.

        Returns
        -------
        Tensor (...)
            :math:`\log C_p(0) + E(\kappa) - \tfrac12\kappa\|x - \mu\|^2`. Close to the mode nothing cancels.
        """
        if self._validate_args:
            self._validate_sample(value)
        gap = ((value - self.loc) ** 2).sum(-1) / 2
        peak = log_normalizer_at_zero(self.dim) + excess_kernel(self.concentration, self.dim)
        return peak - self.concentration * gap

    def _validate_sample(self, value: Tensor) -> None:
        if not isinstance(value, Tensor) or value.dim() < 1 or value.shape[-1] != self.dim:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"value must be a tensor of shape (..., {self.dim}), got {shape}")
        valid = unit_vector.check(value)
        if not bool(valid.all()):
            length = first_offender(torch.linalg.vector_norm(value.detach(), dim=-1), valid)
            raise ValueError(
                f"value must be of unit length, got a vector of length {length}; "
                "normalise it with torch.nn.functional.normalize(value, dim=-1)"
            )

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draw unit vectors of shape (\*sample_shape, \*batch_shape, dim) with torch's global generator."""
        shape = self._extended_shape(torch.Size(sample_shape))
        loc = torch.nn.functional.normalize(self.loc.double(), dim=-1).expand(shape)
        gap = sample_complement(self.concentration.double().expand(shape[:-1]), self.dim).unsqueeze(-1)
        tangent = sample_tangent(loc)
        sample = loc + (torch.sqrt(gap * (2 - gap)) * tangent - gap * loc)
        return sample.to(self.loc.dtype)

    def entropy(self) -> Tensor:
        r"""Differential entropy :math:`-\log C_p(\kappa) - \kappa A_p(\kappa) = -\log C_p(0) - E + \kappa(1 - A)`."""
        kappa, dim = self.concentration, self.dim
        return kappa * complement_kernel(kappa, dim) - excess_kernel(kappa, dim) - log_normalizer_at_zero(dim)


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl_vmf_vmf(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    r"""KL divergence: :math:`E_p - E_q - (\kappa_p - \kappa_q)(1 - A_p) + \tfrac12\kappa_q A_p\|\mu_p - \mu_q\|^2`."""
    if p.dim != q.dim:
        raise ValueError(f"the distributions must live on the same sphere, got dim={p.dim} and dim={q.dim}")
    kappa_p, kappa_q = broadcast_all(p.concentration, q.concentration)
    gap = ((p.loc - q.loc) ** 2).sum(-1) / 2
    turned = kappa_q * length_kernel(kappa_p, p.dim) * gap
    peaks = excess_kernel(kappa_p, p.dim) - excess_kernel(kappa_q, p.dim)
    return peaks - (kappa_p - kappa_q) * complement_kernel(kappa_p, p.dim) + turned
