import math

import mpmath
import numpy as np
import pytest
import torch

from vmflearn.sphere import VonMisesFisher
from vmflearn.sphere.bessel import (
    mean_resultant_length,
    mean_resultant_length_complement,
    mean_resultant_length_derivative,
)
from vmflearn.sphere.reparameterization import CLOSED_FROM, angle_slope, pathwise


def double(value) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def direction(dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64, generator=generator), dim=-1)


def z_score(draws: torch.Tensor, expected: torch.Tensor | float) -> torch.Tensor:
    return ((draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))).abs()


# --- the angle ---

# (dim, kappa, gap, T): the integral over the tail with the mean from quadrature of the density, mpmath, 30 digits.
REFERENCE = [
    (2, 0.0, 0.5, 0.86602540378443865),
    (2, 3.0, 0.1, 0.087907152608555022),
    (2, 3.0, 1.5, 0.68453807397937086),
    (2, 100000000.0, 1e-08, 7.0710678472208148e-13),
    (3, 0.001, 1.2, 0.48993056922429572),
    (5, 2.0, 0.4, 0.14431185398746084),
    (5, 2.0, 1.7, 0.21106274254250147),
    (16, 20.0, 0.3, 0.017016937927750188),
    (64, 300.0, 0.12, 0.00079672311953553587),
    (64, 300.0, 0.05, 0.00050594881305870288),
    (256, 300.0, 0.5, 0.0014370437622703607),
    (1024, 1000.0, 0.38, 0.00034810389022918045),
    (4096, 1000000.0, 0.0021, 3.2387519501651339e-8),
    (4096, 100000000.0, 1.9e-05, 3.0821901029391763e-11),
    (4096, 0.0, 1.02, 0.00024415139926642222),
]


@pytest.mark.parametrize(("dim", "kappa", "gap", "expected"), REFERENCE)
def test_angle_slope_reference_values(dim: int, kappa: float, gap: float, expected: float) -> None:
    assert angle_slope(double([gap]), double([kappa]), dim).item() == pytest.approx(expected, rel=2e-12, abs=0)


@pytest.mark.parametrize("kappa", [1e-6, 1e-2, CLOSED_FROM, 1.0, 7.0, 300.0, 1e8])
def test_angle_slope_closed_form_in_three_dimensions(kappa: float) -> None:
    """y = -log(1 - u(1 - e^{-2k}))/k at a fixed u gives dy/dk = [2(e^{ky} - 1)/(e^{2k} - 1) - y]/k; 60 digits."""
    scale = min(1.0, 1 / kappa)
    gaps = [fraction * scale for fraction in (1e-6, 0.01, 0.3, 0.999, 1.001, 1.7, 1.999999)]
    if kappa > 10:
        gaps += [5 * scale, 30 * scale]
    got = angle_slope(double(gaps), double(kappa).expand(len(gaps)), 3)
    with mpmath.workdps(60):
        for gap, value in zip(gaps, got.tolist(), strict=True):
            k, y = mpmath.mpf(kappa), mpmath.mpf(gap)
            slope = (y - 2 * mpmath.expm1(k * y) / mpmath.expm1(2 * k)) / k / mpmath.sqrt(y * (2 - y))
            rel = 1e-11 if kappa < CLOSED_FROM else 2e-15
            assert value == pytest.approx(float(slope), rel=rel, abs=0)


def test_angle_slope_is_the_derivative_of_the_quantile() -> None:
    """-(dF/dk)/F' with F, the distribution function of the angle, integrated and differentiated by mpmath."""
    dim, kappa, theta = 5, 2.0, 0.9

    def density(k: mpmath.mpf, t: mpmath.mpf) -> mpmath.mpf:
        return mpmath.exp(k * mpmath.cos(t)) * mpmath.sin(t) ** (dim - 2)

    def distribution(k: mpmath.mpf) -> mpmath.mpf:
        return mpmath.quad(lambda t: density(k, t), [0, theta]) / total(k)

    def total(k: mpmath.mpf) -> mpmath.mpf:
        return mpmath.quad(lambda t: density(k, t), [0, 1, mpmath.pi])

    with mpmath.workdps(25):
        slope = mpmath.diff(distribution, kappa) * total(kappa) / density(kappa, theta)
    gap = 2 * math.sin(theta / 2) ** 2
    assert angle_slope(double([gap]), double([kappa]), dim).item() == pytest.approx(float(slope), rel=1e-12, abs=0)


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 1.0, 40.0, 3e3, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 5, 64, 1024, 4096])
def test_mean_slope_is_the_derivative_of_the_mean(dim: int, kappa: float) -> None:
    """d E[cos] / d kappa = E[T sin] = A', by quadrature over all angles that have weight."""
    centre = 2 * math.asin(math.sqrt(mean_resultant_length_complement(kappa, dim).item() / 2))
    spread = 1 / math.sqrt(max(kappa, (dim - 2) / 2, 1))
    low, high = max(0.0, centre - 14 * spread), min(math.pi, centre + 14 * spread)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(300))
    theta = low + (high - low) * (nodes + 1) / 2
    gap = 2 * torch.sin(theta / 2) ** 2
    log_density = -kappa * gap + (dim - 2) * torch.log(torch.sin(theta))
    density = weights * torch.exp(log_density - log_density.max())
    slope = angle_slope(gap, double(kappa).expand(300), dim)
    assert (slope >= 0).all()
    mean = (density * slope * torch.sin(theta)).sum() / density.sum()
    torch.testing.assert_close(mean, mean_resultant_length_derivative(kappa, dim), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dim", [2, 5, 64, 256, 4096])
def test_narrow_types_take_a_shorter_rule(dim: int) -> None:
    """Right to 3e-7 within five standard deviations of the mean angle; in float64 it is right to rounding there."""
    kappa = double([0.3, 5.0, dim / 2, 20.0 * dim, 1e6])[:, None]
    centre = 2 * torch.asin(torch.sqrt(mean_resultant_length_complement(kappa, dim) / 2))
    spread = 1 / torch.sqrt(torch.clamp(kappa + dim / 2 - 1, min=1))
    gap = 2 * torch.sin((centre + spread * torch.linspace(-5, 5, 101).double()).clamp(0, math.pi) / 2) ** 2
    whole, short = (angle_slope(gap, kappa, dim, dtype) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(short, whole, rtol=3e-7, atol=0)
    assert not torch.equal(short, whole)


def test_angle_slope_at_the_ends() -> None:
    gap = double([0.0, 2.0, 0.5, 1e-300, 1e-301, 0.0])
    kappa = double([3.0, 3.0, math.inf, 1e300, 1.0, math.inf])
    slope = angle_slope(gap, kappa, 2)
    assert torch.equal(slope[[0, 1, 2, 3, 5]], torch.zeros(5, dtype=torch.float64))
    assert 0 < slope[4] < 1e-140
    assert angle_slope(double([]).reshape(0, 2), double([]).reshape(0, 2), 4).shape == (0, 2)


# --- the sample ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [2, 3, 5, 64])
def test_values_are_those_of_sample(dim: int, dtype: torch.dtype) -> None:
    vmf = VonMisesFisher(
        direction(dim).to(dtype).requires_grad_(), torch.tensor([0.0, 2.0, 1e4, math.inf], dtype=dtype)
    )
    torch.manual_seed(5)
    expected = vmf.sample((30,))
    torch.manual_seed(5)
    x = vmf.rsample((30,))
    assert x.requires_grad
    assert torch.equal(x, expected)


def test_gradient_in_loc_is_that_of_a_rotation() -> None:
    """Against finite differences of the rotation that carries loc to a neighbour (Rodrigues' formula)."""
    dim = 6
    mu, a, b = direction(dim, 1), direction(dim, 2), direction(dim, 3)
    torch.manual_seed(0)
    loc = mu.clone().requires_grad_()
    x = VonMisesFisher(loc, 2.0).rsample()
    (torch.exp(a @ x) + b @ x).backward()
    assert abs(loc.grad @ mu) < 1e-15
    for seed in (4, 5):
        step = direction(dim, seed)
        e = torch.nn.functional.normalize(step - (step @ mu) * mu, dim=-1)  # turn by t in the plane of mu and e

        def turned(t: float, e: torch.Tensor = e) -> torch.Tensor:
            along, across = x.detach() @ mu, x.detach() @ e
            rest = x.detach() - along * mu - across * e
            cos, sin = math.cos(t), math.sin(t)
            return rest + along * (cos * mu + sin * e) + across * (cos * e - sin * mu)

        def value(t: float, turned=turned) -> torch.Tensor:
            return torch.exp(a @ turned(t)) + b @ turned(t)

        numeric = (value(1e-5) - value(-1e-5)) / 2e-5
        torch.testing.assert_close(loc.grad @ e, numeric, rtol=1e-8, atol=1e-9)


def test_derivative_of_the_mean_in_five_dimensions() -> None:
    """A'_5(2) = 0.14738868676307348; a derivative through the accepted proposal would give 0.128."""
    torch.manual_seed(7)
    kappa = torch.full((100_000,), 2.0, dtype=torch.float64, requires_grad=True)
    mu = direction(5)
    (VonMisesFisher(mu, kappa).rsample() @ mu).sum().backward()
    assert mean_resultant_length_derivative(2.0, 5).item() == pytest.approx(0.14738868676307348, rel=1e-15, abs=0)
    assert z_score(kappa.grad, 0.14738868676307348) < 4
    assert kappa.grad.mean().item() == pytest.approx(0.14738868676307348, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("dim", "kappa"), [(2, 0.0), (2, 1.5), (2, 1e5), (3, 4.0), (5, 0.0), (64, 30.0), (1024, 900.0)]
)
def test_derivative_of_the_mean(dim: int, kappa: float, dtype: torch.dtype) -> None:
    torch.manual_seed(dim)
    n = 1000 if dim == 1024 else 10_000
    concentration = torch.full((n,), kappa, dtype=dtype, requires_grad=True)
    mu = direction(dim).to(dtype)
    (VonMisesFisher(mu, concentration).rsample() @ mu).sum().backward()
    assert z_score(concentration.grad.double(), mean_resultant_length_derivative(kappa, dim)) < 4.5


def second_moment(kappa: float, dim: int) -> tuple[float, float]:
    """Coefficients of E[x x^T] = across (I - mu mu^T) + along mu mu^T."""
    length = mean_resultant_length(kappa, dim).item()
    return length / kappa, mean_resultant_length_derivative(kappa, dim).item() + length**2


@pytest.mark.parametrize(("dim", "kappa"), [(2, 0.8), (2, 20.0), (3, 2.0), (3, 50.0), (5, 3.0), (64, 100.0)])
def test_gradients_of_linear_and_quadratic_means(dim: int, kappa: float) -> None:
    """E[a.x] = A a.mu and E[(a.x)^2] = across |a|^2 + (along - across)(a.mu)^2, in loc and in the concentration."""
    n = 4000
    torch.manual_seed(10 * dim + 1)
    mu = direction(dim, 1)
    a = torch.nn.functional.normalize(mu + 0.7 * direction(dim, 2), dim=-1) * 1.3
    along_a = (a @ mu).item()
    tangent = a - along_a * mu
    length = mean_resultant_length(kappa, dim).item()
    across, along = second_moment(kappa, dim)

    loc = mu.expand(n, dim).clone().requires_grad_()
    concentration = torch.full((n,), kappa, dtype=torch.float64, requires_grad=True)
    projection = VonMisesFisher(loc, concentration).rsample() @ a
    linear = torch.autograd.grad(projection.sum(), (loc, concentration), retain_graph=True)
    quadratic = torch.autograd.grad((projection**2).sum(), (loc, concentration))

    across_up, along_up = second_moment(kappa + 1e-4, dim)
    across_down, along_down = second_moment(kappa - 1e-4, dim)
    squares = (a @ a).item() - along_a**2
    in_kappa = ((across_up - across_down) * squares + (along_up - along_down) * along_a**2) / 2e-4
    assert z_score(linear[1], mean_resultant_length_derivative(kappa, dim).item() * along_a) < 4.5
    assert z_score(quadratic[1], in_kappa) < 4.5
    # Projected, because across mu is where the gradient lives.
    frame = torch.stack([tangent / tangent.norm(), direction(dim, 3)]).T
    for got, expected in ((linear[0], length * tangent), (quadratic[0], 2 * (along - across) * along_a * tangent)):
        off = frame - mu.unsqueeze(-1) * (mu @ frame)
        assert (z_score(got @ off, expected @ off) < 4.5).all()
        assert (got @ mu).abs().max() < 1e-13


def test_gradient_through_a_normalised_parameter() -> None:
    """Shared parameters collect the gradients of all samples."""
    torch.manual_seed(2)
    raw = torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    log_kappa = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    target = double([0.0, 0.6, 0.8])
    vmf = VonMisesFisher(torch.nn.functional.normalize(raw, dim=-1), log_kappa.exp())
    vmf.rsample((20_000,)).matmul(target).mean().backward()
    mu = torch.nn.functional.normalize(raw.detach(), dim=-1)
    along = (mu @ target).item()
    slope = mean_resultant_length_derivative(math.e, 3).item() * math.e  # d A / d log kappa
    assert log_kappa.grad.item() == pytest.approx(slope * along, abs=0.01)
    assert abs(raw.grad @ raw.detach()) < 1e-12
    length = mean_resultant_length(math.e, 3).item() / raw.detach().norm().item()
    torch.testing.assert_close(raw.grad, length * (target - along * mu), rtol=0, atol=0.01)


def test_point_masses_move_with_loc_alone() -> None:
    dim = 7
    loc = direction(dim).expand(4, dim).clone().requires_grad_()
    kappa = torch.tensor([math.inf, 3.0, 0.0, 1e300], dtype=torch.float64, requires_grad=True)
    a = direction(dim, 1)
    (VonMisesFisher(loc, kappa).rsample() @ a).sum().backward()
    assert torch.isfinite(loc.grad).all()
    assert torch.isfinite(kappa.grad).all()
    assert kappa.grad[0] == 0
    mu = loc[0].detach()
    for row in (0, 3):
        torch.testing.assert_close(loc.grad[row], a - (a @ mu) * mu, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_keep_the_dtypes(dtype: torch.dtype) -> None:
    loc = torch.eye(20, dtype=dtype)[3].requires_grad_()
    kappa = torch.tensor(2.0, dtype=dtype, requires_grad=True)
    VonMisesFisher(loc, kappa).rsample((8,)).sum().backward()
    assert loc.grad.dtype == kappa.grad.dtype == dtype
    assert torch.isfinite(loc.grad).all()
    assert torch.isfinite(kappa.grad)


def test_high_concentration_in_float32_keeps_the_gradient() -> None:
    """From the rounded sample alone, at 1 - w of 1e-7, no digit of the derivative would be left."""
    torch.manual_seed(3)
    kappa = torch.full((4000,), 1e7, requires_grad=True)
    mu = direction(3).float()
    (VonMisesFisher(mu, kappa).rsample() @ mu).sum().backward()
    assert z_score(kappa.grad.double(), 1e-14) < 4.5


def test_a_second_derivative_is_refused() -> None:
    kappa = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = VonMisesFisher(direction(4), kappa).rsample()
    (slope,) = torch.autograd.grad((x**3).sum(), kappa, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.backward()


@pytest.mark.parametrize("dim", [3, 20])
def test_one_mean_has_the_gradient_of_its_copies(dim: int) -> None:
    """Rows of one mean are summed by products with vectors; of a batch, row by row."""
    weights = torch.randn(50, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for copies in (direction(dim), direction(dim).repeat(50, 1)):
        loc, kappa = copies.requires_grad_(), double(7.0).requires_grad_()
        torch.manual_seed(2)
        x = VonMisesFisher(loc, kappa).rsample(() if copies.dim() == 2 else (50,))
        by_loc, by_kappa = torch.autograd.grad((weights * x).pow(2).sum(), (loc, kappa))
        found.append((by_loc.reshape(-1, dim).sum(0), by_kappa))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-13)


def test_samples_may_be_changed_in_place() -> None:
    loc = direction(5).requires_grad_()
    gradients = []
    for scale in (lambda x: x * 3, lambda x: x.mul_(3)):
        torch.manual_seed(0)
        gradients += torch.autograd.grad(scale(VonMisesFisher(loc, 2.0).rsample((4,))).square().sum(), loc)
    assert torch.equal(*gradients)


def test_only_what_is_needed_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    loc = direction(4).requires_grad_()

    def refuse(*_: object) -> None:
        raise AssertionError("no gradient in the concentration was asked for")

    monkeypatch.setattr("vmflearn.sphere.reparameterization.angle_slope", refuse)
    VonMisesFisher(loc, 2.0).rsample().sum().backward()
    assert torch.isfinite(loc.grad).all()
    x = torch.eye(4, dtype=torch.float64)[0]
    assert torch.equal(pathwise(loc, double(1.0), x, x, double(0.0)), x)
