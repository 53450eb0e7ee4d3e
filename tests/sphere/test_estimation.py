import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from vmflearn.sphere import VonMisesFisher, estimation
from vmflearn.sphere.bessel import mean_resultant_length, mean_resultant_length_derivative


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def log_likelihood(fitted: VonMisesFisher, x: torch.Tensor, weights: torch.Tensor | float = 1.0) -> torch.Tensor:
    return (weights * fitted.log_prob(x)).sum()


@pytest.mark.parametrize("kappa", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("dim", [2, 3, 6, 64])
def test_recovers_the_parameters(dim: int, kappa: float) -> None:
    """The estimate of kappa has variance 1 / (n A'), that of the direction (p - 1) / (n kappa A)."""
    torch.manual_seed(dim)
    n = 4000
    mu = unit(dim)
    fitted = VonMisesFisher.fit(VonMisesFisher(mu, kappa).sample((n,)))
    slope, length = mean_resultant_length_derivative(kappa, dim), mean_resultant_length(kappa, dim)
    # E|mean|^2 = A^2 + (1 - A^2)/n makes the length, and so kappa, a little too large.
    bias = (1 - length**2) / (2 * n * length) / slope
    assert abs(fitted.concentration - kappa) < 4.5 / torch.sqrt(n * slope) + bias
    assert (fitted.loc - mu).norm() < 4.5 * torch.sqrt((dim - 1) / (n * kappa * length))


def test_recovers_the_concentration_in_1024_dimensions() -> None:
    """Where scipy's fit returns 1e-8, because its Bessel function underflows."""
    torch.manual_seed(0)
    x = VonMisesFisher(unit(1024), 1000.0).sample((1500,))
    assert VonMisesFisher.fit(x).concentration.item() == pytest.approx(1000, rel=0.01, abs=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, scipys = stats.vonmises_fisher.fit(x.numpy())
    assert not abs(scipys - 1000) < 500


def test_agrees_with_scipy_where_that_is_right() -> None:
    torch.manual_seed(1)
    x = VonMisesFisher(unit(5), 20.0).sample((300,))
    mu, kappa = stats.vonmises_fisher.fit(x.numpy())
    fitted = VonMisesFisher.fit(x.numpy())
    np.testing.assert_allclose(fitted.loc.numpy(), mu, rtol=1e-12)
    assert fitted.concentration.item() == pytest.approx(kappa, rel=1e-7, abs=0)


def test_no_neighbour_is_more_likely() -> None:
    x = torch.nn.functional.normalize(unit(40, 4) + unit(4, seed=1), dim=-1)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fitted = VonMisesFisher.fit(x, weights)
    best = log_likelihood(fitted, x, weights)
    for factor in (0.99, 1.01):
        assert log_likelihood(VonMisesFisher(fitted.loc, fitted.concentration * factor), x, weights) < best
    for seed in range(4):
        loc = torch.nn.functional.normalize(fitted.loc + 0.02 * unit(4, seed=seed), dim=-1)
        assert log_likelihood(VonMisesFisher(loc, fitted.concentration), x, weights) < best


@pytest.mark.parametrize("kappa", [1e7, 1e12, 1e20])
def test_high_concentrations_do_not_cancel(kappa: float) -> None:
    """1 - R is 1e-12 and less: a difference from 1 would leave a few digits or none."""
    torch.manual_seed(0)
    n, dim = 2000, 3
    x = VonMisesFisher(torch.eye(dim, dtype=torch.float64)[0], kappa).sample((n,))
    fitted = VonMisesFisher.fit(x).concentration.item()
    assert fitted == pytest.approx(kappa, rel=4.5 / math.sqrt(n), abs=0)
    # kappa (1 - R) -> (p - 1)/2; 1 - R from the coordinates across the axis alone
    spread = (x[:, 1:] - x[:, 1:].mean(0)).square().sum(-1).mean().item() / 2
    assert fitted == pytest.approx((dim - 1) / 2 / spread, rel=1e-5, abs=0)


@pytest.mark.parametrize("angle", [0.25, 0.2, 0.15, 0.12, 1e-2, 1e-4])
def test_two_rows_at_an_angle_in_closed_form(angle: float) -> None:
    """In three dimensions coth(k) - 1/k = cos(angle), and coth(k) is 1: k = 1 / 2 sin^2(angle / 2)."""
    rows = [[math.cos(angle), sign * math.sin(angle), 0.0] for sign in (1, -1)]
    kappa = VonMisesFisher.fit(rows).concentration.item()
    assert kappa == pytest.approx(0.5 / math.sin(angle / 2) ** 2, rel=2e-15, abs=0)


def test_weights_are_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    x = unit(50, 6)
    counts = torch.arange(50) % 4
    weights = counts.double()
    repeated = VonMisesFisher.fit(x.repeat_interleave(counts, dim=0))
    for scale in (1.0, 1e-3, 1e-305, 2.0**-1070, 1e307):  # three of these have a sum out of range
        weighted = VonMisesFisher.fit(x, weights * scale)
        torch.testing.assert_close(weighted.loc, repeated.loc, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(weighted.concentration, repeated.concentration, rtol=1e-12, atol=0)
    monkeypatch.setattr(estimation, "ROWS", 7)
    in_blocks = VonMisesFisher.fit(x, weights)
    torch.testing.assert_close(in_blocks.loc, repeated.loc, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(in_blocks.concentration, repeated.concentration, rtol=1e-12, atol=0)


def test_batches_are_fitted_one_by_one() -> None:
    x = unit(2, 3, 20, 5)
    weights = torch.rand(3, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fitted = VonMisesFisher.fit(x, weights)
    assert fitted.batch_shape == (2, 3)
    one = VonMisesFisher.fit(x[1, 2], weights[2])
    torch.testing.assert_close(fitted.loc[1, 2], one.loc)
    torch.testing.assert_close(fitted.concentration[1, 2], one.concentration)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.float32, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_dtypes(dtype: torch.dtype, result: torch.dtype) -> None:
    x = torch.nn.functional.normalize(unit(200, 8) + unit(8, seed=1), dim=-1)
    fitted = VonMisesFisher.fit(x.to(dtype).requires_grad_())
    assert fitted.loc.dtype == fitted.concentration.dtype == result
    assert not fitted.concentration.requires_grad
    assert fitted.concentration.item() == pytest.approx(VonMisesFisher.fit(x).concentration.item(), rel=1e-3, abs=0)


def test_rows_that_cancel_have_no_direction() -> None:
    x = unit(9, 5)
    for rows in (
        torch.cat([x, -x]),
        torch.cat([x, -x]).float(),
        torch.eye(2).repeat(2, 1) * torch.tensor([[1.0]] * 2 + [[-1.0]] * 2),
    ):
        fitted = VonMisesFisher.fit(rows)
        assert fitted.concentration == 0
        assert torch.equal(fitted.loc, torch.eye(rows.shape[-1], dtype=rows.dtype)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3, 100])
def test_equal_rows_are_a_point_mass(dim: int, dtype: torch.dtype) -> None:
    row = unit(dim).to(dtype)
    for n in (1, 2, 7, 1000):
        fitted = VonMisesFisher.fit(row.expand(n, dim))
        assert fitted.concentration == math.inf
        torch.testing.assert_close(fitted.loc, row)
    others = torch.cat([row.expand(3, dim), unit(4, dim, seed=1).to(dtype)])
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    assert VonMisesFisher.fit(others, weights).concentration == math.inf


@pytest.mark.parametrize(
    ("data", "weights", "message"),
    [
        ([1.0, 0.0], None, r"X must have shape \(..., n, dim\), n at least 1, dim at least 2, got \(2,\)"),
        (np.empty((0, 3)), None, r"X must have shape .* got \(0, 3\)"),
        ([[1.0], [1.0]], None, r"X must have shape .* got \(2, 1\)"),
        ([[1.0, 0.0], [2.0, 0.0]], None, r"X must be of unit length, got a vector of length 2.0 at index \(1,\)"),
        ([[[1.0, 0.0]], [[math.nan, 0.0]]], None, r"X must be of unit length, .* length nan at index \(1, 0\)"),
        (torch.ones(2, 2, dtype=torch.int64), None, r"X must have a floating-point dtype, got torch.int64"),
        ([[1.0, 0.0]] * 2, [1.0, -1.0], r"weights must be finite and not negative, got -1.0"),
        ([[1.0, 0.0]] * 2, [1.0, math.nan], r"weights must be finite and not negative, got nan"),
        ([[1.0, 0.0]] * 2, [0.0, 0.0], r"weights must not all be zero"),
        ([[1.0, 0.0]] * 2, [1.0] * 3, r"weights must have one element for each row of X, shape \(2,\), got \(3,\)"),
        ([[1.0, 0.0]] * 2, torch.ones(2, device="meta"), r"weights are on meta and X is on cpu"),
    ],
)
def test_bad_input(data, weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VonMisesFisher.fit(data, weights)
