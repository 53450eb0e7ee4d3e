r"""Coefficients for the normaliser of the von Mises-Fisher distribution, made once per dimension and precision.

With :math:`\nu = p/2 - 1` and :math:`s = \sqrt{\nu^2 + \kappa^2}` the uniform expansion of DLMF 10.41.3 reads

.. math:: I_\nu(\kappa) \sim \frac{e^s}{\sqrt{2\pi s}} \Bigl(\frac{\kappa}{\nu + s}\Bigr)^{\nu} \exp L(s), \qquad
          L(s) = \sum_{k \ge 1} P_k(\nu^2/s^2)\, s^{-k} .

It is an expansion in 1/s, and 1/s is small when either the dimension or the concentration is large: the same series is
Stirling's at :math:`\kappa = 0` and Hankel's at :math:`\nu = 0`. Where both are small (s below `join`, see
`JOIN_DOUBLE`) the power series :math:`{}_0F_1(; p/2; \kappa^2/4)`, all of whose terms are positive, converges quickly.

Coefficients are computed exactly, as fractions, brought to the lowest degree that keeps the last digit (`economized`),
and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import zip_longest

# From this s on the uniform expansion reaches rounding error (float64, float32); below it the power series is used.
JOIN_DOUBLE = 26
JOIN_SINGLE = 11
EPS_DOUBLE = 2.0**-52
EPS_SINGLE = 2.0**-23
# What truncating a series or lowering the degree of a polynomial may cost, in units of eps.
SHARE = 1 / 8
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


def _log_series(order: Fraction, scale: Fraction, eps: float) -> Polynomial:
    """Coefficients e_j of L(s) = sum_j e_j u^j, u = scale / s."""
    m = _terms_needed(order, scale, eps)
    e = [Fraction(0)] * (3 * m + 1)
    for k in range(1, m + 1):
        for i, c in enumerate(log_debye(k)):
            e[k + 2 * i] += c * order ** (2 * i) / scale ** (k + 2 * i)
    return tuple(e)


@cache
def _half_log_mean(ratio: Fraction, eps: float) -> Polynomial:
    r"""Coefficients of :math:`\tfrac12\log\frac{2}{1 + v} / (1 - v) = \tfrac12\sum_{n\ge1} (1 - v)^{n-1} / (n 2^n)`.

    A polynomial in u, where v = ratio u. It turns one of the expansion's two logarithms into the other: with
    :math:`v = \nu/s`, :math:`\log(1 + d/\nu) = \log(1 + d/2\nu) + \log\frac{2}{1 + v}`.
    """
    total: list[Fraction] = []
    for n in range(math.ceil(-math.log2(eps)) + 4, 0, -1):  # Horner's rule in 1 - v
        total = _times_one_minus(total, ratio)
        total[0] += Fraction(1, 2 * n * 2**n)
    return tuple(total)


def _times_one_minus(coefficients: list[Fraction], ratio: Fraction) -> list[Fraction]:
    """Coefficients of (1 - ratio u) times the polynomial."""
    return [a - ratio * b for a, b in zip([*coefficients, Fraction(0)], [Fraction(0), *coefficients], strict=True)]


@cache
def chebyshev(n: int) -> Polynomial:
    """Coefficients of the Chebyshev polynomial of [0, 1], T_n(2u - 1)."""
    if n < 2:
        return ((Fraction(1),), (Fraction(-1), Fraction(2)))[n]
    following = [-c for c in chebyshev(n - 2)] + [Fraction(0)] * 2
    for i, c in enumerate(chebyshev(n - 1)):
        following[i] -= 2 * c
        following[i + 1] += 4 * c
    return tuple(following)


def economized(coefficients: Polynomial, tolerance: float) -> Polynomial:
    """Lower the degree (Lanczos): subtract multiples of Chebyshev polynomials, at most `tolerance` in all on [0, 1]."""
    left = list(coefficients)
    error = 0.0
    while len(left) > 1:
        t = chebyshev(len(left) - 1)
        factor = left[-1] / t[-1]
        error += abs(float(factor))
        if error > tolerance:
            break
        left = [a - factor * b for a, b in zip(left[:-1], t[:-1], strict=True)]
    return tuple(left)


@dataclass(frozen=True)
class PowerSeries:
    r"""Coefficients in :math:`y = t^2`, :math:`t = \kappa / \text{unit}`, for kappa up to the join; all positive.

    Attributes
    ----------
    unit : a power of two, so that t is exact: what rounds a power of it counts a dozen times over
    excess : :math:`H - 1`, divided by y, where :math:`H(\kappa) = {}_0F_1(; p/2; \kappa^2/4)`
    shifted : H at dimension p + 2; :math:`A = (\kappa / p)\, H_{p+2} / H_p`
    slope : :math:`A' H^2`, from the product series DLMF 10.31.3
    complement : :math:`(1 - A) H e^\kappa = {}_1F_1(\nu + \tfrac12; 2\nu + 2; 2\kappa)`; this one in t
    """

    unit: float
    excess: tuple[float, ...]
    shifted: tuple[float, ...]
    slope: tuple[float, ...]
    complement: tuple[float, ...]


def _power_series(order: Fraction, join: float, eps: float) -> PowerSeries:
    """Sum until the next terms are below rounding at the join."""
    unit = 2 ** math.ceil(math.log2(join))
    x, y = Fraction(unit) ** 2 / 4, (join / unit) ** 2
    h, shifted = [Fraction(1)], [Fraction(1)]
    slope: list[Fraction] = []
    product = Fraction(1)  # x^n (2 nu + n + 1)_n / (n! (nu + 1)_n^2)
    n, last, total = 0, 1.0, 0.0
    while last > eps / 16 * total:
        slope.append(product * (2 * order + 1) / (2 * (2 * order + n + 1) * (order + n + 1)))
        last = float(slope[-1]) * y**n
        total += last
        product *= x * (2 * order + 2 * n + 2) * (2 * order + 2 * n + 1)
        product /= (2 * order + n + 1) * (n + 1) * (order + n + 1) ** 2
        n += 1
        h.append(h[-1] * x / (n * (order + n)))
        shifted.append(shifted[-1] * x / (n * (order + n + 1)))
    return PowerSeries(
        unit=float(unit),
        excess=_without_tail(_floats(h[1:]), y, eps),
        shifted=_without_tail(_floats(shifted), y, eps),
        slope=_without_tail(_floats(slope), y, eps),
        complement=_without_tail(_kummer(order, unit, join / unit, eps), join / unit, eps),
    )


def _without_tail(coefficients: tuple[float, ...], y: float, eps: float) -> tuple[float, ...]:
    """Leave out the last of the positive terms that are below rounding of the sum at y."""
    terms = [c * y**n for n, c in enumerate(coefficients)]
    total = sum(terms)
    while terms[-1] < eps / 16 * total:
        terms.pop()
    return coefficients[: len(terms)]


def _kummer(order: Fraction, unit: int, largest: float, eps: float) -> tuple[float, ...]:
    r"""Coefficients of :math:`{}_1F_1(\nu + \tfrac12; 2\nu + 2; 2\,\text{unit}\,t)` in t up to `largest` (DLMF 13.2.2).

    From :math:`H = e^{-\kappa}\,{}_1F_1(\nu + \tfrac12; 2\nu + 1; 2\kappa)` (DLMF 13.6.9) and Kummer's transformation.
    """
    import mpmath

    with mpmath.workdps(25):
        nu = mpmath.mpf(order.numerator) / order.denominator
        coefficients, last, total = [mpmath.mpf(1)], 1.0, 1.0
        while last > eps / 16 * total:
            n = len(coefficients) - 1
            coefficients.append(coefficients[-1] * (nu + n + 0.5) / ((2 * nu + 2 + n) * (n + 1)) * 2 * unit)
            last = float(coefficients[-1]) * largest ** (n + 1)
            total += last
        return tuple(float(c) for c in coefficients)


@dataclass(frozen=True)
class Plan:
    r"""All the numbers that the tensor formulas of one dimension and precision need.

    Polynomials are in 1/s, for s of at least max(`order`, the join of the precision); lowest coefficient first.

    Attributes
    ----------
    dim, order : p and :math:`\nu = p/2 - 1`
    join : concentration above which the uniform expansion is used; 0 when it serves every concentration
    rest : what :math:`\log H` has beside the elementary terms: Q, where `join` is 0, and N where it is positive,
        :math:`\log H = d - (\nu + \tfrac12)\log(1 + d/2\nu) - \{(d/s)\, Q \text{ or } N\}`
    half_plus_w, w2 : :math:`\tfrac12 + W` and :math:`W_2`, of its derivatives
    small : the power series, where `join` is positive
    """

    dim: float
    order: float
    join: float
    rest: tuple[float, ...]
    half_plus_w: tuple[float, ...]
    w2: tuple[float, ...]
    small: PowerSeries | None


def _floats(coefficients: Sequence[Fraction]) -> tuple[float, ...]:
    return tuple(float(c) for c in coefficients)


def _stirling(order: Fraction) -> Fraction:
    r""":math:`S = \log\Gamma(\nu+1) - [\nu\log\nu - \nu + \tfrac12\log 2\pi\nu]`, at nu = 0 without log nu."""
    import mpmath

    with mpmath.workdps(40):
        nu = mpmath.mpf(order.numerator) / order.denominator
        value = -mpmath.log(2 * mpmath.pi) / 2
        if nu:
            value += mpmath.loggamma(nu + 1) - nu * mpmath.log(nu) + nu - mpmath.log(nu) / 2
        return Fraction(mpmath.nstr(value, 36))


def _rest(order: Fraction, scale: Fraction, e: Polynomial, eps: float) -> Polynomial:
    r"""Coefficients of Q or N (see `Plan`), exact up to eps.

    Where nu >= join, :math:`L(s) - L(\nu) = -(1 - u) M(u)` is divided by :math:`1 - u = d/s`, so that relative accuracy
    holds down to concentration 0: :math:`Q = M + \tfrac12\log\frac2{1+u} / (1 - u)`. Elsewhere
    :math:`N = \tfrac12\log\frac2{1+v} - L - S` with :math:`v = \nu/s`, and without the logarithm at nu = 0.
    """
    if scale == order:
        series = [sum(e[i + 1 :], Fraction(0)) for i in range(len(e) - 1)]
        logarithm: Sequence[Fraction] = _half_log_mean(Fraction(1), eps)
    else:
        series = [-c for c in e]
        series[0] -= _stirling(order)
        logarithm = _times_one_minus(list(_half_log_mean(order / scale, eps)), order / scale) if order else ()
    return tuple(a + b for a, b in zip_longest(series, logarithm, fillvalue=Fraction(0)))


@cache
def make_plan(dim: int | Fraction, single: bool) -> Plan:
    """Compute the coefficients for dimension `dim`, to float32 precision if `single`, else to float64."""
    join, eps = (JOIN_SINGLE, EPS_SINGLE) if single else (JOIN_DOUBLE, EPS_DOUBLE)
    order = Fraction(dim) / 2 - 1
    scale = max(order, Fraction(join))
    e = _log_series(order, scale, eps)
    join_squared = max(join**2 - order**2, Fraction(0))
    # Where the error of a polynomial weighs most: log H = join^2 / 2p at the join, 1 - A = (nu + 1/2) / kappa far out.
    rest_weight = min(1.0, float(join_squared / (4 * order + 4))) if join_squared else float(order)
    slope_weight = float(order) + 0.5

    def in_reciprocal(coefficients: Sequence[Fraction], weight: float) -> tuple[float, ...]:
        """From a polynomial in u = scale / s to one in 1 / s, of the lowest degree that will do."""
        return _floats([c * scale**j for j, c in enumerate(economized(tuple(coefficients), SHARE * eps * weight))])

    return Plan(
        dim=float(dim),
        order=float(order),
        join=math.sqrt(join_squared),
        rest=in_reciprocal(_rest(order, scale, e, eps), rest_weight),
        half_plus_w=in_reciprocal([Fraction(1, 2), *(j * c for j, c in enumerate(e) if j)], slope_weight),
        w2=in_reciprocal([j * j * c for j, c in enumerate(e)], slope_weight),
        small=_power_series(order, math.sqrt(join_squared), eps) if join_squared else None,
    )


def log_normalizer_at_zero(dim: int) -> float:
    r"""Minus the logarithm of the area of the sphere: :math:`\log C_p(0) = \log\Gamma(p/2) - \log 2 - (p/2)\log\pi`."""
    return _log_normalizer_at_zero(dim)


# What torch.compiler.assume_constant_result does, which imports the whole compiler for it: two seconds.
log_normalizer_at_zero._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _log_normalizer_at_zero(dim: int) -> float:
    import mpmath

    with mpmath.workdps(40):
        half = mpmath.mpf(dim) / 2
        return float(mpmath.loggamma(half) - mpmath.log(2) - half * mpmath.log(mpmath.pi))


@cache
def gamma_root(order: Fraction) -> float:
    r""":math:`\Gamma(\nu + 1)^{1/\nu}`, which lets :math:`(x/2)^\nu / \Gamma(\nu + 1)` be one power."""
    import mpmath

    with mpmath.workdps(40):
        nu = mpmath.mpf(order.numerator) / order.denominator
        return float(mpmath.exp(mpmath.loggamma(nu + 1) / nu))
