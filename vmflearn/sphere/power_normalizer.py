r"""The normaliser of the power-spherical distribution, as a difference that keeps its digits.

With :math:`\beta = (p-1)/2` the density at the mode is :math:`C_p(0)\,e^{D(\kappa)}`, where

.. math:: D(\kappa) = \log\frac{\Gamma(2\beta+\kappa)}{\Gamma(2\beta)} - \log\frac{\Gamma(\beta+\kappa)}{\Gamma(\beta)},
          \qquad D' = \psi(2\beta+\kappa) - \psi(\beta+\kappa) > 0, \qquad D(0) = 0 .

The four logarithms are of the size of :math:`\kappa\log\kappa` and D of that of :math:`\beta\log\kappa` or, where it is
small, of :math:`\kappa`. So they are never computed: n steps of the recurrence of :math:`\Gamma` lead from
:math:`\beta` to :math:`a = \beta + n \ge 10`, each giving :math:`\log(1 + \beta\kappa/[(\beta+j)(2\beta+j+\kappa)])`;
from there, with :math:`b = 2\beta + n`, Stirling's series leaves

.. math:: \beta\log(1 + \tfrac\kappa b) + \kappa\log\tfrac ba
          + (a + \kappa - \tfrac12)\log\Bigl(1 - \frac{\beta\kappa}{b(a+\kappa)}\Bigr)
        = \beta\log(1 + \tfrac\kappa b) + (a + \kappa - \tfrac12)\log\Bigl(1 + \frac\beta{a+\kappa}\Bigr)
          - (a - \tfrac12)\log\tfrac ba

(the first for :math:`\kappa \le a`, the second above), and what is left of the series' terms, which fall with
:math:`\kappa`. Right to rounding in float32 and float64, differentiable by autograd.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

# Bernoulli's numbers B_2, B_4, ...
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
# From here on nine terms of Stirling's series are right to rounding.
_LEAST = 10.0
# The nearest pole of the integrand is three half-widths of the interval away: 34 times less of an error a node.
_NODES = 12


def _steps(beta: float) -> int:
    return max(0, math.ceil(_LEAST - beta))


def mode_gain(kappa: Tensor, dim: int) -> Tensor:
    """D: log-density at the mode, less that of the uniform distribution; kappa finite, float32 or float64."""
    beta = (dim - 1) / 2
    n = _steps(beta)
    a, b = beta + n, 2 * beta + n
    is_near = kappa < a
    small, large = torch.where(is_near, kappa, a), torch.where(is_near, a, kappa)
    near = small * math.log(b / a) + (a - 0.5 + small) * torch.log1p(-(beta / b) * small / (a + small))
    far = (a - 0.5 + large) * torch.log1p(beta / (a + large)) - (a - 0.5) * math.log(b / a)
    total = beta * torch.log1p(kappa / b) + torch.where(is_near, near, far)
    for j in range(n):
        total = total + torch.log1p(kappa / (2 * beta + j + kappa) * (beta / (beta + j)))
    return total + _fallen(kappa, a) - _fallen(kappa, b)


def _fallen(kappa: Tensor, z: float) -> Tensor:
    """By how much the terms of Stirling's series have fallen from z to z + kappa."""
    logarithm, total = torch.log1p(kappa / z), torch.zeros_like(kappa)
    for n, number in enumerate(_BERNOULLI, start=1):
        power = 2 * n - 1
        total = total - number / (2 * n * power) / z**power * torch.expm1(-power * logarithm)
    return total


def mode_gain_slope(kappa: Tensor, dim: int) -> Tensor:
    r"""D': minus the mean of :math:`\log\frac{1 + \mu^\top x}2`."""
    beta = (dim - 1) / 2
    n = _steps(beta)
    a, b = beta + n + kappa, 2 * beta + n + kappa
    total = torch.log1p(beta / a) + beta / 2 / a / b
    for j in range(n):
        total = total + beta / (beta + j + kappa) / (2 * beta + j + kappa)
    for n, number in enumerate(_BERNOULLI, start=1):
        total = total + number / (2 * n) * (a ** (-2 * n) - b ** (-2 * n))
    return total


def _bend(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`-D''`, the variance of :math:`\log\frac{1 + \mu^\top x}2`, for kappa up to about dim."""
    beta = (dim - 1) / 2
    n = _steps(beta)
    a, b = beta + n + kappa, 2 * beta + n + kappa
    total = beta / a / b + (1 / a**2 - 1 / b**2) / 2
    for j in range(n):
        total = total + (1 / (beta + j + kappa) ** 2 - 1 / (2 * beta + j + kappa) ** 2)
    for n, number in enumerate(_BERNOULLI, start=1):
        total = total + number * (a ** (-2 * n - 1) - b ** (-2 * n - 1))
    return total


def _rule() -> tuple[tuple[float, float], ...]:
    """Nodes and weights on (0, 1)."""
    return _cached_rule()


# What torch.compiler.assume_constant_result does, which imports the whole compiler for it: two seconds.
_rule._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _cached_rule() -> tuple[tuple[float, float], ...]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return tuple(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def divergence_to_uniform(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`D - \kappa D' = -\int_0^\kappa t\,D''(t)\,dt`, by a rule where the difference would cancel."""
    small, large, is_small = _parted(kappa, dim)
    far = mode_gain(large, dim) - large * mode_gain_slope(large, dim)
    near = sum(weight * node * _bend(node * small, dim) for node, weight in _rule())
    return torch.where(is_small, small * (small * near), far)


def divergence_from_uniform(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`\kappa D'(0) - D = -\int_0^\kappa (\kappa - t)\,D''(t)\,dt`, likewise."""
    small, large, is_small = _parted(kappa, dim)
    far = large * mode_gain_slope(torch.zeros_like(kappa), dim) - mode_gain(large, dim)
    near = sum(weight * (1 - node) * _bend(node * small, dim) for node, weight in _rule())
    return torch.where(is_small, small * (small * near), far)


def _parted(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Kappa where it is below beta, and where it is not; elsewhere beta, and which is which."""
    beta = (dim - 1) / 2
    is_small = kappa < beta
    return torch.where(is_small, kappa, beta), torch.where(is_small, beta, kappa), is_small
