"""Concentrations whose squares overflow, up to the largest number, against mpmath's Bessel functions."""

import math
from functools import cache

import mpmath
import pytest
import torch
from torch.distributions import kl_divergence

from vmflearn.sphere import HypersphericalUniform, VonMisesFisher
from vmflearn.sphere.flat_limit import LIMIT, anywhere, flat_from
from vmflearn.sphere.kernels import quantity

SINGLE = [1e17, 0.99e18, 1.01e18, 1e19, 2e19, 1e25, 3.4e38]
DOUBLE = [1e149, 0.99e150, 1.01e150, 1e154, 2e154, 1e200, 1.7e308]
EITHER = pytest.mark.parametrize(
    ("dtype", "kappa"), [(torch.float32, k) for k in SINGLE] + [(torch.float64, k) for k in DOUBLE]
)
DIMS = pytest.mark.parametrize("dim", [2, 3, 64, 65536])


def basis(dim: int, index: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.zeros(dim, dtype=dtype)
    x[index] = 1
    return x


@cache
def truth(kappa: float, dim: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    """log H and A; 400 digits, for kappa and the logarithm of I stand 308 digits above what is left of the two."""
    with mpmath.workdps(400):
        k, nu = mpmath.mpf(kappa), mpmath.mpf(dim) / 2 - 1
        i0, i1 = mpmath.besseli(nu, k), mpmath.besseli(nu + 1, k)
        return mpmath.log(i0) + mpmath.loggamma(nu + 1) - nu * mpmath.log(k / 2), i1 / i0


def log_c0(dim: int) -> mpmath.mpf:
    return mpmath.loggamma(mpmath.mpf(dim) / 2) - mpmath.log(2) - mpmath.mpf(dim) / 2 * mpmath.log(mpmath.pi)


@EITHER
@DIMS
def test_density_entropy_and_moments(dtype: torch.dtype, kappa: float, dim: int) -> None:
    rounding = 8 * torch.finfo(dtype).eps
    concentration = torch.tensor(kappa, dtype=dtype, requires_grad=True)
    vmf = VonMisesFisher(basis(dim, dtype=dtype), concentration)
    with mpmath.workdps(400):
        k = mpmath.mpf(concentration.item())
        log_h, length = truth(concentration.item(), dim)
        mode, entropy = log_c0(dim) + k - log_h, k * (1 - length) - (k - log_h) - log_c0(dim)
        complement = 1 - length
    log_prob = vmf.log_prob(vmf.loc)
    assert log_prob.item() == pytest.approx(float(mode), rel=rounding, abs=0)
    assert vmf.entropy().item() == pytest.approx(float(entropy), rel=rounding, abs=0)
    torch.testing.assert_close(vmf.mean, vmf.loc, rtol=rounding, atol=0)
    # a step across loc that lowers the logarithm by one, and the antipode
    step = (log_prob - vmf.log_prob(vmf.loc + math.sqrt(2 / kappa) * basis(dim, 1, dtype))).item()
    assert step == pytest.approx(1, abs=float(abs(mode)) * rounding)
    opposite = torch.tensor(-2 * kappa, dtype=dtype).item()  # -inf where that is the nearest number
    assert vmf.log_prob(-vmf.loc).item() == pytest.approx(opposite, rel=rounding, abs=0)
    (slope,) = torch.autograd.grad(log_prob, concentration)
    assert slope.item() == pytest.approx(float(complement), rel=rounding, abs=torch.finfo(dtype).tiny * rounding)
    assert torch.isfinite(vmf.variance).all()
    assert vmf.variance[1].item() == pytest.approx(1 / kappa, rel=rounding, abs=torch.finfo(dtype).tiny * rounding)


@pytest.mark.parametrize("ratio", [1 + 1e-5, 1.3, 1.99, 2.01, 50.0])
@EITHER
@pytest.mark.parametrize("dim", [2, 3, 64])
def test_divergences(dtype: torch.dtype, kappa: float, dim: int, ratio: float) -> None:
    """Either way round, below each other by a factor, and to and from the uniform distribution."""
    k, other = (torch.tensor(x, dtype=dtype).item() for x in (kappa, kappa / ratio))
    p, q = (VonMisesFisher(basis(dim, dtype=dtype), torch.tensor(x, dtype=dtype)) for x in (k, other))
    uniform = HypersphericalUniform(dim, dtype=dtype)
    with mpmath.workdps(400):
        (h_k, a_k), (h_o, a_o) = truth(k, dim), truth(other, dim)
        forward = h_o - h_k - (mpmath.mpf(other) - k) * a_k
        backward = h_k - h_o - (mpmath.mpf(k) - other) * a_o
        to_uniform = k * a_k - h_k
    rounding = 32 * torch.finfo(dtype).eps
    # below the bound, D of concentrations that differ by more than 2 is a difference of logarithms of kappa
    terms = 4 * torch.finfo(dtype).eps * dim * math.log(kappa) if ratio > 2 and other < flat_from(dtype) else 0
    assert kl_divergence(p, q).item() == pytest.approx(float(forward), rel=rounding, abs=terms)
    assert kl_divergence(q, p).item() == pytest.approx(float(backward), rel=rounding, abs=terms)
    assert kl_divergence(p, uniform).item() == pytest.approx(float(to_uniform), rel=rounding, abs=0)
    assert kl_divergence(uniform, p).item() == pytest.approx(float(h_k), rel=rounding, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 300])
def test_what_the_kernels_can_square_is_theirs(dim: int, dtype: torch.dtype) -> None:
    kappa = torch.tensor([0.0, 3.0, 400.0, 1e12, flat_from(dtype)], dtype=dtype)
    for name in LIMIT:
        assert torch.equal(anywhere(kappa, dim, name), quantity(kappa, dim, name))


def test_gradients_stay_finite_beside_one_another() -> None:
    kappa = torch.tensor([0.0, 2.0, 1e200, 1e308], dtype=torch.float64, requires_grad=True)
    p = VonMisesFisher(basis(5), kappa)
    values = [p.log_prob(p.loc), p.entropy(), p.mean[:, 0], p.variance[:, 1]]
    values += [kl_divergence(p, VonMisesFisher(basis(5, 1), kappa.detach().flip(0))).clamp(max=1e300)]
    for value in values:
        (gradient,) = torch.autograd.grad(value.sum(), kappa)
        assert torch.isfinite(gradient).all()
