"""The normaliser of the power-spherical distribution, against mpmath in 60 digits."""

import mpmath
import pytest
import torch

from vmflearn.sphere.power_normalizer import (
    divergence_from_uniform,
    divergence_to_uniform,
    mode_gain,
    mode_gain_slope,
)

DIMS = [2, 3, 4, 5, 16, 20, 21, 22, 64, 1024, 4096]  # from 21 on without a step of the recurrence
KAPPAS = [0.0, *(10.0**e for e in range(-8, 11)), 0.3, 9.9, 10.0, 10.4, 10.6, 127.0, 2047.5, 2050.0, 1e30]


def gain(k: mpmath.mpf, dim: int) -> mpmath.mpf:
    beta, log_gamma = mpmath.mpf(dim - 1) / 2, mpmath.loggamma
    return log_gamma(2 * beta + k) - log_gamma(2 * beta) - log_gamma(beta + k) + log_gamma(beta)


def slope(k: mpmath.mpf, dim: int) -> mpmath.mpf:
    beta = mpmath.mpf(dim - 1) / 2
    return mpmath.digamma(2 * beta + k) - mpmath.digamma(beta + k)


def bend(k: mpmath.mpf, dim: int) -> mpmath.mpf:
    beta = mpmath.mpf(dim - 1) / 2
    return mpmath.psi(1, beta + k) - mpmath.psi(1, 2 * beta + k)


CASES = {
    "mode_gain": (mode_gain, gain, 3),
    "slope": (mode_gain_slope, slope, 3),
    "to uniform": (divergence_to_uniform, lambda k, d: gain(k, d) - k * slope(k, d), 12),
    "from uniform": (divergence_from_uniform, lambda k, d: k * slope(mpmath.mpf(0), d) - gain(k, d), 12),
}
DERIVATIVES = {
    "mode_gain": slope,
    "slope": lambda k, d: -bend(k, d),
    "to uniform": lambda k, d: k * bend(k, d),
    "from uniform": lambda k, d: slope(mpmath.mpf(0), d) - slope(k, d),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_right_to_rounding_at_any_dimension_and_concentration(name: str, dtype: torch.dtype) -> None:
    function, exact, roundings = CASES[name]
    kappa = torch.tensor(KAPPAS, dtype=dtype)
    for dim in DIMS:
        found = function(kappa, dim).tolist()
        with mpmath.workdps(80):
            expected = [float(exact(mpmath.mpf(k), dim)) for k in kappa.tolist()]
        assert found == pytest.approx(expected, rel=roundings * torch.finfo(dtype).eps, abs=0), dim


@pytest.mark.parametrize("name", CASES)
def test_derivatives_by_autograd(name: str) -> None:
    """At the joins of the formulas too: 10 at dimension 21, beta at all."""
    for dim in (2, 3, 21, 300):
        kappa = torch.tensor([1e-6, 0.3, 10.0, 127.0, 5e6, (dim - 1) / 2], dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(CASES[name][0](kappa, dim).sum(), kappa)
        with mpmath.workdps(60):
            expected = [float(DERIVATIVES[name](mpmath.mpf(k), dim)) for k in kappa.tolist()]
        assert found.tolist() == pytest.approx(expected, rel=2e-11, abs=1e-18), dim
