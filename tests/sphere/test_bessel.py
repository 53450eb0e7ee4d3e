import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch.autograd import gradcheck, gradgradcheck

from vmflearn.sphere import concentration_from_length, log_iv, log_normalizer, mean_resultant_length
from vmflearn.sphere.bessel import (
    log_hypergeometric,
    log_normalizer_at_zero,
    mean_resultant_length_complement,
    mean_resultant_length_derivative,
)

PUBLIC = [
    log_normalizer,
    log_hypergeometric,
    mean_resultant_length,
    mean_resultant_length_complement,
    mean_resultant_length_derivative,
]
DIMENSIONS, CONCENTRATIONS = st.integers(2, 70000), st.floats(1e-150, 1e12)
everywhere = settings(deadline=None, derandomize=True, max_examples=25)


@pytest.mark.parametrize("dim", [2, 3, 16, 256, 4096])
def test_log_normalizer_against_mpmath(dim: int) -> None:
    kappa = torch.tensor([0.0, 1e-3, 1.0, 50.0, 500.0, 1e5], dtype=torch.float64)
    got, expected = log_normalizer(kappa, dim), log_normalizer(kappa, dim, method="mpmath")
    scale = abs(log_normalizer_at_zero(dim)) + log_hypergeometric(kappa, dim)
    assert ((got - expected).abs() <= 2e-15 * scale).all()


@pytest.mark.parametrize("dim", [2, 3, 8, 53, 54, 256])
def test_zero_concentration_is_exact(dim: int) -> None:
    kappa = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = log_normalizer(kappa, dim)
    area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    assert value.item() == pytest.approx(-math.log(area), rel=1e-14, abs=0)
    (first,) = torch.autograd.grad(value, kappa, create_graph=True)
    (second,) = torch.autograd.grad(first, kappa)
    assert first.item() == 0
    assert second.item() == pytest.approx(-1 / dim, rel=1e-15, abs=0)
    assert mean_resultant_length_complement(0.0, dim).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    kappa = torch.tensor([0.0, 3.0, 40.0], dtype=dtype, requires_grad=True)
    value = log_hypergeometric(kappa, 256)
    assert value.dtype == dtype
    assert torch.equal(value, log_hypergeometric(kappa.float(), 256).to(dtype))
    value.sum().backward()
    assert torch.equal(kappa.grad, mean_resultant_length(kappa.detach(), 256))


def test_scalars_lists_and_arrays_become_float64() -> None:
    for kappa in (2, 2.0, np.float32(2), [2.0], np.array([[2.0]])):
        value = log_normalizer(kappa, 8)
        assert value.dtype == torch.float64
        assert value.shape == torch.Size(np.shape(kappa))
        assert value.flatten()[0] == log_normalizer(torch.tensor(2.0, dtype=torch.float64), 8)
    assert log_normalizer(torch.empty(0, 3), 8).shape == (0, 3)


# --- closed forms, bounds, recurrences ---


@pytest.mark.parametrize("kappa", [1e-3, 0.5, 7.0, 25.5, 30.0, 600.0])
def test_closed_forms_of_odd_dimensions(kappa: float) -> None:
    """dim 3: H = sinh k / k, A = coth k - 1/k; dim 5: H = 3 (k cosh k - sinh k) / k^3."""
    with mpmath.workdps(40):
        k = mpmath.mpf(kappa)
        log_h3, length3 = mpmath.log(mpmath.sinh(k) / k), mpmath.coth(k) - 1 / k
        log_h5 = mpmath.log(3 * (k * mpmath.cosh(k) - mpmath.sinh(k)) / k**3)
    assert float(log_hypergeometric(kappa, 3)) == pytest.approx(float(log_h3), rel=2e-15, abs=0)
    assert float(log_hypergeometric(kappa, 5)) == pytest.approx(float(log_h5), rel=2e-15, abs=0)
    assert float(mean_resultant_length(kappa, 3)) == pytest.approx(float(length3), rel=2e-15, abs=0)
    expected = float(-mpmath.log(4 * mpmath.pi) - log_h3)
    assert float(log_normalizer(kappa, 3)) == pytest.approx(expected, rel=2e-15, abs=0)


@pytest.mark.parametrize("kappa", [0.0, 0.4, 12.0, 200.0])
def test_density_integrates_to_one_on_the_circle_and_the_sphere(kappa: float) -> None:
    def density(w: float, dim: int) -> float:
        return math.exp(float(log_normalizer(kappa, dim)) + kappa * w)

    circle = quad(lambda angle: density(math.cos(angle), 2), -math.pi, math.pi, points=[0.0], epsabs=1e-12)[0]
    sphere = quad(lambda w: 2 * math.pi * density(w, 3), -1, 1, epsabs=1e-12)[0]
    assert circle == pytest.approx(1, abs=1e-10)
    assert sphere == pytest.approx(1, abs=1e-10)


@everywhere
@given(dim=DIMENSIONS, kappa=CONCENTRATIONS)
def test_bounds_of_amos(dim: int, kappa: float) -> None:
    """Amos (1974): k / (a + sqrt(k^2 + (a+1)^2)) <= A <= k / (a + sqrt(k^2 + a^2)), a = nu + 1/2, tight far out.

    The last one, with nu and nu + 2, is tight at 0 too.
    """
    nu = dim / 2 - 1
    lower = kappa / (nu + 0.5 + math.hypot(kappa, nu + 1.5))
    length = float(mean_resultant_length(kappa, dim))
    for upper in (kappa / (nu + 0.5 + math.hypot(kappa, nu + 0.5)), kappa / (nu + math.hypot(kappa, nu + 2))):
        assert lower * (1 - 4e-16) <= length <= upper * (1 + 4e-16)
    log_h = float(log_hypergeometric(kappa, dim))
    assert 0 <= log_h <= kappa
    assert 0 < float(mean_resultant_length_derivative(kappa, dim)) <= 1 / dim * (1 + 4e-16)


@everywhere
@given(dim=DIMENSIONS, kappa=CONCENTRATIONS, factor=st.floats(1.0001, 100))
def test_monotonicity(dim: int, kappa: float, factor: float) -> None:
    """A rises with the concentration and falls with the dimension; where A rounds to 1, look at 1 - A."""
    function, sign = (mean_resultant_length, 1) if kappa < dim else (mean_resultant_length_complement, -1)
    here = float(function(kappa, dim))
    assert sign * float(function(factor * kappa, dim)) > sign * here
    assert sign * float(function(kappa, dim + 1)) < sign * here
    assert float(log_normalizer(factor * kappa, dim)) <= float(log_normalizer(kappa, dim))


@everywhere
@given(dim=DIMENSIONS, kappa=CONCENTRATIONS)
def test_three_term_recurrence(dim: int, kappa: float) -> None:
    """DLMF 10.29.1 as 1 / A_p = p / k + A_{p+2}: every term is positive, so no digit is lost."""
    here, above = float(mean_resultant_length(kappa, dim)), float(mean_resultant_length(kappa, dim + 2))
    assert here * (dim + kappa * above) == pytest.approx(kappa, rel=3e-15, abs=0)


@everywhere
@given(dim=DIMENSIONS, kappa=CONCENTRATIONS)
def test_length_and_complement_make_one(dim: int, kappa: float) -> None:
    total = float(mean_resultant_length(kappa, dim)) + float(mean_resultant_length_complement(kappa, dim))
    assert total == pytest.approx(1, abs=4e-16)


# --- infinity ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("dim", [2, 3, 300])
def test_infinite_concentration_is_the_limit(dim: int, dtype: torch.dtype) -> None:
    kappa = torch.tensor([0.0, math.inf, 5.0], dtype=dtype, requires_grad=True)
    for function, limit, slope in zip(PUBLIC, (-math.inf, math.inf, 1, 0, 0), (-1, 1, 0, 0, 0), strict=True):
        value = function(kappa, dim)
        assert value.dtype == dtype
        assert value[1] == limit
        assert torch.equal(value[[0, 2]], function(kappa[[0, 2]], dim))
        (gradient,) = torch.autograd.grad(value[[1]].sum(), kappa)
        assert gradient.tolist() == [0, slope, 0]
    assert log_normalizer(math.inf, 8, "asymptotic") == -math.inf
    assert log_normalizer([math.inf, 1.0], 8, "scipy").tolist()[0] == -math.inf
    assert log_normalizer(math.inf, 8, "mpmath") == -math.inf


@pytest.mark.parametrize("dim", [2, 3, 256, 65536])
def test_concentrations_whose_square_overflows(dim: int) -> None:
    """A sphere is flat from close by: 1 - A tends to (p - 1) / (2 kappa), A' to (p - 1) / (2 kappa^2)."""
    for dtype, values in ((torch.float64, [1e140, 1e151, 1e300]), (torch.float32, [1e17, 1e19, 1e38])):
        kappa = torch.tensor(values, dtype=dtype)
        torch.testing.assert_close(log_hypergeometric(kappa, dim), kappa)
        assert (mean_resultant_length(kappa, dim) == 1).all()
        flat = torch.full_like(kappa, (dim - 1) / 2)
        torch.testing.assert_close(mean_resultant_length_complement(kappa, dim) * kappa, flat)
    slope = mean_resultant_length_derivative(torch.tensor([1e140, 1e151], dtype=torch.float64), dim)
    assert slope.tolist() == pytest.approx([(dim - 1) / 2 * 1e-280, (dim - 1) / 2 * 1e-302], rel=1e-14, abs=0)


# --- the Bessel function of any order ---


@pytest.mark.parametrize("order", [0, 0.3, Fraction(1, 2), 2.75, 12.5, 25.9, 26, 77.125, 300.7, np.float64(1e5)])
def test_log_iv_against_mpmath(order: float) -> None:
    x = [float(np.float32(value)) for value in (1e-10, 0.1, 1.0, 7.0, 24.0, 26.5, 100.0, 3e3)]
    with mpmath.workdps(40):
        nu = mpmath.mpf(order.numerator) / order.denominator if isinstance(order, Fraction) else mpmath.mpf(order)
        log_gamma = mpmath.loggamma(nu + 1)
        log_h = [mpmath.log(mpmath.hyp0f1(nu + 1, mpmath.mpf(k) ** 2 / 4)) for k in x]
        power = [nu * mpmath.log(mpmath.mpf(k) / 2) - log_gamma for k in x]
        expected = np.array([float(a + b) for a, b in zip(power, log_h, strict=True)])
        scale = np.array([float(nu + abs(a) + b) for a, b in zip(power, log_h, strict=True)])
    for dtype, bound in ((torch.float64, 2e-15), (torch.float32, 1e-6)):
        got = log_iv(order, torch.tensor(x, dtype=dtype))
        assert got.dtype == dtype
        assert (np.abs(got.double().numpy() - expected) <= bound * scale).all()


@pytest.mark.parametrize("order", [0, 0.3, 30.5])
def test_log_iv_gradients_and_ends(order: float) -> None:
    x = torch.tensor([0.2, 3.0, 25.0, 27.0, 400.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: log_iv(order, x), (x,))
    assert gradgradcheck(lambda x: log_iv(order, x), (x,))
    assert log_iv(order, [0.0, math.inf]).tolist() == [0.0 if order == 0 else -math.inf, math.inf]
    assert log_iv(order, torch.tensor(2.0, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("order", [-0.5, math.nan, math.inf, 1e13, True, "1", None, 1j])
def test_log_iv_refuses_order(order) -> None:
    with pytest.raises(ValueError, match="order must"):
        log_iv(order, 1.0)
    with pytest.raises(ValueError, match=r"x must not be negative or NaN, got -1\.0"):
        log_iv(1, [-1.0])


# --- the other methods ---


@pytest.mark.parametrize("dim", [3, 64, 256])
def test_asymptotic_is_equation_5_longhand(dim: int) -> None:
    nu, p = dim / 2 - 1, dim
    for kappa in (0.5, 20.0, 500.0):
        r = kappa / nu
        eta = math.sqrt(1 + r * r) + math.log(r / (1 + math.sqrt(1 + r * r)))
        log_bessel = nu * eta - 0.5 * math.log(2 * math.pi * nu) - 0.25 * math.log(1 + r * r)
        log_c = nu * math.log(kappa) - p / 2 * math.log(2 * math.pi)
        assert float(log_normalizer(kappa, dim, "asymptotic")) == pytest.approx(log_c - log_bessel, rel=1e-12, abs=0)
        t = 1 / math.sqrt(1 + r * r)
        u1 = (3 * t - 5 * t**3) / 24
        u2 = (81 * t**2 - 462 * t**4 + 385 * t**6) / 1152
        expected = log_c - log_bessel - math.log(1 + u1 / nu + u2 / nu**2)
        assert float(log_normalizer(kappa, dim, "asymptotic", terms=3)) == pytest.approx(expected, rel=1e-12, abs=0)


def test_asymptotic_converges_with_terms_and_has_a_gradient() -> None:
    kappa = torch.tensor([0.0, 10.0, 200.0], dtype=torch.float64, requires_grad=True)
    exact = log_normalizer(kappa.detach(), 64)
    errors = [float((log_normalizer(kappa.detach(), 64, "asymptotic", m) - exact).abs().max()) for m in (1, 3, 7)]
    assert 1e-3 < errors[0] < 5e-3
    assert errors[1] < 1e-6
    assert errors[2] < 1e-11
    (gradient,) = torch.autograd.grad(log_normalizer(kappa, 64, "asymptotic").sum(), kappa)
    torch.testing.assert_close(gradient, -mean_resultant_length(kappa.detach(), 64), rtol=2e-3, atol=0)


def test_scipy_agrees_and_shows_where_it_underflows() -> None:
    kappa = torch.tensor([0.0, 1.0, 50.0], dtype=torch.float64)
    torch.testing.assert_close(log_normalizer(kappa, 16, "scipy"), log_normalizer(kappa, 16), rtol=1e-13, atol=0)
    assert log_normalizer(torch.tensor(1.0), 4096, "scipy").item() == math.inf
    with pytest.raises(ValueError, match=r"scipy's ive gives NaN at dim=4, kappa=1000000000000.0"):
        log_normalizer(1e12, 4, "scipy")


def test_mpmath_refuses_what_would_take_for_ever() -> None:
    with pytest.raises(ValueError, match=r"dim=65536, kappa=1000000.0"):
        log_normalizer(1e6, 65536, "mpmath")


# --- bad input ---


@pytest.mark.parametrize("kappa", [torch.tensor([1, 2]), torch.tensor([True]), torch.tensor([1j]), "two", None])
def test_concentration_of_a_wrong_kind(kappa) -> None:
    with pytest.raises(ValueError, match="kappa must"):
        log_normalizer(kappa, 8)


@pytest.mark.parametrize("dim", [1, 0, -3, 3.0, 2.5, True, "3", None])
def test_bad_dimension(dim) -> None:
    for function in (log_normalizer, mean_resultant_length, concentration_from_length):
        with pytest.raises(ValueError, match="dim must be"):
            function(0.5, dim)


def test_bad_method_and_terms() -> None:
    with pytest.raises(ValueError, match="method must be one of exact, asymptotic, scipy, mpmath, got 'exakt'"):
        log_normalizer(1.0, 8, method="exakt")
    for terms in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="terms must be an integer of at least 1"):
            log_normalizer(1.0, 8, method="asymptotic", terms=terms)
    with pytest.raises(ValueError, match="dim >= 3"):
        log_normalizer(1.0, 2, method="asymptotic")
    with pytest.raises(ValueError, match="terms=8 is too many at dim=3"):
        log_normalizer(0.1, 3, method="asymptotic", terms=8)


@pytest.mark.parametrize("kappa", [-0.125, math.nan, -math.inf])
@pytest.mark.parametrize("function", PUBLIC)
def test_bad_concentration(function, kappa: float) -> None:
    with pytest.raises(ValueError, match=f"kappa must not be negative or NaN, got {kappa}"):
        function(torch.tensor([1.0, kappa, math.inf]), 8)
