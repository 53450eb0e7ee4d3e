r"""Coefficients for the normaliser of the von Mises-Fisher distribution, made once per dimension and precision.

With :math:`\nu = p/2 - 1` and :math:`s = \sqrt{\nu^2 + \kappa^2}` the uniform expansion of DLMF 10.41.3 reads

.. math:: I_\nu(\kappa) \sim \frac{e^s}{\sqrt{2\pi s}} \Bigl(\frac{\kappa}{\nu + s}\Bigr)^{\nu} \exp L(s), \qquad
          L(s) = \sum_{k \ge 1} P_k(\nu^2/s^2)\, s^{-k} .

It is an expansion in 1/s, and 1/s is small when either the dimension or the concentration is large: the same series is
Stirling's at :math:`\kappa = 0` and Hankel's at :math:`\nu = 0`. Where both are small (s below `join`, see
`JOIN_DOUBLE`) the power series :math:`{}_0F_1(; p/2; \kappa^2/4)`, all of whose terms are positive, converges quickly.

Coefficients are computed exactly, as fractions, and rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

# From this s on the uniform expansion reaches rounding error (float64, float32); below it the power series is used.
JOIN_DOUBLE = 26
JOIN_SINGLE = 11
EPS_DOUBLE = 2.0**-52
EPS_SINGLE = 2.0**-23
# Truncation error of the expansion is bounded on this many values of u = scale / s in (0, 1].
GRID = 24

Polynomial = tuple[Fraction, ...]


@cache
def debye(k: int) -> Polynomial:
    r"""Coefficients :math:`q_{k,i}` of :math:`U_k(t) = \sum_i q_{k,i}\, t^{k + 2i}` (DLMF 10.41.9).

    From :math:`U_{k+1} = \tfrac12 t^2 (1 - t^2) U_k' + \tfrac18 \int_0^t (1 - 5 x^2) U_k(x)\, dx`, term by term.
    """
    if k == 0:
        return (Fraction(1),)
    following = [Fraction(0)] * (k + 1)
    for i, q in enumerate(debye(k - 1)):
        n = k - 1 + 2 * i
        following[i] += q * (Fraction(n, 2) + Fraction(1, 8 * (n + 1)))
        following[i + 1] -= q * (Fraction(n, 2) + Fraction(5, 8 * (n + 3)))
    return tuple(following)


@cache
def log_debye(k: int) -> Polynomial:
    r"""Coefficients of :math:`P_k(\tau)`, where :math:`\log\sum_k U_k(t)\nu^{-k} = \sum_k t^k P_k(t^2)\,\nu^{-k}`.

    The logarithm of a power series: :math:`k P_k = k Q_k - \sum_{j<k} j P_j Q_{k-j}` with :math:`U_k = t^k Q_k(t^2)`.
    """
    total = [k * q for q in debye(k)]
    for j in range(1, k):
        for a, left in enumerate(log_debye(j)):
            for b, right in enumerate(debye(k - j)):
                total[a + b] -= j * left * right
    return tuple(c / k for c in total)


def _terms_needed(order: Fraction, scale: Fraction, eps: float) -> int:
    """Smallest m whose first neglected term, weighted as in A'(kappa) where it weighs most, is below eps."""
    m = 1
    while True:
        p = [float(c) for c in log_debye(m + 1)]
        largest = 0.0
        for step in range(1, GRID + 1):
            u = step / GRID
            tau = float(order / scale) ** 2 * u**2
            largest = max(largest, abs(sum(c * tau**i for i, c in enumerate(p))) * u ** (m + 1))
        if 2 * (m + 1) ** 2 * largest <= eps * float(scale) ** (m + 1):
            return m
        m += 1


def _log_series(order: Fraction, scale: Fraction, eps: float) -> list[Fraction]:
    """Coefficients e_j of L(s) = sum_j e_j u^j, u = scale / s, without a tail that cannot be seen."""
    m = _terms_needed(order, scale, eps)
    e = [Fraction(0)] * (3 * m + 1)
    for k in range(1, m + 1):
        for i, c in enumerate(log_debye(k)):
            e[k + 2 * i] += c * order ** (2 * i) / scale ** (k + 2 * i)
    tail = 0.0
    while len(e) > 2 and tail + abs(float(e[-1])) * len(e) ** 2 <= eps / 8:
        tail += abs(float(e.pop())) * (len(e) + 1) ** 2
    return e


@dataclass(frozen=True)
class PowerSeries:
    r"""Coefficients in :math:`y = (\kappa / \text{join})^2` for :math:`0 \le y \le 1`; all positive.

    Attributes
    ----------
    excess : :math:`H - 1`, divided by y, where :math:`H(\kappa) = {}_0F_1(; p/2; \kappa^2/4)`
    shifted : H at dimension p + 2; :math:`A = (\kappa / p)\, H_{p+2} / H_p`
    slope : :math:`A' H^2`, from the product series DLMF 10.31.3
    """

    excess: tuple[float, ...]
    shifted: tuple[float, ...]
    slope: tuple[float, ...]


def _power_series(order: Fraction, join_squared: Fraction, eps: float) -> PowerSeries:
    """Sum until the next terms are below rounding at y = 1."""
    x = join_squared / 4
    h, shifted, slope = [Fraction(1)], [Fraction(1)], []
    product = Fraction(1)  # x^n (2 nu + n + 1)_n / (n! (nu + 1)_n^2)
    n = 0
    while True:
        weight = (2 * order + 1) / (2 * (2 * order + n + 1) * (order + n + 1))
        slope.append(product * weight)
        if n > 0 and max(h[-1] / sum(h), shifted[-1] / sum(shifted), slope[-1] / sum(slope)) < eps / 16:
            break
        product *= x * (2 * order + 2 * n + 2) * (2 * order + 2 * n + 1)
        product /= (2 * order + n + 1) * (n + 1) * (order + n + 1) ** 2
        n += 1
        h.append(h[-1] * x / (n * (order + n)))
        shifted.append(shifted[-1] * x / (n * (order + n + 1)))
    return PowerSeries(_floats(h[1:]), _floats(shifted), _floats(slope))


@dataclass(frozen=True)
class Plan:
    r"""All the numbers that the tensor formulas of one dimension and precision need.

    Attributes
    ----------
    dim, order : p and :math:`\nu = p/2 - 1`
    join : concentration above which the uniform expansion is used; 0 when it serves every concentration
    scale : the argument of the polynomials is :math:`u = \text{scale} / s`
    log_series : :math:`e_j`, of L
    moment, moment2 : :math:`j e_j` and :math:`j^2 e_j`, of the derivatives of L
    difference : M with :math:`L(s) - L(\nu) = -(d/s) M(u)`, where `join` is 0 (relative accuracy down to 0)
    stirling : S with :math:`\log H = \dots + L(s) + S`, where `join` is positive
    small : the power series, where `join` is positive
    """

    dim: int
    order: float
    join: float
    scale: float
    log_series: tuple[float, ...]
    moment: tuple[float, ...]
    moment2: tuple[float, ...]
    difference: tuple[float, ...]
    stirling: float
    small: PowerSeries | None


def _floats(coefficients: list[Fraction]) -> tuple[float, ...]:
    return tuple(float(c) for c in coefficients)


def _stirling(order: Fraction) -> float:
    r""":math:`\log\Gamma(\nu+1) - [\nu\log\nu - \nu + \tfrac12\log 2\pi\nu]`; without the terms in log nu at nu = 0."""
    import mpmath

    with mpmath.workdps(40):
        nu = mpmath.mpf(order.numerator) / order.denominator
        if nu == 0:
            return float(-mpmath.log(2 * mpmath.pi) / 2)
        return float(mpmath.loggamma(nu + 1) - nu * mpmath.log(nu) + nu - mpmath.log(2 * mpmath.pi * nu) / 2)


@cache
def make_plan(dim: int, single: bool) -> Plan:
    """Compute the coefficients for dimension `dim`, to float32 precision if `single`, else to float64."""
    join, eps = (JOIN_SINGLE, EPS_SINGLE) if single else (JOIN_DOUBLE, EPS_DOUBLE)
    order = Fraction(dim, 2) - 1
    scale = max(order, Fraction(join))
    e = _log_series(order, scale, eps)
    join_squared = max(join**2 - order**2, Fraction(0))
    return Plan(
        dim=dim,
        order=float(order),
        join=math.sqrt(join_squared),
        scale=float(scale),
        log_series=_floats(e),
        moment=_floats([j * c for j, c in enumerate(e)]),
        moment2=_floats([j * j * c for j, c in enumerate(e)]),
        difference=_floats([sum(e[i + 1 :], Fraction(0)) for i in range(len(e) - 1)]),
        stirling=_stirling(order) if join_squared else 0.0,
        small=_power_series(order, join_squared, eps) if join_squared else None,
    )


@cache
def log_normalizer_at_zero(dim: int) -> float:
    r"""Minus the logarithm of the area of the sphere: :math:`\log C_p(0) = \log\Gamma(p/2) - \log 2 - (p/2)\log\pi`."""
    import mpmath

    with mpmath.workdps(40):
        half = mpmath.mpf(dim) / 2
        return float(mpmath.loggamma(half) - mpmath.log(2) - half * mpmath.log(mpmath.pi))
