r"""Gradients of von Mises-Fisher samples with respect to the parameters of the distribution.

A sample is :math:`x = \cos\theta\,\mu + \sin\theta\,v`, with v a unit vector across :math:`\mu`. It moves with the
parameters so that the moved samples follow the moved distribution:

- with :math:`\mu`, by the rotation that carries :math:`\mu` to :math:`\mu + d\mu` and turns nothing else:
  :math:`dx = (\mu^\top x)\,d\mu - \mu\,(d\mu^\top x)` for :math:`d\mu` across :math:`\mu`;
- with :math:`\kappa`, by the angle :math:`\theta`, whose distribution function F stays where it is (implicit
  differentiation, Figurnov, Mohamed and Mnih 2018): :math:`d\theta/d\kappa = -(\partial F/\partial\kappa)/F'`.

With the density of the angle :math:`h(\theta) \propto e^{\kappa\cos\theta}\sin^{p-2}\theta` and A the mean of
:math:`\cos\theta`,

.. math:: T = -\frac{d\theta}{d\kappa} = \int_0^\theta (\cos\varphi - A)\,\frac{h(\varphi)}{h(\theta)}\,d\varphi
            = \int_\theta^\pi (A - \cos\varphi)\,\frac{h(\varphi)}{h(\theta)}\,d\varphi, \qquad
          \frac{\partial x}{\partial\kappa} = T\,(\sin\theta\,\mu - \cos\theta\,v) .

A derivative through the accepted proposal of the rejection sampler would be biased, and one through the Gaussian
vector that v is made of is biased on the circle and of infinite variance on the sphere in three dimensions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vmflearn.sphere.kernels import complement_kernel

# Nodes of the Gauss-Legendre rule, and how far the integrand is followed down: exp(-DEPTH) is below rounding.
NODES = 48
DEPTH = 40.0
# Rows taken at a time, each with NODES numbers.
ROWS = 4096
# At larger concentrations the derivative is taken as 0; it is of the order of concentration^(-3/2).
LARGEST_CONCENTRATION = 1e150


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def angle_slope(gap: Tensor, kappa: Tensor, dim: int) -> Tensor:
    r"""How fast the angle between a sample and the mean direction closes: :math:`T = -d\theta/d\kappa \ge 0`.

    Parameters
    ----------
    gap : Tensor (...), float64
        :math:`y = 1 - \cos\theta`, in [0, 2].
    kappa : Tensor (...), float64
        Concentration, not negative; where it is infinite T is 0.
    dim : int
        Dimension of the ambient space, at least 2.

    Returns
    -------
    Tensor (...), float64
        T, to 2e-11 relative; to less only where the density is below exp(-40) of its largest.
    """
    flat = zip(gap.reshape(-1).split(ROWS), kappa.reshape(-1).split(ROWS), strict=True)
    return torch.cat([_angle_slope(y, k, dim) for y, k in flat]).reshape(gap.shape)


def _angle_slope(y: Tensor, kappa: Tensor, dim: int) -> Tensor:
    """T for vectors of gaps and concentrations: the integral over the tail in which its integrand is positive."""
    still = (y <= 0) | (y >= 2) | (kappa > LARGEST_CONCENTRATION)
    y, kappa = torch.where(still, 1.0, y), torch.where(still, 1.0, kappa)
    m = (dim - 2) / 2
    mean = complement_kernel(kappa, dim)
    theta = _angle(y)
    width = _angle(_far_end(y, y < mean, kappa, m)) - theta

    nodes, weights = (t.to(y.device) for t in _rule())
    step = width.unsqueeze(-1) * nodes
    half = step / 2
    z = 2 * torch.sin(half) * torch.sin(theta.unsqueeze(-1) + half)  # gap at the node less y
    y, mean, kappa = y.unsqueeze(-1), mean.unsqueeze(-1), kappa.unsqueeze(-1)
    log_ratio = -kappa * z
    if m > 0:
        nearly = -1 + 1e-16  # rounding may not carry a node to a pole
        log_ratio += m * (torch.log1p((z / y).clamp(min=nearly)) + torch.log1p((-z / (2 - y)).clamp(min=nearly)))
    integral = ((mean - y) - z).abs().mul_(log_ratio.exp_()) @ weights
    return torch.where(still, 0.0, width.abs() * integral)


def _angle(y: Tensor) -> Tensor:
    """The angle of the gap y = 1 - cos(theta), exact near both poles."""
    return 2 * torch.atan2(torch.sqrt(y), torch.sqrt(2 - y))


def _far_end(y: Tensor, lower: Tensor, kappa: Tensor, m: float) -> Tensor:
    r"""The gap at which the integrand has fallen by exp(-`DEPTH`), or the pole where it has not.

    With :math:`\lambda = \kappa + m/(2-y)` the logarithm of :math:`h(\varphi)/h(\theta)` at gap y + z is at most
    :math:`-\lambda z + m\log(1 + z/y)`. Away from the mean direction (z > 0, y beyond the mode) it is below -x at
    :math:`z = (x + \sqrt{2mx})/\lambda`, as for a gamma variable; towards it (z = -vy) it is at most
    :math:`(\lambda y - m) v - m v^2/2`.
    """
    rate = kappa + m / (2 - y)
    away = torch.minimum(y + (DEPTH + (2 * m * DEPTH) ** 0.5) / rate, torch.full_like(y, 2.0))
    if m == 0:
        return torch.where(lower, 0.0, away)
    surplus = rate * y - m
    fraction = ((surplus + torch.sqrt(surplus**2 + 2 * m * DEPTH)) / m).clamp(max=1)
    return torch.where(lower, y * (1 - fraction), away)


def pathwise(loc: Tensor, concentration: Tensor, sample: Tensor, tangent: Tensor, gap: Tensor) -> Tensor:
    r"""Return ``sample`` unchanged, attached to the parameters it was drawn with; differentiable once.

    Parameters
    ----------
    loc : Tensor (..., dim)
        Mean directions. Their gradient is tangent to the sphere: a change along ``loc`` moves nothing.
    concentration : Tensor (...)
        Concentrations.
    sample, tangent : Tensor (..., dim)
        x and v.
    gap : Tensor (...), float64
        :math:`1 - \cos\theta`.
    """
    return _Pathwise.apply(loc, concentration, sample, tangent, gap)


class _Pathwise(torch.autograd.Function):
    """The two derivatives of the module's docstring."""

    @staticmethod
    def forward(ctx: Any, loc: Tensor, concentration: Tensor, sample: Tensor, tangent: Tensor, gap: Tensor) -> Tensor:
        ctx.save_for_backward(loc, concentration, tangent, gap)
        return sample.view_as(sample)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        loc, concentration, tangent, gap = ctx.saved_tensors
        working = torch.promote_types(loc.dtype, torch.float32)
        mu, v, g = loc.to(working), tangent.to(working), grad.to(working)
        cosine, sine = (1 - gap).to(working).to(g.device), torch.sqrt(gap * (2 - gap)).to(working).to(g.device)
        along, across = (g * mu).sum(-1), (g * v).sum(-1)
        loc_grad = concentration_grad = None
        if ctx.needs_input_grad[0]:
            turned = cosine.unsqueeze(-1) * g - along.unsqueeze(-1) * sine.unsqueeze(-1) * v
            loc_grad = (turned - (cosine * along).unsqueeze(-1) * mu).to(loc.dtype)
        if ctx.needs_input_grad[1]:
            slope = angle_slope(gap, concentration.to(gap), loc.shape[-1]).to(working).to(g.device)
            concentration_grad = (slope * (sine * along - cosine * across)).to(concentration.dtype)
        return loc_grad, concentration_grad, None, None, None
