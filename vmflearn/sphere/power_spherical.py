r"""The power-spherical distribution (De Cao and Aziz 2020), as a ``torch.distributions.Distribution``.

.. math:: f(x) \propto (1 + \mu^\top x)^\kappa, \qquad
          \frac{1 + \mu^\top x}2 \sim \mathrm{Beta}(\beta + \kappa, \beta), \qquad \beta = \frac{p-1}2

with respect to surface measure. Its logarithm is computed as :math:`\log C_p(0) + D(\kappa) + \kappa\log\frac{1+t}2`
with D of `vmflearn.sphere.power_normalizer` and :math:`\frac{1+t}2 = 1 - \frac14\|x-\mu\|^2 = \frac14\|x+\mu\|^2`, of
which each is right near one pole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributions import AffineTransform, Beta, Gamma, TransformedDistribution

from vmflearn.sphere.arguments import in_transform
from vmflearn.sphere.constraints import check_value, length_tolerance
from vmflearn.sphere.directed import DirectedDistribution
from vmflearn.sphere.directions import directions
from vmflearn.sphere.expansion import log_normalizer_at_zero
from vmflearn.sphere.generators import accepts_generator
from vmflearn.sphere.kernels import has_tangent
from vmflearn.sphere.power_gradient import moving_angle
from vmflearn.sphere.power_normalizer import divergence_to_uniform, mode_gain
from vmflearn.sphere.reparameterization import pathwise
from vmflearn.sphere.sampling import FEW_DIMENSIONS, double_device


class PowerSpherical(DirectedDistribution):
    r"""The power-spherical distribution with mean direction ``loc`` and concentration ``concentration``.

    Much like a von Mises-Fisher distribution of the same mean, it is drawn from without rejection and its normaliser
    needs no Bessel function; but it is no exponential family in x, and the product of two is not a third.

    Parameters
    ----------
    loc : Tensor or array (..., dim)
        Mean direction, of unit length, dim >= 2.
    concentration : Tensor (...) or number
        Not negative; 0 is the uniform distribution, inf the point mass at ``loc``. Broadcast against the batch shape
        of ``loc``, on the same device.
    validate_args : bool, optional
        Whether to check the parameters and the argument of `log_prob`; default yes.

    Raises
    ------
    ValueError
        As in `VonMisesFisher`.

    Notes
    -----
    For the mean of a von Mises-Fisher distribution the concentration is (p - 1) A / (1 - A). `rsample` differentiates
    implicitly (`vmflearn.sphere.power_gradient`). Half-precision parameters are computed with in float32. Divergences
    to and from the uniform distribution, and to von Mises-Fisher distributions, are registered with
    ``torch.distributions.kl_divergence``; that from one has no closed form.

    Examples
    --------
    >>> import torch
    >>> PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(10.0)).mean
    tensor([0.0000, 0.0000, 0.8333])
    """

    def _beta(self) -> float:
        return (self.dim - 1) / 2

    @property
    def mean(self) -> Tensor:
        r"""Mean vector :math:`\frac{\kappa}{\kappa + p - 1}\,\mu`, (..., dim)."""
        loc, kappa, infinite = self.working_parameters()
        length = torch.where(infinite, 1.0, kappa / (kappa + 2 * self._beta()))
        return (length.unsqueeze(-1) * loc).to(self.dtype)

    @property
    def marginal_t(self) -> TransformedDistribution:
        r"""The distribution of :math:`t = \mu^\top x` in [-1, 1], of one beta variable; point masses have none."""
        _, kappa, infinite = self.working_parameters()
        if bool(infinite.any()):
            raise ValueError("marginal_t is not defined for concentration inf, a point mass: there t is 1")
        height = Beta(self._beta() + kappa, torch.full_like(kappa, self._beta()), validate_args=False)
        return TransformedDistribution(height, AffineTransform(-1.0, 2.0), validate_args=False)

    def _variances(self) -> tuple[Tensor, Tensor]:
        """Those of a beta variable, times four, along the mean direction; 2 alpha / [(alpha + beta)(...)] across."""
        _, kappa, infinite = self.working_parameters()
        beta = self._beta()
        total = kappa + 2 * beta
        across = 2 * (kappa + beta) / total / (total + 1)
        along = across * (2 * beta / total)
        return torch.where(infinite, 0.0, along), torch.where(infinite, 0.0, across)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Log-density with respect to surface measure.

        Parameters
        ----------
        value : Tensor (..., dim)
            Unit vectors, broadcast against the batch shape.

        Returns
        -------
        Tensor (...)
            -inf at the antipode of ``loc``, unless the concentration is 0.
        """
        if self._validate_args:
            check_value(value, self.dim)
        loc, kappa, infinite = self.working_parameters()
        low, high = (((value - sign * loc) ** 2).sum(-1) / 4 for sign in (1, -1))
        near, opposite = low < 0.5, high == 0
        far_height = torch.where(near | opposite, 1.0, high).log()
        height = torch.where(near, torch.log1p(-torch.where(near, low, 0.0)), far_height)
        finite = log_normalizer_at_zero(self.dim) + mode_gain(kappa, self.dim) + kappa * height
        finite = torch.where(opposite & (kappa > 0), -torch.inf, finite)
        at_loc = 4 * low <= length_tolerance(torch.promote_types(value.dtype, self.loc.dtype)) ** 2
        log_prob = torch.where(infinite, torch.where(at_loc, torch.inf, -torch.inf), finite)
        return log_prob.to(torch.promote_types(value.dtype, self.dtype))

    @accepts_generator
    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draw unit vectors of shape (\*sample_shape, \*batch_shape, dim): a beta variable and a reflection each.

        ``generator=`` as in `VonMisesFisher.sample`.
        """
        return _draw(self.loc, self.concentration, self._extended_shape(torch.Size(sample_shape)))[0]

    @accepts_generator
    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draw what `sample` draws from the same state of the generator, differentiable in the parameters, once.

        The gradients are unbiased. That in ``loc`` is tangent to the sphere, that of a rotation: one through the
        reflection would have no bound where ``loc`` comes near its axis.
        """
        loc, kappa = self.loc, self.concentration
        tracked = torch.is_grad_enabled() and (loc.requires_grad or kappa.requires_grad)
        if not (tracked or in_transform() or has_tangent(loc) or has_tangent(kappa)):
            return self.sample(sample_shape)
        mu, fixed = (forward_ad.unpack_dual(x).primal.detach() for x in (loc, kappa))
        sample, tangent, gap = _draw(mu, fixed, self._extended_shape(torch.Size(sample_shape)))
        turned = pathwise(loc.expand(sample.shape), fixed.expand(gap.shape), sample, tangent, gap)
        angle = moving_angle(kappa.expand(gap.shape), gap, self.dim).to(loc)  # zero, with the angle's derivative
        working = torch.promote_types(loc.dtype, torch.float32)
        sine = torch.sqrt(gap * (2 - gap)).unsqueeze(-1).to(loc.device, working)
        cosine = (1 - gap).unsqueeze(-1).to(loc.device, working)
        outwards = cosine * tangent.to(working) - sine * mu.to(working)
        return turned + angle.unsqueeze(-1) * outwards.to(loc.dtype)

    def entropy(self) -> Tensor:
        r"""Differential entropy, that of the uniform distribution less :math:`D - \kappa D'`."""
        _, kappa, infinite = self.working_parameters()
        entropy = -log_normalizer_at_zero(self.dim) - divergence_to_uniform(kappa, self.dim)
        return torch.where(infinite, -torch.inf, entropy).to(self.dtype)


def _draw(loc: Tensor, kappa: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    r"""Samples :math:`\cos\theta\,\mu + \sin\theta\,v`, the v, and :math:`1 - \cos\theta` in float64, for ``shape``."""
    dim, where = shape[-1], double_device(loc.device)
    kappa = kappa.to(where, torch.float64).expand(shape[:-1])
    infinite = torch.isinf(kappa)
    beta, one = torch.full_like(kappa, (dim - 1) / 2), torch.ones_like(kappa)
    # A beta variable from two of gamma, as torch's own has it, which torch.func does not take.
    below, above = (
        Gamma(shape, one, validate_args=False).sample() for shape in (beta, beta + torch.where(infinite, 1.0, kappa))
    )
    gap = torch.where(infinite, 0.0, 2 * (below / (below + above)))

    double = loc.dtype == torch.float64 or (dim < FEW_DIMENSIONS and where == loc.device)
    working = torch.float64 if double else torch.float32
    mu = directions(loc.to(working)).expand(shape)
    tangent = _across(mu)
    cosine, sine = ((1 - gap), torch.sqrt(gap * (2 - gap)))
    cosine, sine = (x.unsqueeze(-1).to(loc.device, working) for x in (cosine, sine))
    sample = torch.where(infinite.unsqueeze(-1).to(loc.device), loc, (cosine * mu + sine * tangent).to(loc.dtype))
    return sample, tangent.to(loc.dtype), gap


def _across(mu: Tensor) -> Tensor:
    r"""Uniform directions orthogonal to the rows of ``mu``.

    One orthogonal to the first axis is reflected by the Householder matrix that takes :math:`\mu` to that axis,
    of the two ends of the axis the one further away, so that nothing cancels.
    """
    flat = directions(torch.randn_like(mu[..., 1:]))
    first, rest = mu[..., :1], mu[..., 1:]
    end = torch.where(first < 0, -1.0, 1.0)
    share = (rest * flat).sum(-1, keepdim=True) / (1 + first.abs())
    return torch.cat([-share * (first + end), flat - share * rest], dim=-1)
