import math

import mpmath
import pytest
import torch
from torch.distributions import kl_divergence

from vmflearn.sphere import HypersphericalUniform, VonMisesFisher


def basis(dim: int, index: int = 0) -> torch.Tensor:
    return torch.eye(dim, dtype=torch.float64)[index]


def tilted(dim: int, cosine: float) -> torch.Tensor:
    """The unit vector at this cosine from the first basis vector, in the plane of the first two."""
    return cosine * basis(dim, 0) + math.sqrt(1 - cosine**2) * basis(dim, 1)


def test_kl_divergence_by_sampling() -> None:
    torch.manual_seed(4)
    p = VonMisesFisher(basis(8), torch.tensor([0.0, 5.0, 300.0], dtype=torch.float64))
    for q in (VonMisesFisher(tilted(8, 0.9), 7.0), HypersphericalUniform(8, dtype=torch.float64)):
        x = p.sample((4000,))
        values = p.log_prob(x) - q.log_prob(x)
        error = (values.mean(0) - kl_divergence(p, q)).abs()
        assert (error < 4.5 * values.std(0) / math.sqrt(4000) + 1e-12).all()
    uniform = HypersphericalUniform(8, (4000,), dtype=torch.float64)
    x = uniform.sample()
    values = uniform.log_prob(x) - VonMisesFisher(basis(8), 3.0).log_prob(x)
    error = values.mean() - kl_divergence(uniform, VonMisesFisher(basis(8), 3.0)).mean()
    assert error.abs() < 4.5 * values.std() / math.sqrt(4000)


def test_kl_divergence_of_equals_and_to_uniform() -> None:
    p = VonMisesFisher(basis(8), torch.tensor([0.0, 5.0, 300.0], dtype=torch.float64))
    assert torch.equal(kl_divergence(p, p), torch.zeros(3, dtype=torch.float64))
    uniform = HypersphericalUniform(8, dtype=torch.float64)
    torch.testing.assert_close(kl_divergence(p, uniform), uniform.entropy() - p.entropy())
    torch.testing.assert_close(kl_divergence(p, uniform), kl_divergence(p, VonMisesFisher(basis(8, 3), 0.0)))
    assert torch.equal(kl_divergence(uniform, uniform), torch.zeros((), dtype=torch.float64))
    assert kl_divergence(p, HypersphericalUniform(8, (2, 3))).shape == (2, 3)
    for other in (VonMisesFisher(basis(3), 1.0), HypersphericalUniform(3)):
        with pytest.raises(ValueError, match="dim=8 and dim=3"):
            kl_divergence(p, other)
        with pytest.raises(ValueError, match="dim=3 and dim=8"):
            kl_divergence(other, uniform)


def exact_log_h(kappa: mpmath.mpf, dim: int) -> mpmath.mpf:
    return mpmath.log(mpmath.hyp0f1(mpmath.mpf(dim) / 2, kappa**2 / 4))


def exact_length(kappa: mpmath.mpf, dim: int) -> mpmath.mpf:
    half = mpmath.mpf(dim) / 2
    return kappa / dim * mpmath.hyp0f1(half + 1, kappa**2 / 4) / mpmath.hyp0f1(half, kappa**2 / 4)


@pytest.mark.parametrize("ratio", [1 + 1e-13, 1 + 1e-6, 1.3, 1.99, 2.01, 50.0])
@pytest.mark.parametrize("kappa", [1e-9, 5e-4, 0.01, 3.0, 700.0])
@pytest.mark.parametrize("dim", [2, 5, 64])
def test_kl_divergence_to_rounding_where_its_terms_cancel(dim: int, kappa: float, ratio: float) -> None:
    """log H(q) - log H(p) - (q - p) A(p) with 60 digits, either way round, and to the uniform distribution."""
    other = kappa * ratio
    p, q = VonMisesFisher(basis(dim), kappa), VonMisesFisher(basis(dim), other)
    uniform = HypersphericalUniform(dim, dtype=torch.float64)
    with mpmath.workdps(60):
        k, o = mpmath.mpf(kappa), mpmath.mpf(other)
        h_k, h_o = exact_log_h(k, dim), exact_log_h(o, dim)
        forward = h_o - h_k - (o - k) * exact_length(k, dim)
        backward = h_k - h_o - (k - o) * exact_length(o, dim)
        to_uniform = k * exact_length(k, dim) - h_k
    assert kl_divergence(p, q).item() == pytest.approx(float(forward), rel=2e-14, abs=0)
    assert kl_divergence(q, p).item() == pytest.approx(float(backward), rel=2e-14, abs=0)
    assert kl_divergence(p, uniform).item() == pytest.approx(float(to_uniform), rel=2e-14, abs=0)
    assert kl_divergence(uniform, p).item() == pytest.approx(float(h_k), rel=2e-15, abs=0)


def test_divergence_from_and_to_point_masses() -> None:
    kappa = torch.tensor([1.0, math.inf], dtype=torch.float64)
    p, elsewhere = VonMisesFisher(basis(3), kappa), VonMisesFisher(basis(3, 1), kappa.flip(0))
    uniform = HypersphericalUniform(3, dtype=torch.float64)
    assert kl_divergence(p, elsewhere).tolist() == [math.inf, math.inf]
    assert kl_divergence(p, VonMisesFisher(basis(3), 1.0)).tolist() == [0, math.inf]
    assert kl_divergence(p, p).tolist() == [0, 0]
    assert kl_divergence(VonMisesFisher(basis(3, 1), kappa), p)[1] == math.inf
    assert kl_divergence(p, uniform)[1] == math.inf
    assert kl_divergence(uniform, p)[1] == math.inf


def test_gradients() -> None:
    kappa = torch.tensor([0.2, 3.0, 80.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([0.21, 3.3, 9.0], dtype=torch.float64, requires_grad=True)

    def divergence(k: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        return kl_divergence(VonMisesFisher(basis(5), k), VonMisesFisher(tilted(5, 0.8), o))

    assert torch.autograd.gradcheck(divergence, (kappa, other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    p = VonMisesFisher(basis(16).to(dtype), torch.tensor(40.0, dtype=dtype))
    q = VonMisesFisher(tilted(16, 0.6).to(dtype), torch.tensor(41.0, dtype=dtype))
    exact = kl_divergence(VonMisesFisher(basis(16), 40.0), VonMisesFisher(tilted(16, 0.6), 41.0))
    got = kl_divergence(p, q)
    assert got.dtype == dtype
    assert got.item() == pytest.approx(exact.item(), rel=4 * torch.finfo(dtype).eps, abs=0)
