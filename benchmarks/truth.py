r"""True values of the normaliser and its derivatives, by ball arithmetic: each comes enclosed in an interval.

With :math:`H_p(\kappa) = {}_0F_1(; p/2; \kappa^2/4)` (DLMF 10.39.9),

.. math:: \log C_p(\kappa) = \log C_p(0) - \log H_p, \qquad A = \frac{\kappa}{p} \frac{H_{p+2}}{H_p}, \qquad
          A' = 1 - A^2 - (p - 1) A / \kappa .

Nothing here is shared with the library: arb (python-flint) computes the two values of 0F1, and the cancellation in the
formulas is met with digits. The working precision is doubled until the interval of every quantity is narrow enough, so
that an answer is proved, or there is none. `by_mpmath` computes the same through another library.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mpmath

try:
    from flint import arb, ctx
except ImportError as error:
    raise SystemExit("the references are computed with arb: install it with  pip install python-flint") from error

BITS = 160  # accuracy asked of each value: 48 digits
FIRST_PRECISION = 320
LARGEST_PRECISION = 2**20
ctx.prec = FIRST_PRECISION

MPMATH_DIGITS = 50
# mpmath sums about (s - nu) / 2 terms of its series, s^2 = nu^2 + kappa^2, or Hankel's expansion where it converges.
MPMATH_LARGEST_SERIES = 2e3
MPMATH_LARGEST_HANKEL = 10.0


class Truth(NamedTuple):
    """Values at one dimension and concentration."""

    log_h: Any  # log C(0) - log C(kappa)
    excess: Any  # kappa - log H
    length: Any  # A
    complement: Any  # 1 - A
    slope: Any  # A'


def truth(dim: int, kappa: float) -> Truth:
    """Enclose all values at ``kappa``, a float taken as exact."""
    if kappa == 0:
        return Truth(arb(0), arb(0), arb(0), arb(1), 1 / arb(dim))
    precision = FIRST_PRECISION
    try:
        while precision <= LARGEST_PRECISION:
            ctx.prec = precision
            values = _enclose(dim, arb(kappa))
            if min(value.rel_accuracy_bits() for value in values) >= BITS:
                return values
            precision *= 2
    finally:
        ctx.prec = FIRST_PRECISION
    raise ArithmeticError(f"arb did not enclose the values at dim={dim}, kappa={kappa!r}")


def _enclose(dim: int, kappa: Any) -> Truth:
    z, half = kappa * kappa / 4, arb(dim) / 2
    h = z.hypgeom_0f1(half)
    log_h, length = h.log(), kappa / dim * z.hypgeom_0f1(half + 1) / h
    return Truth(log_h, kappa - log_h, length, 1 - length, 1 - length * length - (dim - 1) * length / kappa)


def log_normalizer_at_zero(dim: int) -> Any:
    """Enclose log C(0) = lgamma(p/2) - log 2 - (p/2) log pi."""
    half = arb(dim) / 2
    return half.lgamma() - arb(2).log() - half * arb.pi().log()


def relative_error(value: float, true: Any, scale: Any = None) -> float:
    """Upper bound of ``|value - true|`` over ``|scale|``, by default over ``|true|``; infinite for NaN."""
    if not math.isfinite(value):
        return math.inf
    scale = true if scale is None else scale
    if scale == 0:
        return 0.0 if value == 0 else math.inf
    return float(((arb(value) - true) / scale).abs_upper())


def mpmath_converges(dim: int, kappa: float) -> bool:
    """Whether mpmath's 0F1 gives an answer within some milliseconds."""
    nu = dim / 2 - 1
    return math.hypot(nu, kappa) - nu < MPMATH_LARGEST_SERIES or nu**2 < 2 * kappa * MPMATH_LARGEST_HANKEL


def by_mpmath(dim: int, kappa: float) -> Truth:
    """Compute the same in mpmath, in 50 digits and as many more as the formulas lose, kappa > 0."""
    lost = 4 * abs(math.log10(kappa)) + 2 * math.log10(dim)
    with mpmath.workdps(MPMATH_DIGITS + int(lost) + 5):
        k, half = mpmath.mpf(kappa), mpmath.mpf(dim) / 2
        h = mpmath.hyp0f1(half, k * k / 4, maxterms=10**6)
        log_h, length = mpmath.log(h), k / dim * mpmath.hyp0f1(half + 1, k * k / 4, maxterms=10**6) / h
        return Truth(log_h, k - log_h, length, 1 - length, 1 - length**2 - (dim - 1) * length / k)


def disagreement(ball: Any, other: Any) -> float:
    """Relative difference of an enclosed value and one of mpmath's."""
    with mpmath.workdps(MPMATH_DIGITS + 10):
        middle = mpmath.mpf(ball.mid().str(MPMATH_DIGITS + 10, radius=False))
        return float(abs(middle - other) / abs(other))
