"""The power-spherical distribution against scipy's beta distribution, mpmath and quadrature."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from vmflearn.sphere import HypersphericalUniform, PowerSpherical, VonMisesFisher


def basis(dim: int, index: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(index), dim).to(dtype)


def tilted(dim: int, cosine: float) -> torch.Tensor:
    return cosine * basis(dim, 0) + math.sqrt(1 - cosine**2) * basis(dim, 1)


def exact_log_prob(kappa: float, dim: int, log_height: mpmath.mpf) -> mpmath.mpf:
    """De Cao and Aziz, Eqs. 6 and 7: (1 + t)^kappa / (2^(a + b) pi^b Gamma(a) / Gamma(a + b))."""
    b = mpmath.mpf(dim - 1) / 2
    a, k = b + mpmath.mpf(kappa), mpmath.mpf(kappa)
    constant = (a + b) * mpmath.log(2) + b * mpmath.log(mpmath.pi) + mpmath.loggamma(a) - mpmath.loggamma(a + b)
    return k * (log_height + mpmath.log(2)) - constant


@pytest.mark.parametrize("dim", [2, 3, 64, 4096])
@pytest.mark.parametrize("kappa", [1e-8, 0.5, 30.0, 1e4, 1e10])
def test_density_at_any_angle_to_rounding(dim: int, kappa: float) -> None:
    """By the angle: (1 + t) / 2 = cos^2(theta / 2). Close to the mode and to the antipode nothing cancels."""
    for small in (1e-7, 1e-3, 1.0):
        for near in (True, False):
            x = math.cos(small) * basis(dim) * (1 if near else -1) + math.sin(small) * basis(dim, 1)
            found = PowerSpherical(basis(dim), kappa).log_prob(x).item()
            with mpmath.workdps(60):
                half = mpmath.mpf(small) / 2
                expected = exact_log_prob(kappa, dim, 2 * mpmath.log(mpmath.cos(half) if near else mpmath.sin(half)))
            # x is rounded by 1e-16, which near the antipode is much of a small angle; parts of the sum may be larger
            blurred = 0.0 if near else 3e-16 * kappa / small
            parts = abs(HypersphericalUniform(dim, dtype=torch.float64).entropy().item())
            assert found == pytest.approx(float(expected), rel=3e-15, abs=1e-15 * parts + 1e-14 + blurred)


def test_float32_keeps_its_digits_at_the_mode() -> None:
    for dim in (2, 16, 1024):
        for kappa in (1e-6, 3.0, 1e5, 1e10):
            found = PowerSpherical(basis(dim, dtype=torch.float32), torch.tensor(kappa)).log_prob(basis(dim).float())
            with mpmath.workdps(60):
                expected = float(exact_log_prob(torch.tensor(kappa).item(), dim, mpmath.mpf(0)))
            at_zero = HypersphericalUniform(dim, dtype=torch.float64).entropy().item()
            assert found.item() == pytest.approx(expected, rel=3e-7, abs=2e-7 * abs(at_zero))


@pytest.mark.parametrize("kappa", [0.0, 0.4, 7.0])
@pytest.mark.parametrize("dim", [2, 3])
def test_density_integrates_to_one_with_the_moments_that_are_said(dim: int, kappa: float) -> None:
    """Equal steps on the circle; Gauss-Legendre in the height times equal steps in the azimuth on the sphere."""
    angle = torch.arange(600, dtype=torch.float64) * (2 * math.pi / 600)
    if dim == 2:
        x, weight = (
            torch.stack([angle.cos(), angle.sin()], dim=-1),
            torch.full((600,), 2 * math.pi / 600, dtype=torch.float64),
        )
    else:
        height, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(80))
        angle, radius = angle[::10], torch.sqrt(1 - height**2)[:, None]
        x = torch.stack([radius * angle.cos(), radius * angle.sin(), height[:, None].expand(80, 60)], -1).reshape(-1, 3)
        weight = (weight[:, None] * (2 * math.pi / 60)).expand(80, 60).reshape(-1)
    loc = tilted(dim, 1.0) if dim == 2 else basis(3, 2)  # an axis of the rule, where (1 + t)^0.4 has its kink
    power = PowerSpherical(loc, kappa)
    density = power.log_prob(x)
    mass = (weight * torch.where(torch.isinf(density), 0.0, density.exp())).unsqueeze(-1)
    tolerance = 2e-4 if kappa == 0.4 else 1e-10
    assert mass.sum().item() == pytest.approx(1, abs=tolerance)
    mean = (mass * x).sum(0)
    torch.testing.assert_close(mean, power.mean, rtol=0, atol=tolerance)
    centred = x - power.mean
    covariance = (mass * centred).T @ centred
    torch.testing.assert_close(covariance, power.covariance_matrix, rtol=0, atol=tolerance)
    torch.testing.assert_close(power.covariance_matrix.diagonal(), power.variance, rtol=0, atol=0)
    entropy = -(mass[:, 0] * torch.where(torch.isinf(density), 0.0, density)).sum()
    assert power.entropy().item() == pytest.approx(entropy.item(), abs=10 * tolerance)


@pytest.mark.parametrize("dim", [2, 3, 7, 200])
@pytest.mark.parametrize("kappa", [0.0, 0.4, 30.0, 1e5])
def test_heights_are_those_of_scipys_beta(dim: int, kappa: float) -> None:
    torch.manual_seed(dim)
    loc = torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64), dim=-1)
    power = PowerSpherical(loc, kappa)
    x = power.sample((1500,))
    below = ((x - loc) ** 2).sum(-1) / 4  # (1 - t) / 2, which is small at large concentration
    expected = stats.beta((dim - 1) / 2, (dim - 1) / 2 + kappa)
    assert stats.kstest(below.numpy(), expected.cdf).pvalue > 1e-3
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(1500, dtype=torch.float64), rtol=0, atol=1e-14)
    t = torch.linspace(-0.9, 0.9, 5, dtype=torch.float64)
    wanted = stats.beta((dim - 1) / 2 + kappa, (dim - 1) / 2).logpdf((1 + t.numpy()) / 2) - math.log(2)
    np.testing.assert_allclose(power.marginal_t.log_prob(t), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 4, 40])
@pytest.mark.parametrize("cosine", [1.0, -1.0, 0.0, 0.6, -0.6])
def test_directions_across_are_uniform(dim: int, cosine: float) -> None:
    """For a mean direction at either end of the axis that is reflected, across it, and in between."""
    torch.manual_seed(dim)
    loc = tilted(dim, cosine)
    x = PowerSpherical(loc, 3.0).sample((3000,))
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(3000, dtype=torch.float64), rtol=0, atol=1e-14)
    others = torch.nn.functional.normalize(x @ torch.linalg.svd(loc[None]).Vh[1:].T, dim=-1)
    # uniform on the sphere of one dimension less: mean 0, covariance I / (p - 1)
    assert (others.mean(0).abs() < 4.5 / math.sqrt(3000 * (dim - 1))).all()
    second = others.T @ others / 3000 - torch.eye(dim - 1) / (dim - 1)
    assert second.abs().max() < 5 * math.sqrt(2 / 3000) / (dim - 1)


def test_float32_samples_keep_digits_where_they_are_small() -> None:
    """At concentration 1e9 the angles are of the order of 1e-4, and the heights one to rounding."""
    torch.manual_seed(0)
    loc = torch.nn.functional.normalize(torch.randn(20, generator=torch.Generator().manual_seed(1)), dim=-1)
    x = PowerSpherical(basis(20, dtype=torch.float32), torch.tensor(1e9)).sample((2000,))
    below = x[:, 1:].double().square().sum(-1) / 4
    assert stats.kstest(below.numpy(), stats.beta(9.5, 1e9).cdf).pvalue > 1e-3
    assert PowerSpherical(loc, 1e12).sample((3,)).sub(loc).abs().max() < 1e-5


@pytest.mark.parametrize("dim", [2, 3, 30])
def test_gradients_of_samples_are_unbiased(dim: int) -> None:
    """Of the mean of <w, x>, which is kappa / (kappa + p - 1) <w, mu>."""
    torch.manual_seed(dim)
    loc, w = tilted(dim, 0.6).requires_grad_(), tilted(dim, -0.28)
    kappa = torch.tensor([0.3, 4.0, 300.0], dtype=torch.float64, requires_grad=True)
    x = PowerSpherical(loc, kappa).rsample((4000,))
    per_sample = torch.autograd.grad((x @ w).sum(), kappa, retain_graph=True)[0] / 4000
    jacobian = torch.autograd.grad((x @ w).mean(0)[1], loc)[0]
    length = (kappa / (kappa + dim - 1)).detach()
    cosine = (loc @ w).item()
    expected = (dim - 1) / (kappa.detach() + dim - 1) ** 2 * cosine
    np.testing.assert_allclose(per_sample, expected, atol=0.12 * float(expected.abs().max()) / 3, rtol=0.12)
    tangent = length[1] * (w - cosine * loc.detach())
    torch.testing.assert_close(jacobian, tangent, rtol=0, atol=0.08)
    assert abs((jacobian @ loc).item()) < 1e-12


@pytest.mark.parametrize("ends", [(1e-9, 1e-7), (0.5, 3.0), (50.0, 4e3), (1e8, 1e9)])
def test_divergences_to_and_from_uniform(ends: tuple[float, float]) -> None:
    """Through the digamma function, in 60 digits."""
    kappa = torch.tensor(ends, dtype=torch.float64)
    for dim in (2, 5, 512):
        power, uniform = PowerSpherical(basis(dim), kappa), HypersphericalUniform(dim, dtype=torch.float64)
        with mpmath.workdps(60):
            b = mpmath.mpf(dim - 1) / 2
            to, back = [], []
            for k in map(mpmath.mpf, ends):
                peak = exact_log_prob(k, dim, mpmath.mpf(0)) - exact_log_prob(0, dim, mpmath.mpf(0))
                to.append(float(peak + k * (mpmath.digamma(b + k) - mpmath.digamma(2 * b + k))))
                back.append(float(-peak - k * (mpmath.digamma(b) - mpmath.digamma(2 * b))))
        assert kl_divergence(power, uniform).tolist() == pytest.approx(to, rel=5e-15, abs=0)
        assert kl_divergence(uniform, power).tolist() == pytest.approx(back, rel=5e-15, abs=0)
        assert kl_divergence(power, HypersphericalUniform(dim, (3, 2))).shape == (3, 2)


def test_divergence_to_von_mises_fisher() -> None:
    """By sampling; to concentration 0 that to uniform; and at large concentrations (p - 1)/2 of what the plane has."""
    torch.manual_seed(0)
    kappa = torch.tensor([0.0, 0.7, 60.0], dtype=torch.float64)
    power = PowerSpherical(basis(6), kappa)
    for other in (VonMisesFisher(tilted(6, 0.9), 0.3), VonMisesFisher(tilted(6, 0.9), 12.0)):
        x = power.sample((4000,))
        values = power.log_prob(x) - other.log_prob(x)
        error = (values.mean(0) - kl_divergence(power, other)).abs()
        assert (error < 4.5 * values.std(0) / math.sqrt(4000) + 1e-12).all()
    uniform = HypersphericalUniform(6, dtype=torch.float64)
    torch.testing.assert_close(kl_divergence(power, VonMisesFisher(basis(6), 0.0)), kl_divergence(power, uniform))
    # far out both are normal, of variances 2/kappa and 1/kappa a coordinate
    far = kl_divergence(PowerSpherical(basis(3), 2e8), VonMisesFisher(basis(3), 3e8)).item()
    assert far == pytest.approx(3 - 1 - math.log(3), rel=1e-6)
    mass = PowerSpherical(basis(3), math.inf)
    assert kl_divergence(mass, VonMisesFisher(basis(3), math.inf)) == 0
    assert kl_divergence(mass, VonMisesFisher(basis(3), 1.0)) == math.inf
    assert kl_divergence(mass, HypersphericalUniform(3)) == math.inf
    with pytest.raises(ValueError, match="dim=3 and dim=4"):
        kl_divergence(mass, VonMisesFisher(basis(4), 1.0))
    with pytest.raises(NotImplementedError):
        kl_divergence(VonMisesFisher(basis(3), 1.0), mass)


def test_the_antipode_and_point_masses() -> None:
    kappa = torch.tensor([0.0, 2.0, math.inf], dtype=torch.float64, requires_grad=True)
    power = PowerSpherical(basis(4), kappa)
    log_prob = power.log_prob(-basis(4))
    assert log_prob[0].item() == pytest.approx(-math.log(2 * math.pi**2), rel=1e-14)
    assert log_prob[1:].tolist() == [-math.inf, -math.inf]
    assert power.log_prob(basis(4))[2] == math.inf
    assert power.entropy()[2] == -math.inf
    assert torch.equal(power.mean[2], basis(4))
    assert not power.covariance_matrix[2].any()
    assert torch.equal(power.sample()[2], basis(4))
    (log_prob[0] + power.mean.sum() + power.entropy()[:2].sum() + power.rsample().sum()).backward()
    assert torch.isfinite(kappa.grad).all()
    with pytest.raises(ValueError, match="marginal_t is not defined for concentration inf"):
        _ = power.marginal_t
    x = (-basis(4)).requires_grad_()
    PowerSpherical(basis(4), 2.0, validate_args=False).log_prob(x).backward()
    assert not torch.isnan(x.grad).any()


def test_gradient_in_the_concentration_at_zero() -> None:
    """log((1 + t) / 2) + psi(2 b) - psi(b)."""
    kappa = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    PowerSpherical(basis(3), kappa).log_prob(tilted(3, 0.6)).backward()
    assert kappa.grad.item() == pytest.approx(math.log(0.8) + 1, rel=1e-14)  # psi(2) - psi(1) = 1


def test_close_to_the_von_mises_fisher_distribution_of_the_same_mean() -> None:
    """The divergence is below a hundredth of a nat, where chapter 2 has it the other way."""
    for dim, kappa in ((3, 10.0), (256, 10.0), (256, 100.0), (256, 1000.0)):
        vmf = VonMisesFisher(basis(dim), kappa)
        length = vmf.mean[0].item()
        power = PowerSpherical(basis(dim), (dim - 1) * length / (1 - length))
        torch.testing.assert_close(power.mean, vmf.mean, rtol=1e-12, atol=1e-15)
        assert 0 < kl_divergence(power, vmf) < 0.01
