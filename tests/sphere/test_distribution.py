import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from vmflearn.sphere import VonMisesFisher
from vmflearn.sphere.bessel import mean_resultant_length_complement, mean_resultant_length_derivative


def basis(dim: int, index: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.eye(dim, dtype=dtype)[index]


def tilted(dim: int, cosine: float) -> torch.Tensor:
    """The unit vector at this cosine from the first basis vector, in the plane of the first two."""
    return cosine * basis(dim, 0) + math.sqrt(1 - cosine**2) * basis(dim, 1)


@pytest.mark.parametrize(
    ("dim", "kappa", "cosine", "expected"),
    [
        (3, 1e-4, 1.0, -2.5309242486359573),
        (3, 1e-4, 0.0, -2.5310242486359575),
        (3, 100.0, 1.0, 2.767293119578746),
        (3, 100.0, 0.0, -97.23270688042125),
        (3, 2000.0, 1.0, 5.763025393132737),
        (3, 2000.0, math.sqrt(0.98), -14.337987284534103),
        (5, 2000.0, 1.0, 11.526550911307156),
        (5, 2000.0, math.sqrt(0.98), -8.574461766359684),
        (5, 2000.0, math.sqrt(0.8), -199.61906708886113),
    ],
)
def test_log_prob_known_answers(dim: int, kappa: float, cosine: float, expected: float) -> None:
    """The reference values of scipy's own tests, from mpmath with 50 digits."""
    got = VonMisesFisher(basis(dim), kappa).log_prob(tilted(dim, cosine))
    assert got.item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("dim", "kappa", "expected"),
    [
        (3, 1e-4, 2.531024245302624),
        (3, 100.0, -1.7672931195787458),
        (5, 5000.0, -11.359032310024453),
        (8, 1.0, 3.4189526482545527),
    ],
)
def test_entropy_known_answers(dim: int, kappa: float, expected: float) -> None:
    assert VonMisesFisher(basis(dim), kappa).entropy().item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("dim", [3, 6, 20])
def test_log_prob_against_scipy(dim: int) -> None:
    rng = np.random.default_rng(dim)
    loc, *x = [v / np.linalg.norm(v) for v in rng.standard_normal((9, dim))]
    x = np.stack(x)
    for kappa in (0.3, 8.0, 120.0):
        expected = stats.vonmises_fisher(loc, kappa).logpdf(x)
        got = VonMisesFisher(torch.from_numpy(loc), kappa).log_prob(torch.from_numpy(x))
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 12.0])
def test_density_integrates_to_one_on_the_circle(kappa: float) -> None:
    angle = torch.arange(200, dtype=torch.float64) * (2 * math.pi / 200)
    x = torch.stack([angle.cos(), angle.sin()], dim=-1)
    density = VonMisesFisher(tilted(2, 0.6), kappa).log_prob(x).exp()
    assert (density.mean() * 2 * math.pi).item() == pytest.approx(1, rel=1e-13)
    mean = (density.unsqueeze(-1) * x).mean(0) * 2 * math.pi
    torch.testing.assert_close(mean, VonMisesFisher(tilted(2, 0.6), kappa).mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 12.0])
def test_density_integrates_to_one_on_the_sphere(kappa: float) -> None:
    """Gauss-Legendre in the height times equal steps in the azimuth; the mean and the variances too."""
    height, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
    azimuth = torch.arange(120, dtype=torch.float64) * (2 * math.pi / 120)
    radius = torch.sqrt(1 - height**2).unsqueeze(-1)
    x = torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), height.unsqueeze(-1).expand(60, 120)], dim=-1)
    vmf = VonMisesFisher(torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64), kappa)
    mass = (vmf.log_prob(x).exp() * weight.unsqueeze(-1) * (2 * math.pi / 120)).unsqueeze(-1)
    assert mass.sum().item() == pytest.approx(1, rel=1e-12)
    mean = (mass * x).sum((0, 1))
    torch.testing.assert_close(mean, vmf.mean, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close((mass * (x - mean) ** 2).sum((0, 1)), vmf.variance, rtol=1e-11, atol=0)


def test_no_cancellation_near_the_mode_in_float32() -> None:
    dim, kappa = 64, 1e6
    x = torch.nn.functional.normalize(basis(dim) + 1e-3 * basis(dim, 1), dim=-1)
    exact = VonMisesFisher(basis(dim), kappa).log_prob(x.float().double() / x.float().double().norm())
    single = VonMisesFisher(basis(dim, dtype=torch.float32), kappa).log_prob(x.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact.item(), rel=5e-7)


def test_gradient_of_log_prob() -> None:
    kappa = torch.tensor([0.0, 0.5, 40.0], dtype=torch.float64, requires_grad=True)
    x = tilted(5, 0.3)
    VonMisesFisher(basis(5), kappa).log_prob(x).sum().backward()
    # d log f / d kappa = mu . x - A
    torch.testing.assert_close(kappa.grad, 0.3 - VonMisesFisher(basis(5), kappa.detach()).mean[:, 0])


# --- samples ---


@pytest.mark.parametrize("kappa", [0.0, 0.1, 10.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 5, 64, 1000])
def test_sample_moments(dim: int, kappa: float) -> None:
    """E[1 - w] = 1 - A and Var w = A', within 4.5 standard errors; seeds are fixed."""
    n = 400 if dim == 1000 else 4000
    torch.manual_seed(100 + dim)
    loc = torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64), dim=-1)
    x = VonMisesFisher(loc, kappa).sample((n,))
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(n, dtype=torch.float64), rtol=1e-14, atol=0)
    y = ((x - loc) ** 2).sum(-1) / 2
    mean = mean_resultant_length_complement(kappa, dim)
    variance = mean_resultant_length_derivative(kappa, dim)
    assert abs((y.mean() - mean) / torch.sqrt(variance / n)) < 4.5
    squares = (y - mean) ** 2
    assert abs((squares.mean() - variance) / (squares.std() / math.sqrt(n))) < 4.5
    # Across the mean direction: no preferred direction, |w_perp|^2 shared equally.
    across = x @ torch.nn.functional.normalize(basis(dim) - loc[0] * loc, dim=-1)
    spread = torch.sqrt((1 - (variance + (1 - mean) ** 2)) / (dim - 1))
    assert abs(across.mean() / (spread / math.sqrt(n))) < 4.5
    assert (across.square().mean() / spread**2).item() == pytest.approx(1, abs=4.5 * math.sqrt(2 / n))


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_sample_heights_follow_the_density(dim: int) -> None:
    """Kolmogorov-Smirnov against the distribution function of w, integrated numerically."""
    torch.manual_seed(dim)
    kappa = 2.5
    w = VonMisesFisher(basis(dim, 1), kappa).sample((3000,))[:, 1].numpy()
    theta = np.linspace(0, np.pi, 20001)
    weight = np.exp(kappa * np.cos(theta)) * np.sin(theta) ** (dim - 2)
    cdf = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    result = stats.kstest(np.arccos(np.clip(w, -1, 1)), lambda t: np.interp(t, theta, cdf / cdf[-1]))
    assert result.pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_samples_at_basis_vectors_and_extreme_concentrations(dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kappa = torch.tensor([0.0, 1e-300, 1e-20, 1.0, 1e8, 1e30, 1e307], dtype=torch.float64)
    for index in (0, dim - 1):
        for sign in (1, -1):
            loc = sign * basis(dim, index, dtype)
            x = VonMisesFisher(loc, kappa).sample((50,))
            assert x.shape == (50, 7, dim)
            assert x.dtype == dtype
            assert torch.isfinite(x).all()
            torch.testing.assert_close(x[:, -1], loc.expand(50, dim))


def test_samples_are_reproducible_and_carry_no_gradient() -> None:
    kappa = torch.tensor(3.0, requires_grad=True)
    vmf = VonMisesFisher(basis(4, dtype=torch.float32), kappa)
    assert not vmf.has_rsample
    torch.manual_seed(1)
    first = vmf.sample((3, 2))
    torch.manual_seed(1)
    assert torch.equal(first, vmf.sample((3, 2)))
    assert not first.requires_grad


# --- shapes, properties, divergence ---


def test_shapes_and_expand() -> None:
    loc = torch.nn.functional.normalize(torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    vmf = VonMisesFisher(loc, torch.tensor([1.0, 2.0, 3.0]))
    assert vmf.batch_shape == (4, 3)
    assert vmf.event_shape == (6,)
    assert vmf.entropy().shape == (4, 3)
    assert vmf.sample((5,)).shape == (5, 4, 3, 6)
    assert vmf.mode.shape == vmf.mean.shape == vmf.variance.shape == (4, 3, 6)
    bigger = vmf.expand((2, 4, 3))
    assert bigger.batch_shape == (2, 4, 3)
    x = bigger.sample()
    assert x.shape == (2, 4, 3, 6)
    assert torch.equal(bigger.log_prob(x)[1], vmf.log_prob(x[1]))
    assert torch.distributions.Independent(bigger, 1).log_prob(x).shape == (2, 4)


def test_entropy_is_minus_the_mean_log_prob() -> None:
    torch.manual_seed(3)
    vmf = VonMisesFisher(basis(16), 20.0)
    values = -vmf.log_prob(vmf.sample((4000,)))
    assert abs(values.mean() - vmf.entropy()) < 4.5 * values.std() / math.sqrt(4000)


def test_entropy_at_zero_is_the_logarithm_of_the_area() -> None:
    assert VonMisesFisher(basis(3), 0.0).entropy().item() == pytest.approx(math.log(4 * math.pi), rel=1e-15)


def test_kl_divergence() -> None:
    torch.manual_seed(4)
    p = VonMisesFisher(basis(8), torch.tensor([0.0, 5.0, 300.0], dtype=torch.float64))
    q = VonMisesFisher(tilted(8, 0.9), torch.tensor(7.0, dtype=torch.float64))
    x = p.sample((4000,))
    values = p.log_prob(x) - q.log_prob(x)
    error = (values.mean(0) - kl_divergence(p, q)).abs()
    assert (error < 4.5 * values.std(0) / math.sqrt(4000)).all()
    assert torch.equal(kl_divergence(p, p), torch.zeros(3, dtype=torch.float64))
    uniform = VonMisesFisher(basis(8, 3), 0.0)
    torch.testing.assert_close(kl_divergence(p, uniform), uniform.entropy() - p.entropy())
    with pytest.raises(ValueError, match="dim=8 and dim=3"):
        kl_divergence(p, VonMisesFisher(basis(3), 1.0))


# --- bad input ---


@pytest.mark.parametrize(
    ("loc", "kappa", "message"),
    [
        ([3.0, 4.0], 1.0, r"loc must be of unit length, got a vector of length 5.0"),
        ([1.0 + 1e-9, 0.0], 1.0, r"loc must be of unit length"),
        ([math.nan, 0.0], 1.0, r"loc must be of unit length, got a vector of length nan"),
        ([1.0], 1.0, r"loc must have shape \(..., dim\) with dim at least 2, got shape \(1,\)"),
        (1.0, 1.0, r"loc must have shape"),
        ([1.0, 0.0], -1.0, r"concentration must be finite and not negative, got -1.0"),
        ([1.0, 0.0], math.nan, r"concentration must be finite and not negative, got nan"),
        ([1.0, 0.0], math.inf, r"concentration must be finite and not negative, got inf"),
        ([[1.0, 0.0]] * 2, [1.0] * 3, r"concentration of shape \(3,\) does not broadcast"),
    ],
)
def test_bad_parameters(loc, kappa, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VonMisesFisher(loc, kappa)


def test_checks_do_not_depend_on_the_global_default() -> None:
    default = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with pytest.raises(ValueError, match="concentration must be"):
            VonMisesFisher(basis(3), -1.0)
    finally:
        torch.distributions.Distribution.set_default_validate_args(default)


def test_rounded_float32_directions_are_accepted() -> None:
    loc = torch.nn.functional.normalize(torch.randn(100, 256, generator=torch.Generator().manual_seed(0)), dim=-1)
    VonMisesFisher(loc, 1.0).log_prob(loc)


def test_bad_values() -> None:
    vmf = VonMisesFisher(basis(3), 1.0)
    with pytest.raises(ValueError, match=r"value must be of unit length, got a vector of length 2.0"):
        vmf.log_prob(2 * basis(3))
    with pytest.raises(ValueError, match=r"value must be a tensor of shape \(..., 3\), got \(4,\)"):
        vmf.log_prob(basis(4))
    unchecked = VonMisesFisher(2 * basis(3), math.nan, validate_args=False)
    assert torch.isnan(unchecked.log_prob(basis(3)))
