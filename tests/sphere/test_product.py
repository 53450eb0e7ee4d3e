"""The product of two densities, and its integral."""

import math

import mpmath
import numpy as np
import pytest
import torch

from vmflearn.sphere import VonMisesFisher, normalized_product


def basis(dim: int, index: int = 0) -> torch.Tensor:
    return torch.eye(dim, dtype=torch.float64)[index]


def tilted(dim: int, cosine: float) -> torch.Tensor:
    return cosine * basis(dim, 0) + math.sqrt(1 - cosine**2) * basis(dim, 1)


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (0.0, 3.0), (2.0, 5.0), (12.0, 12.0)])
@pytest.mark.parametrize("cosine", [1.0, 0.3, -1.0])
def test_against_sums_over_the_circle(first: float, second: float, cosine: float) -> None:
    angle = torch.arange(400, dtype=torch.float64) * (2 * math.pi / 400)
    x = torch.stack([angle.cos(), angle.sin()], dim=-1)
    p, q = (
        VonMisesFisher(tilted(2, 0.6), first),
        VonMisesFisher(tilted(2, 0.6 * cosine - 0.8 * math.sqrt(1 - cosine**2)), second),
    )
    values = p.log_prob(x) + q.log_prob(x)
    product, log_integral = normalized_product(p, q)
    expected = torch.logsumexp(values, 0) + math.log(2 * math.pi / 400)
    torch.testing.assert_close(log_integral, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(product.log_prob(x), values - expected, rtol=1e-11, atol=1e-11)


def exact_log_c(kappa: mpmath.mpf, dim: int) -> mpmath.mpf:
    half = mpmath.mpf(dim) / 2
    at_zero = mpmath.loggamma(half) - mpmath.log(2) - half * mpmath.log(mpmath.pi)
    if kappa > 1e5:  # in three dimensions; the series would not end
        assert dim == 3
        return mpmath.log(kappa / (2 * mpmath.pi)) - kappa - mpmath.log1p(-mpmath.exp(-2 * kappa))
    return at_zero - mpmath.log(mpmath.hyp0f1(half, kappa**2 / 4))


@pytest.mark.parametrize("dim", [2, 3, 64, 512])
@pytest.mark.parametrize(("first", "second"), [(1e-6, 1e-7), (0.5, 300.0), (2000.0, 2500.0)])
@pytest.mark.parametrize("cosine", [1.0, 0.9999, 0.0, -0.6])
def test_integral_to_rounding(dim: int, first: float, second: float, cosine: float) -> None:
    """In 60 digits, from the numbers as they are stored."""
    q_loc = tilted(dim, cosine)
    product, log_integral = normalized_product(VonMisesFisher(basis(dim), first), VonMisesFisher(q_loc, second))
    with mpmath.workdps(60):
        one, two = mpmath.mpf(first), mpmath.mpf(second)
        eta = [one + two * mpmath.mpf(q_loc[0].item()), two * mpmath.mpf(q_loc[1].item())]
        kappa = mpmath.sqrt(eta[0] ** 2 + eta[1] ** 2)
        expected = exact_log_c(one, dim) + exact_log_c(two, dim) - exact_log_c(kappa, dim)
    # rounding of the length of loc, 1e-16, weighs by kappa, in the exact sum too
    assert log_integral.item() == pytest.approx(float(expected), rel=2e-15, abs=4e-16 * (first + second) + 1e-15)
    assert product.concentration.item() == pytest.approx(float(kappa), rel=1e-15)


def test_equal_means_at_any_concentration_lose_no_digit() -> None:
    """In three dimensions, in float32 too: log C(k1) + log C(k2) - log C(k1 + k2) = log(k1 k2 / (2 pi (k1 + k2)))."""
    for dtype in (torch.float32, torch.float64):
        one, two = (torch.tensor(k, dtype=dtype) for k in (3e9, 1e10))
        product, log_integral = normalized_product(*(VonMisesFisher(basis(3).to(dtype), k) for k in (one, two)))
        expected = math.log(3e9 * 1e10 / (2 * math.pi * 1.3e10))
        assert log_integral.item() == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps)
        assert product.concentration.item() == pytest.approx(1.3e10, rel=2 * torch.finfo(dtype).eps)


def test_opposite_equals_are_uniform() -> None:
    """C(k)^2 / C(0); the gradient does not break on what has no direction."""
    kappa = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    product, log_integral = normalized_product(VonMisesFisher(basis(3), kappa), VonMisesFisher(-basis(3), kappa))
    assert product.concentration.tolist() == [0, 0]
    torch.testing.assert_close(product.entropy(), torch.full((2,), math.log(4 * math.pi), dtype=torch.float64))
    expected = 2 * math.log(4 / (4 * math.pi * math.sinh(4))) + math.log(4 * math.pi)
    assert log_integral[1].item() == pytest.approx(expected, rel=1e-14)
    log_integral.sum().backward()
    # d/dk of 2 log C(k) is -2 A(k)
    np.testing.assert_allclose(kappa.grad, [0, -2 * (1 / np.tanh(4) - 1 / 4)], rtol=1e-12)


def test_gradients_and_batches() -> None:
    one = torch.tensor([0.5, 40.0], dtype=torch.float64, requires_grad=True)
    two = torch.tensor([[3.0], [7.0], [0.1]], dtype=torch.float64, requires_grad=True)

    def parts(k: torch.Tensor, o: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product, log_integral = normalized_product(VonMisesFisher(basis(5), k), VonMisesFisher(tilted(5, 0.8), o))
        return product.natural, log_integral

    assert parts(one, two)[1].shape == (3, 2)
    assert torch.autograd.gradcheck(parts, (one, two))


def test_half_precision_is_computed_in_float32() -> None:
    one, two = (VonMisesFisher(tilted(8, c).half(), torch.tensor(k).half()) for c, k in ((1.0, 30.0), (0.6, 9.0)))
    product, log_integral = normalized_product(one, two)
    exact = normalized_product(VonMisesFisher(basis(8), 30.0), VonMisesFisher(tilted(8, 0.6), 9.0))
    assert product.dtype == log_integral.dtype == torch.float16
    assert log_integral.item() == pytest.approx(exact[1].item(), rel=1e-3)


def test_bad_factors() -> None:
    with pytest.raises(ValueError, match="dim=3 and dim=4"):
        normalized_product(VonMisesFisher(basis(3), 1.0), VonMisesFisher(basis(4), 1.0))
    with pytest.raises(ValueError, match="natural is not defined for concentration inf"):
        normalized_product(VonMisesFisher(basis(3), 1.0), VonMisesFisher(basis(3), math.inf))
