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
from torch.autograd import forward_ad

from vmflearn.sphere.arguments import Real, as_real_tensor, first_offender, in_transform
from vmflearn.sphere.constraints import check_value, length_tolerance
from vmflearn.sphere.directed import DirectedDistribution
from vmflearn.sphere.estimation import maximum_likelihood
from vmflearn.sphere.expansion import log_normalizer_at_zero
from vmflearn.sphere.flat_limit import anywhere, spread
from vmflearn.sphere.generators import accepts_generator
from vmflearn.sphere.kernels import has_tangent
from vmflearn.sphere.opaque_sampling import draw_opaque
from vmflearn.sphere.reparameterization import pathwise
from vmflearn.sphere.sampling import draw


class VonMisesFisher(DirectedDistribution):
    r"""The von Mises-Fisher distribution with mean direction ``loc`` and concentration ``concentration``.

    Parameters
    ----------
    loc : Tensor or array (..., dim)
        Mean direction, of unit length (it is refused, not normalised, when it is not), dim >= 2.
    concentration : Tensor (...) or number
        Not negative; 0 is the uniform distribution, inf the point mass at ``loc``. Broadcast against the batch shape
        of ``loc``, on the same device.
    validate_args : bool, optional
        Whether to check the parameters and the argument of `log_prob`; default yes, whatever the default of
        ``torch.distributions`` is, because ``torch.compile`` turns that one off for the whole process.

    Raises
    ------
    ValueError
        ``loc`` without a coordinate axis, of fewer than two coordinates or not of unit length; ``concentration``
        negative or NaN; shapes that do not broadcast; two devices.

    Notes
    -----
    `sample` is exact rejection sampling (Ulrich 1984, Wood 1994); `rsample` draws the same values and differentiates
    them implicitly (`vmflearn.sphere.reparameterization`). Half-precision parameters are computed with in float32.

    A point mass has density inf at ``loc``, that is within the tolerance of a unit vector's length (1e-10 in float64,
    1e-5 in float32, 1e-2 in half precision), and 0 elsewhere; its entropy is -inf, its variance 0.

    Examples
    --------
    >>> import torch
    >>> vmf = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(10.0))
    >>> vmf.sample((5,)).shape
    torch.Size([5, 3])
    """

    @classmethod
    def fit(cls, X: Real, weights: Real | None = None) -> VonMisesFisher:
        r"""Maximum-likelihood estimate: mean direction, and :math:`\hat\kappa = A_p^{-1}(R)` (Banerjee et al. 2005).

        Parameters
        ----------
        X : Tensor or array (..., n, dim)
            Unit vectors, a sample for each leading index; n >= 1. It is computed with in float64.
        weights : Tensor or array (..., n), optional
            Weights of the rows, finite, not negative, not all zero; only their ratios matter.

        Returns
        -------
        VonMisesFisher
            Of batch shape (...), in the dtype of ``X`` (at least float32), without gradient. Rows that cancel
            (antipodal ones, say) have concentration 0 and the first basis vector as ``loc``; rows that are all equal
            have concentration inf.

        Raises
        ------
        ValueError
            Another shape, a row not of unit length (its index is named), or bad weights.
        """
        return cls(*maximum_likelihood(X, weights))

    @classmethod
    def from_natural(cls, natural: Real) -> VonMisesFisher:
        r"""The distribution of density proportional to :math:`e^{\eta^\top x}`, with :math:`\eta = \kappa\mu`.

        Parameters
        ----------
        natural : Tensor (..., dim)
            Any finite vectors. Zero gives concentration 0, with the first basis vector as ``loc`` and no gradient.

        Raises
        ------
        ValueError
            A shape without at least two coordinates, or a value that is not finite.
        """
        natural = as_real_tensor(natural, "natural")
        if natural.dim() < 1 or natural.shape[-1] < 2:
            raise ValueError(f"natural must have shape (..., dim) with dim at least 2, got {tuple(natural.shape)}")
        finite = torch.isfinite(natural)
        if not bool(finite.all()):
            raise ValueError(f"natural must be finite, got {first_offender(natural, finite)}")
        scale = natural.detach().abs().amax(-1, keepdim=True)  # squares of small or large numbers do not survive
        zero = scale == 0
        first = torch.zeros_like(natural)
        first[..., 0] = 1
        scaled = torch.where(zero, first, natural / torch.where(zero, 1.0, scale))
        length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
        return cls(scaled / length, (scale * length).squeeze(-1))

    @property
    def natural(self) -> Tensor:
        r"""Natural parameter :math:`\eta = \kappa\mu`, (..., dim); a point mass has none: `ValueError`."""
        if bool(torch.isinf(self.concentration).any()):
            raise ValueError("natural is not defined for concentration inf, a point mass; use loc and concentration")
        return self.concentration.unsqueeze(-1) * self.loc

    @property
    def mean(self) -> Tensor:
        r"""Mean vector :math:`A_p(\kappa)\,\mu`, of shape (..., dim); it lies inside the sphere."""
        loc, kappa, infinite = self.working_parameters()
        length = torch.where(infinite, 1.0, anywhere(kappa, self.dim, "length"))
        return (length.unsqueeze(-1) * loc).to(self.dtype)

    def _variances(self) -> tuple[Tensor, Tensor]:
        r""":math:`A'` along the mean direction and :math:`A/\kappa` across it."""
        _, kappa, infinite = self.working_parameters()
        positive = kappa > 0
        safe = torch.where(positive, kappa, 1.0)
        along = torch.where(infinite, 0.0, anywhere(kappa, self.dim, "slope"))
        across = torch.where(positive, anywhere(safe, self.dim, "length") / safe, 1 / self.dim)
        return along, torch.where(infinite, 0.0, across)

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
            check_value(value, self.dim)
        loc, kappa, infinite = self.working_parameters()
        gap = ((value - loc) ** 2).sum(-1) / 2
        finite = log_normalizer_at_zero(self.dim) + anywhere(kappa, self.dim, "excess") - kappa * gap
        result = torch.promote_types(value.dtype, self.dtype)
        at_loc = 2 * gap <= length_tolerance(torch.promote_types(value.dtype, self.loc.dtype)) ** 2
        return torch.where(infinite, torch.where(at_loc, torch.inf, -torch.inf), finite).to(result)

    @accepts_generator
    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draw unit vectors of shape (\*sample_shape, \*batch_shape, dim), from torch's global generator or another.

        ``generator=`` takes a ``torch.Generator`` of the device of the samples (not inside ``torch.compile``).
        """
        if torch.compiler.is_compiling() or in_transform():
            return draw_opaque(self.loc.contiguous(), self.concentration.contiguous(), torch.Size(sample_shape))[0]
        sample, _ = draw(self.loc, self.concentration, torch.Size(sample_shape))
        return sample

    @accepts_generator
    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draw what `sample` draws from the same state of the generator, differentiable in the parameters, once.

        The gradients are unbiased: :math:`\nabla\,\mathrm E\,g(x)` is the mean of those of :math:`g(x)`. That in
        ``loc`` is tangent to the sphere, as if ``loc`` were normalised first. Shape and generator as in `sample`.
        """
        sample_shape = torch.Size(sample_shape)
        if torch.compiler.is_compiling() or in_transform():
            loc, kappa = self.loc.contiguous(), self.concentration.contiguous()
            drawn = draw_opaque(loc.detach(), kappa.detach(), sample_shape)
            return pathwise(loc.expand(drawn[0].shape), kappa.expand(drawn[2].shape), *drawn)
        tracked = torch.is_grad_enabled() and (self.loc.requires_grad or self.concentration.requires_grad)
        if not (tracked or has_tangent(self.loc) or has_tangent(self.concentration)):
            return self.sample(sample_shape)
        with torch.no_grad():
            loc, kappa = (forward_ad.unpack_dual(x).primal for x in (self.loc, self.concentration))
            tangent = loc.new_empty(self._extended_shape(sample_shape))
            sample, gap = draw(loc, kappa, sample_shape, tangent)
        return pathwise(self.loc, self.concentration, sample, tangent, gap)

    def entropy(self) -> Tensor:
        r"""Differential entropy :math:`-\log C_p(\kappa) - \kappa A_p(\kappa)`.

        It is computed as :math:`-\log C_p(0) - E + \kappa(1 - A)`.
        """
        _, kappa, infinite = self.working_parameters()
        below = spread(kappa, self.dim) - anywhere(kappa, self.dim, "excess")
        return torch.where(infinite, -torch.inf, below - log_normalizer_at_zero(self.dim)).to(self.dtype)
