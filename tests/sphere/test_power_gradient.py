"""How samples move with the concentration, against quadrature in mpmath."""

import math

import mpmath
import pytest
import torch

from vmflearn.sphere.power_gradient import angle_slope, moving_angle


def exact_slope(v: float, kappa: float, dim: int) -> float:
    """-(dF/dkappa) / f of v = sin^2(theta/2), over sqrt(v (1 - v)); F the regularised incomplete beta function."""
    with mpmath.workdps(30):
        beta, v = mpmath.mpf(dim - 1) / 2, mpmath.mpf(v)
        alpha, step = beta + mpmath.mpf(kappa), mpmath.mpf(10) ** -12 * (1 + mpmath.mpf(kappa))
        below = [mpmath.betainc(beta, a, 0, v, regularized=True) for a in (alpha + step, alpha - step)]
        density = v ** (beta - 1) * (1 - v) ** (alpha - 1) / mpmath.beta(beta, alpha)
        return float((below[0] - below[1]) / (2 * step) / density / mpmath.sqrt(v * (1 - v)))


@pytest.mark.parametrize("kappa", [1e-3, 0.1, 0.7, 3.0, 60.0, 2000.0])
@pytest.mark.parametrize("dim", [2, 3, 4, 9, 40])
def test_slope_from_the_distribution_function(dim: int, kappa: float) -> None:
    """Where the middle 98 % of samples lie, and in the tails."""
    torch.manual_seed(dim)
    beta = torch.tensor((dim - 1) / 2, dtype=torch.float64)
    v = torch.distributions.Beta(beta, beta + kappa).sample((30,)).sort().values[[0, 5, 15, 25, 29]]
    found = angle_slope(2 * v, torch.full_like(v, kappa), dim)
    assert found.tolist() == pytest.approx([exact_slope(x, kappa, dim) for x in v.tolist()], rel=1e-8)


@pytest.mark.parametrize("kappa", [0.0, 5.0, 1e6, 1e12])
@pytest.mark.parametrize("dim", [3, 1024, 4096])
def test_the_two_tails_agree_where_they_meet(dim: int, kappa: float) -> None:
    """The slope is smooth in the gap; near the crossing the two integrals are of different functions."""
    from vmflearn.sphere.power_normalizer import mode_gain_slope

    k = torch.tensor(kappa, dtype=torch.float64)
    crossing = -torch.expm1(-mode_gain_slope(k, dim))
    one, two = angle_slope(2 * crossing * torch.tensor([1 - 1e-9, 1 + 1e-9]).double(), k.expand(2), dim)
    assert one.item() == pytest.approx(two.item(), rel=1e-8)
    assert one > 0


def test_three_dimensions_in_closed_form() -> None:
    """There beta = 1 and F = 1 - (1 - v)^(kappa + 1), so that dv/dkappa = (1 - v) log(1 - v) / (kappa + 1)."""
    v = torch.linspace(0.01, 0.99, 15, dtype=torch.float64)
    for kappa in (0.0, 1.0, 30.0, 1e4, 1e9):
        v = -torch.expm1(torch.log1p(-torch.linspace(0.01, 0.99, 15, dtype=torch.float64)) / (kappa + 1))
        expected = -(1 - v) * torch.log1p(-v) / (kappa + 1) / torch.sqrt(v * (1 - v))
        found = angle_slope(2 * v, torch.full_like(v, kappa), 3)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


def test_ends() -> None:
    gap = torch.tensor([0.0, 2.0, 0.5], dtype=torch.float64)
    assert angle_slope(gap, torch.tensor([1.0, 1.0, math.inf], dtype=torch.float64), 5).tolist() == [0, 0, 0]
    assert angle_slope(torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.float64), 5).shape == (0,)


def test_the_moving_angle_is_zero_with_a_derivative() -> None:
    kappa = torch.tensor([0.5, 40.0], requires_grad=True)
    gap = torch.tensor([0.4, 0.1], dtype=torch.float64)
    angle = moving_angle(kappa, gap, 6)
    assert angle.tolist() == [0, 0]
    (angle @ torch.tensor([1.0, 2.0]).double()).backward()
    slope = angle_slope(gap, kappa.detach().double(), 6)
    torch.testing.assert_close(kappa.grad, (-slope * torch.tensor([1.0, 2.0])).float())
    _, change = torch.func.jvp(lambda k: moving_angle(k, gap, 6), (kappa.detach(),), (torch.tensor([1.0, 2.0]),))
    torch.testing.assert_close(change, -slope * torch.tensor([1.0, 2.0]))
