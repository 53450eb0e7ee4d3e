r"""Other ways to compute log C_p(kappa), to compare with: the paper's approximation, scipy and mpmath.

All start from :math:`C_p(\kappa) = \kappa^\nu / [(2\pi)^{p/2} I_\nu(\kappa)]`, :math:`\nu = p/2 - 1`. Arguments are
checked by the caller, `vmflearn.sphere.bessel.log_normalizer`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vmflearn.sphere.expansion import debye, log_normalizer_at_zero

MPMATH_DIGITS = 50
# mpmath sums 0F1 term by term, about (s - nu) / 2 terms of as many bits (a second at this limit, and quickly growing),
# unless nu^2 / (2 kappa) is so small that Hankel's expansion converges.
MPMATH_LARGEST_SERIES = 2e4
MPMATH_LARGEST_HANKEL = 25.0


def asymptotic(kappa: Tensor, dim: int, terms: int) -> Tensor:
    r"""The uniform expansion for large order, Eq. 5 of the paper (DLMF 10.41.3), with U_0, ..., U_{terms-1}.

    With :math:`\kappa = \nu r` and :math:`s = \sqrt{\nu^2 + \kappa^2}` the factor :math:`\kappa^\nu` cancels:

    .. math:: \log C_p \approx \nu\log(\nu + s) - s + \tfrac12\log(2\pi s) - \tfrac p2\log 2\pi
              - \log\sum_{k<\text{terms}} U_k(\nu/s)\,\nu^{-k} .

    One term is exactly what the paper uses. Differentiable by autograd.
    """
    nu = dim / 2 - 1
    if nu == 0:
        raise ValueError("method='asymptotic' needs dim >= 3: at dim=2 the order is 0 and Eq. 5 divides by it")
    s = torch.hypot(kappa, torch.full_like(kappa, nu))
    tau = (nu / s) ** 2
    total = torch.zeros_like(kappa)
    for k in range(terms):
        u_k = sum(float(q) * tau**i for i, q in enumerate(debye(k)))
        total = total + u_k / s**k
    if not bool((total > 0).all()):
        raise ValueError(
            f"terms={terms} is too many at dim={dim}: the expansion diverges, its sum is not positive; use fewer terms"
        )
    return nu * torch.log(nu + s) - s + 0.5 * torch.log(2 * math.pi * s) - dim / 2 * math.log(2 * math.pi) - total.log()


def scipy_log_normalizer(kappa: Tensor, dim: int) -> Tensor:
    """Through ``scipy.special.ive``, in float64 and without a gradient.

    Where ``ive`` underflows (large dim, moderate kappa) the result is +inf; kappa = 0 is its limit.
    """
    from scipy.special import ive

    nu = dim / 2 - 1
    k = kappa.detach().cpu().double().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        values = nu * np.log(k) - dim / 2 * np.log(2 * np.pi) - (np.log(ive(nu, k)) + k)
    values = np.where(k == 0, log_normalizer_at_zero(dim), values)
    if np.isnan(values).any():
        raise ValueError(
            f"scipy's ive gives NaN at dim={dim}, kappa={k[np.isnan(values)].flat[0]}; use method='exact' there"
        )
    return torch.from_numpy(np.asarray(values)).to(kappa)


def mpmath_log_normalizer(kappa: Tensor, dim: int) -> Tensor:
    r"""In 50 digits, :math:`\log C_p(0) - \log {}_0F_1(; p/2; \kappa^2/4)`, rounded once; without a gradient."""
    import mpmath

    nu = dim / 2 - 1

    def log_normalizer(k: float) -> float:
        if math.hypot(nu, k) - nu > MPMATH_LARGEST_SERIES and nu**2 > 2 * k * MPMATH_LARGEST_HANKEL:
            raise ValueError(
                f"mpmath's 0F1 would take very long at dim={dim}, kappa={k}, which are both large; "
                "use method='exact' there"
            )
        half = mpmath.mpf(dim) / 2
        at_zero = mpmath.loggamma(half) - mpmath.log(2) - half * mpmath.log(mpmath.pi)
        return float(at_zero - mpmath.log(mpmath.hyp0f1(half, mpmath.mpf(k) ** 2 / 4, maxterms=10**6)))

    with mpmath.workdps(MPMATH_DIGITS):
        values = [log_normalizer(float(k)) for k in kappa.detach().flatten().cpu()]
    return torch.tensor(values, dtype=torch.float64).reshape(kappa.shape).to(kappa)
