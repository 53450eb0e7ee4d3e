r"""How the height of a power-spherical sample moves with the concentration.

With :math:`v = (1 - \mu^\top x)/2`, of density :math:`f \propto v^{\beta-1}(1-v)^{\alpha-1}`, :math:`\beta = (p-1)/2`
and :math:`\alpha = \beta + \kappa`, the distribution function stays where it is (implicit differentiation, Figurnov,
Mohamed and Mnih 2018):

.. math:: -\frac{dv}{d\kappa} = \int_0^v [\log(1-w) - \mathrm E\log(1-w)]\,\frac{f(w)}{f(v)}\,dw
        = \int_v^1 [\mathrm E\log(1-w) - \log(1-w)]\,\frac{f(w)}{f(v)}\,dw ,

the integral over the tail in which the integrand is positive. In :math:`y = \log(v/w)`, or
:math:`\log\frac{1-v}{1-w}` in the upper tail, it is analytic: with o the odds of the tail, :math:`v/(1-v)` or
:math:`(1-v)/v`, and q the exponent of the tail, :math:`\beta` or :math:`\alpha`, and r the other,

.. math:: \frac{f(w)}{f(v)}\,dw \propto e^{-qy}\,[1 + o(1 - e^{-y})]^{r-1}\,dy .

The angle :math:`\theta`, of which :math:`v = \sin^2\frac\theta2`, moves by :math:`\sqrt o` times the integral over y.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vmflearn.sphere.power_normalizer import mode_gain_slope

# Nodes of the Gauss-Legendre rule, and how far the integrand is followed down: exp(-DEPTH) is below rounding.
NODES = 48
DEPTH = 40.0
# Steps of Newton's iteration for where that is; it comes from beyond, and is beyond wherever it stops.
STEPS = 8
# Numbers taken at a time, each with NODES numbers.
ROWS = 4096
# At larger concentrations the derivative is taken as 0; it is of the order of concentration^(-3/2).
LARGEST_CONCENTRATION = 1e150


def _rule() -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1), denser towards 0, where the integrand changes most."""
    return _cached_rule()


# What torch.compiler.assume_constant_result does, which imports the whole compiler for it: two seconds.
_rule._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _cached_rule() -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u = (nodes + 1) / 2
    return torch.from_numpy(u**2), torch.from_numpy(weights * u)


def angle_slope(gap: Tensor, kappa: Tensor, dim: int) -> Tensor:
    r"""How fast the angle between a sample and the mean direction closes: :math:`-d\theta/d\kappa \ge 0`.

    Parameters
    ----------
    gap : Tensor (...), float64
        :math:`1 - \cos\theta`, in [0, 2].
    kappa : Tensor (...), float64
        Concentration, not negative; where it is infinite the slope is 0.
    dim : int
        Dimension of the ambient space, at least 2.

    Returns
    -------
    Tensor (...), float64
        The slope, to 1e-10 relative.
    """
    flat = zip(gap.reshape(-1).split(ROWS), kappa.reshape(-1).split(ROWS), strict=True)
    return torch.cat([_angle_slope(y, k, dim) for y, k in flat]).reshape(gap.shape)


def _angle_slope(gap: Tensor, kappa: Tensor, dim: int) -> Tensor:
    still = (gap <= 0) | (gap >= 2) | (kappa > LARGEST_CONCENTRATION)
    v, kappa = torch.where(still, 0.5, gap / 2), torch.where(still, 1.0, kappa)
    beta = torch.full_like(kappa, (dim - 1) / 2)
    mean, logarithm = mode_gain_slope(kappa, dim), -torch.log1p(-v)  # of -log(1 - w), and at v
    lower = logarithm < mean
    odds = torch.where(lower, v / (1 - v), (1 - v) / v)
    own, other = torch.where(lower, beta, beta + kappa), torch.where(lower, beta + kappa, beta) - 1
    nodes, weights = (t.to(v.device) for t in _rule())
    width = _width(own, other, odds)
    y = width.unsqueeze(-1) * nodes
    ratio = torch.exp(other.unsqueeze(-1) * torch.log1p(-odds.unsqueeze(-1) * torch.expm1(-y)) - own.unsqueeze(-1) * y)
    below = torch.log1p(-v.unsqueeze(-1) * torch.exp(-y)) + mean.unsqueeze(-1)
    above = (logarithm - mean).unsqueeze(-1) + y
    integral = (torch.where(lower.unsqueeze(-1), below, above) * ratio) @ weights
    return torch.where(still, 0.0, torch.sqrt(odds) * width * integral)


def _width(own: Tensor, other: Tensor, odds: Tensor) -> Tensor:
    """The y at which the integrand's second factor has fallen by exp(-`DEPTH`), or a little more.

    Its logarithm is concave for ``other`` of at least 0, so that Newton's iteration from beyond stays beyond.
    """
    concave = other > 0
    power = torch.where(concave, other, 0.0)
    y = (DEPTH + power * torch.log1p(odds)) / own
    for _ in range(STEPS):
        room = -odds * torch.expm1(-y)
        value = DEPTH - own * y + power * torch.log1p(room)
        slope = power * (odds - room) / (1 + room) - own
        y = torch.where(concave, y - value / slope, y)
    return y


def moving_angle(concentration: Tensor, gap: Tensor, dim: int) -> Tensor:
    r"""Zero, with the derivative of the angle: :math:`d\theta/d\kappa`; differentiable once, in float64.

    Parameters
    ----------
    concentration : Tensor (...)
        Concentrations.
    gap : Tensor (...), float64
        :math:`1 - \cos\theta` of samples drawn with them.
    dim : int
        Dimension of the ambient space.
    """
    function = _Moving if torch.compiler.is_compiling() else _ForwardMoving
    result: Tensor = function.apply(concentration, gap, dim)
    return result


class _Moving(torch.autograd.Function):
    """Backwards only, for ``torch.compile``, which does not trace the other."""

    generate_vmap_rule = True

    @staticmethod
    def forward(concentration: Tensor, gap: Tensor, dim: int) -> Tensor:
        return torch.zeros_like(gap)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.dim = inputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        concentration, gap = ctx.saved_tensors
        return (-grad * angle_slope(gap, concentration.to(gap), ctx.dim)).to(concentration.dtype), None, None


class _ForwardMoving(_Moving):
    """The same with its derivative carried forward."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _Moving.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx: Any, change: Tensor, *rest: None) -> Tensor:
        concentration, gap = ctx.saved_tensors
        return -change.to(gap) * angle_slope(gap, concentration.to(gap), ctx.dim)
