r"""Tensor formulas for the von Mises-Fisher normaliser: unchecked, without branches on data.

With :math:`H(\kappa) = {}_0F_1(; p/2; \kappa^2/4)` and :math:`\nu = p/2 - 1`, :math:`s = \sqrt{\nu^2+\kappa^2}`,
:math:`d = s - \nu`, :math:`u = \text{scale}/s`, :math:`\tau = (\nu/s)^2`, :math:`q = (\kappa/s)^2`:

.. math::
    \log H &= d - \nu\log(1 + d/2\nu) - \tfrac12\log(1 + d/\nu) + L(s) + S \\
    A = (\log H)' &= \frac{\kappa}{s+\nu} - \frac{\kappa}{s^2}\bigl(\tfrac12 + W\bigr),
        \qquad W = \textstyle\sum_j j e_j u^j \\
    A' &= \frac{\nu}{s(s+\nu)} + \frac{1}{s^2}\bigl[(q-\tau)(\tfrac12 + W) + q W_2\bigr],
        \qquad W_2 = \textstyle\sum_j j^2 e_j u^j

(DLMF 10.41.3 in logarithms; coefficients in `vmflearn.sphere.expansion`). The usual identities for A', such as
:math:`1 - A^2 - (p-1)A/\kappa`, cancel: at large concentration no digit is left. Here each derivative has a formula
of its own, and automatic differentiation is told to use it.

Every function takes ``kappa`` of any shape and returns the same shape, dtype and device; float16 and bfloat16 are
computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vmflearn.sphere.expansion import Plan, PowerSeries, make_plan

Formula = Callable[[Tensor, int], Tensor]


@torch.compiler.assume_constant_result
def _plan(dim: int, single: bool) -> Plan:
    """Look the coefficients up; under ``torch.compile`` they become constants of the graph."""
    return make_plan(dim, single)


def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Evaluate a polynomial, lowest coefficient first; in place when no gradient is recorded."""
    total = torch.full_like(x, coefficients[-1])
    recorded = torch.is_grad_enabled() and x.requires_grad
    for c in coefficients[-2::-1]:
        total = total * x + c if recorded else total.mul_(x).add_(c)
    return total


class _WithSlope(torch.autograd.Function):
    """formula(kappa), differentiated by another formula instead of by autograd through the first."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kappa: Tensor, formula: Formula, slope: Formula, dim: int) -> Tensor:
        return formula(kappa, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Formula, Formula, int], output: Tensor) -> None:
        kappa, _, ctx.slope, ctx.dim = inputs
        ctx.save_for_backward(kappa)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (kappa,) = ctx.saved_tensors
        return grad * ctx.slope(kappa, ctx.dim), None, None, None


def _working(kappa: Tensor) -> Tensor:
    return kappa.float() if kappa.dtype in (torch.float16, torch.bfloat16) else kappa


def _evaluate(
    kappa: Tensor,
    dim: int,
    small: Callable[[Tensor, Plan, PowerSeries], Tensor],
    large: Callable[[Tensor, Plan], Tensor],
) -> Tensor:
    """Join the two regimes. Their inputs are clamped, so that neither meets a value where it would overflow."""
    plan = _plan(int(dim), kappa.dtype == torch.float32)
    if plan.small is None:
        return large(kappa, plan)
    below = small(kappa.clamp(max=plan.join), plan, plan.small)
    return torch.where(kappa < plan.join, below, large(kappa.clamp(min=plan.join), plan))


def _radius(kappa: Tensor, plan: Plan) -> Tensor:
    """Return s; hypot does not overflow where kappa^2 would."""
    return torch.hypot(kappa, torch.full_like(kappa, plan.order)) if plan.order else kappa


# --- log H and kappa - log H ---


def _log_terms(kappa: Tensor, s: Tensor, plan: Plan) -> Tensor:
    r""":math:`d - \log H`: what the logarithms and the series take away from :math:`d = s - \nu`; positive."""
    nu = plan.order
    if nu == 0:
        return 0.5 * torch.log(kappa) - plan.stirling - horner(plan.log_series, plan.scale / s)
    d = kappa * (kappa / (s + nu))
    logarithms = nu * torch.log1p(d / (2 * nu)) + 0.5 * torch.log1p(d / nu)
    if plan.small is None:
        return logarithms + (d / s) * horner(plan.difference, plan.scale / s)
    return logarithms - (horner(plan.log_series, plan.scale / s) + plan.stirling)


def _log_h_large(kappa: Tensor, plan: Plan) -> Tensor:
    s = _radius(kappa, plan)
    return kappa * (kappa / (s + plan.order)) - _log_terms(kappa, s, plan)


def _log_h_small(kappa: Tensor, plan: Plan, series: PowerSeries) -> Tensor:
    y = (kappa / plan.join) ** 2
    return torch.log1p(y * horner(series.excess, y))


def _excess_large(kappa: Tensor, plan: Plan) -> Tensor:
    r""":math:`\kappa - d = 2\nu\kappa/(\kappa + s + \nu)` without cancellation."""
    s = _radius(kappa, plan)
    return 2 * plan.order * (kappa / (kappa + (s + plan.order))) + _log_terms(kappa, s, plan)


def _log_h(kappa: Tensor, dim: int) -> Tensor:
    return _evaluate(kappa, dim, _log_h_small, _log_h_large)


def _excess(kappa: Tensor, dim: int) -> Tensor:
    return _evaluate(kappa, dim, lambda k, plan, series: k - _log_h_small(k, plan, series), _excess_large)


# --- A and 1 - A ---


def _half_plus_w(s: Tensor, plan: Plan) -> Tensor:
    return horner((0.5, *plan.moment[1:]), plan.scale / s)


def _length_large(kappa: Tensor, plan: Plan) -> Tensor:
    s = _radius(kappa, plan)
    return kappa / (s + plan.order) - (kappa / s) / s * _half_plus_w(s, plan)


def _length_small(kappa: Tensor, plan: Plan, series: PowerSeries) -> Tensor:
    y = (kappa / plan.join) ** 2
    return kappa / plan.dim * horner(series.shifted, y) / (1 + y * horner(series.excess, y))


def _complement_large(kappa: Tensor, plan: Plan) -> Tensor:
    nu, s = plan.order, _radius(kappa, plan)
    return nu * ((1 + nu / (s + kappa)) / (s + nu)) + (kappa / s) / s * _half_plus_w(s, plan)


def _length(kappa: Tensor, dim: int) -> Tensor:
    return _evaluate(kappa, dim, _length_small, _length_large)


def _complement(kappa: Tensor, dim: int) -> Tensor:
    return _evaluate(kappa, dim, lambda k, plan, series: 1 - _length_small(k, plan, series), _complement_large)


# --- A' ---


def _slope_large(kappa: Tensor, plan: Plan) -> Tensor:
    nu, s = plan.order, _radius(kappa, plan)
    tau, q = (nu / s) ** 2, (kappa / s) ** 2
    correction = (q - tau) * _half_plus_w(s, plan) + q * horner(plan.moment2, plan.scale / s)
    return (nu / (s + nu) + correction / s) / s


def _slope_small(kappa: Tensor, plan: Plan, series: PowerSeries) -> Tensor:
    y = (kappa / plan.join) ** 2
    return horner(series.slope, y) / (1 + y * horner(series.excess, y)) ** 2


def length_derivative_kernel(kappa: Tensor, dim: int) -> Tensor:
    """A'(kappa), the variance of mu . x; differentiable by autograd through its formula."""
    return _evaluate(_working(kappa), dim, _slope_small, _slope_large).to(kappa.dtype)


def _minus_derivative(kappa: Tensor, dim: int) -> Tensor:
    return -length_derivative_kernel(kappa, dim)


# --- the differentiable functions ---


def length_kernel(kappa: Tensor, dim: int) -> Tensor:
    """A(kappa) = I_{p/2}(kappa) / I_{p/2-1}(kappa), the mean of mu . x."""
    return _WithSlope.apply(_working(kappa), _length, length_derivative_kernel, dim).to(kappa.dtype)


def complement_kernel(kappa: Tensor, dim: int) -> Tensor:
    """1 - A(kappa), without cancellation at large concentration."""
    return _WithSlope.apply(_working(kappa), _complement, _minus_derivative, dim).to(kappa.dtype)


def log_hypergeometric_kernel(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`\log H(\kappa) = \log C_p(0) - \log C_p(\kappa)`: 0 at 0, increasing, with slope A.

    Unchecked: negative, NaN or infinite ``kappa`` give meaningless values. For training steps, ``torch.compile`` and
    ``vmap``; elsewhere call `vmflearn.sphere.bessel.log_hypergeometric`. In a compiled graph ``dim`` is a
    constant: code that is compiled for several dimensions needs ``dynamic=False``.
    """
    return _WithSlope.apply(_working(kappa), _log_h, length_kernel, dim).to(kappa.dtype)


def excess_kernel(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`E(\kappa) = \kappa - \log H(\kappa) \ge 0`, so that the log-density at the mode is log C_p(0) + E."""
    return _WithSlope.apply(_working(kappa), _excess, complement_kernel, dim).to(kappa.dtype)
