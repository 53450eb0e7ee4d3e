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

from vmflearn.sphere.arguments import in_transform, is_visible
from vmflearn.sphere.kernels import complement_kernel, has_tangent

# Nodes of the Gauss-Legendre rule, and how far the integrand is followed, to exp(-depth): in float64, in others.
DOUBLE_RULE = 48, 40.0
SINGLE_RULE = 20, 20.0
# Nodes of all rows taken at a time.
BLOCK = 2**18
# In three dimensions the closed form is taken from this concentration on; below it the parts cancel.
CLOSED_FROM = 0.25
# At larger concentrations the derivative is taken as 0; it is of the order of concentration^(-3/2).
LARGEST_CONCENTRATION = 1e150


def _rule(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on (0, 1)."""
    return _cached_rule(n)


# What torch.compiler.assume_constant_result does, which imports the whole compiler for it: two seconds.
_rule._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _cached_rule(n: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def angle_slope(gap: Tensor, kappa: Tensor, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    r"""How fast the angle between a sample and the mean direction closes: :math:`T = -d\theta/d\kappa \ge 0`.

    Parameters
    ----------
    gap : Tensor (...), float64
        :math:`y = 1 - \cos\theta`, in [0, 2].
    kappa : Tensor, float64, broadcast to ``gap``
        Concentration, not negative; where it is infinite T is 0.
    dim : int
        Dimension of the ambient space, at least 2.
    dtype : torch.dtype
        That of the samples: the narrower ones are content with fewer nodes.

    Returns
    -------
    Tensor (...), float64
        T, to 2e-11 relative for float64 and 2e-7 for others; to less only where the density is below exp(-40) or
        exp(-20) of its largest.
    """
    gone = kappa > LARGEST_CONCENTRATION
    kappa = torch.where(gone, 1.0, kappa)
    still = (gap <= 0) | (gap >= 2) | gone
    y = torch.where(still, 1.0, gap)
    if dim == 3 and is_visible(kappa) and bool((kappa >= CLOSED_FROM).all()):
        slope = _exact_slope(y, kappa)
    else:
        n_nodes, depth = DOUBLE_RULE if dtype == torch.float64 else SINGLE_RULE
        parts = (x.expand(gap.shape).reshape(-1) for x in (y, kappa, complement_kernel(kappa, dim)))
        blocks = zip(*(part.split(BLOCK // n_nodes) for part in parts), strict=True)
        slopes = [_quadrature(gaps, kappas, means, dim, n_nodes, depth) for gaps, kappas, means in blocks]
        slope = torch.cat(slopes).reshape(gap.shape)
    return torch.where(still, 0.0, slope)


def _exact_slope(y: Tensor, kappa: Tensor) -> Tensor:
    r"""T in three dimensions, from the closed form of the distribution function.

    :math:`\kappa\sin\theta\,T = y - 2(e^{\kappa y} - 1)/(e^{2\kappa} - 1)`, beyond the equator written with 2 - y.
    """
    z, whole = 2 - y, torch.expm1(-2 * kappa)
    near = y - 2 * torch.exp(-kappa * z) * (torch.expm1(-kappa * y) / whole)
    far = 2 * (torch.expm1(-kappa * z) / whole) - z
    return torch.where(y < 1, near, far) / (kappa * torch.sqrt(y * z))


def _quadrature(y: Tensor, kappa: Tensor, mean: Tensor, dim: int, n_nodes: int, depth: float) -> Tensor:
    r"""T for vectors of gaps, concentrations and mean gaps: the integral over the tail where its integrand is positive.

    With z the gap at a node less y, :math:`\sin^2` grows by the factor :math:`1 + z(2 - 2y - z)/y(2 - y)`.
    """
    m = (dim - 2) / 2
    theta = _angle(y)
    width = _angle(_far_end(y, y < mean, kappa, m, depth)) - theta

    nodes, weights = (t.to(y.device) for t in _rule(n_nodes))
    half = width.unsqueeze(-1) * (nodes / 2)
    z = torch.sin(half).mul_(half.add_(theta.unsqueeze(-1)).sin_()).mul_(2)
    y, mean, kappa = y.unsqueeze(-1), mean.unsqueeze(-1), kappa.unsqueeze(-1)
    log_ratio = -kappa * z
    if m > 0:
        growth = (2 * (1 - y) - z).mul_(z).div_(y * (2 - y))
        log_ratio.add_(growth.clamp_(min=-1 + 1e-16).log1p_(), alpha=m)  # rounding may not carry it to a pole
    return width.abs() * ((mean - y) - z).abs_().mul_(log_ratio.exp_()).matmul(weights)


def _angle(y: Tensor) -> Tensor:
    """The angle of the gap y = 1 - cos(theta), exact near both poles."""
    return 2 * torch.atan2(torch.sqrt(y), torch.sqrt(2 - y))


def _far_end(y: Tensor, lower: Tensor, kappa: Tensor, m: float, depth: float) -> Tensor:
    r"""The gap at which the integrand has fallen by exp(-depth), or the pole where it has not.

    With :math:`\lambda = \kappa + m/(2-y)` the logarithm of :math:`h(\varphi)/h(\theta)` at gap y + z is at most
    :math:`-\lambda z + m\log(1 + z/y)`. Away from the mean direction (z > 0, y beyond the mode) it is below -x at
    :math:`z = (x + \sqrt{2mx})/\lambda`, as for a gamma variable; towards it (z = -vy) it is at most
    :math:`(\lambda y - m) v - m v^2/2`.
    """
    rate = kappa + m / (2 - y)
    away = torch.minimum(y + (depth + (2 * m * depth) ** 0.5) / rate, torch.full_like(y, 2.0))
    if m == 0:
        return torch.where(lower, 0.0, away)
    surplus = rate * y - m
    fraction = ((surplus + torch.sqrt(surplus**2 + 2 * m * depth)) / m).clamp(max=1)
    return torch.where(lower, y * (1 - fraction), away)


def pathwise(loc: Tensor, concentration: Tensor, sample: Tensor, tangent: Tensor, gap: Tensor) -> Tensor:
    r"""Return ``sample``, attached to the parameters it was drawn with; differentiable once.

    Parameters
    ----------
    loc : Tensor, broadcast to ``sample``
        Mean directions. Their gradient is tangent to the sphere: a change along ``loc`` moves nothing.
    concentration : Tensor, broadcast to ``gap``
        Concentrations.
    sample, tangent : Tensor (..., dim)
        x and v. In eager mode it is ``sample`` itself that is returned, not a copy.
    gap : Tensor (...), float64
        :math:`1 - \cos\theta`.
    """
    function: type[torch.autograd.Function] = _EagerPathwise
    if torch.compiler.is_compiling():
        function = _Pathwise
    elif in_transform() or has_tangent(loc) or has_tangent(concentration):
        function = _ForwardPathwise
    result: Tensor = function.apply(loc, concentration, sample, tangent, gap)
    return result


class _Pathwise(torch.autograd.Function):
    """The two derivatives of the module's docstring."""

    generate_vmap_rule = True

    @staticmethod
    def forward(loc: Tensor, concentration: Tensor, sample: Tensor, tangent: Tensor, gap: Tensor) -> Tensor:
        return sample.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        loc, concentration, _, tangent, gap = inputs
        ctx.save_for_backward(loc, concentration, tangent, gap)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        loc, concentration, tangent, gap = ctx.saved_tensors
        loc_grad, concentration_grad = _gradients(grad, loc, concentration, tangent, gap, ctx.needs_input_grad)
        return loc_grad, concentration_grad, None, None, None


class _EagerPathwise(_Pathwise):
    """The same without a copy of the sample."""

    @staticmethod
    def forward(loc: Tensor, concentration: Tensor, sample: Tensor, tangent: Tensor, gap: Tensor) -> Tensor:
        return sample

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _Pathwise.setup_context(ctx, inputs, output)
        ctx.mark_dirty(inputs[2])


class _ForwardPathwise(_Pathwise):
    """The same with its derivative carried forward, which ``torch.compile`` does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _Pathwise.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], inputs[1], inputs[3], inputs[4])

    @staticmethod
    def jvp(ctx: Any, loc_change: Tensor | None, concentration_change: Tensor | None, *rest: None) -> Tensor:
        loc, concentration, tangent, gap = ctx.saved_tensors
        mu, v, cosine, sine = _frame(loc, tangent, gap)
        change = torch.zeros_like(v)
        if loc_change is not None:
            across = loc_change.to(mu) - (loc_change.to(mu) * mu).sum(-1, keepdim=True) * mu
            change = change + cosine * across - mu * (sine * (across * v).sum(-1, keepdim=True))
        if concentration_change is not None:
            slope = angle_slope(gap, concentration.to(gap), loc.shape[-1]).to(mu).unsqueeze(-1)
            change = change + concentration_change.to(mu).unsqueeze(-1) * slope * (sine * mu - cosine * v)
        return change.to(loc.dtype)


def _frame(loc: Tensor, tangent: Tensor, gap: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean direction, tangent, and the cosine and sine of the angle between, in at least float32; (..., dim or 1)."""
    working = torch.promote_types(loc.dtype, torch.float32)
    mu, v, y = loc.to(working), tangent.to(working), gap.unsqueeze(-1)
    return mu, v, (1 - y).to(mu), torch.sqrt(y * (2 - y)).to(mu)


def _gradients(
    grad: Tensor, loc: Tensor, concentration: Tensor, tangent: Tensor, gap: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    mu, v, cosine, sine = _frame(loc, tangent, gap)
    g, loc_grad, concentration_grad = grad.to(mu), None, None
    along = ((g @ mu) if mu.dim() == 1 else (g * mu).sum(-1)).unsqueeze(-1)
    if needed[0]:
        loc_grad = _rotation(g, mu, v, along, cosine, sine).to(loc.dtype)
    if needed[1]:
        slope = angle_slope(gap, concentration.to(gap), loc.shape[-1], mu.dtype).to(mu)
        across = torch.linalg.vecdot(g, v)
        concentration_grad = slope * (sine.squeeze(-1) * along.squeeze(-1) - cosine.squeeze(-1) * across)
        concentration_grad = concentration_grad.sum_to_size(concentration.shape).to(concentration.dtype)
    return loc_grad, concentration_grad


def _rotation(g: Tensor, mu: Tensor, v: Tensor, along: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The gradient in the mean directions: of all samples of one by products with vectors, which write no rows."""
    if mu.dim() > 1:
        return (cosine * g - along * sine * v - cosine * along * mu).sum_to_size(mu.shape)
    weights = cosine.reshape(-1), (along * sine).reshape(-1)
    return weights[0] @ g.reshape(-1, len(mu)) - weights[1] @ v.reshape(-1, len(mu)) - (cosine * along).sum() * mu
