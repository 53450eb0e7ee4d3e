import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from vmflearn.sphere import concentration_from_length, log_normalizer, mean_resultant_length
from vmflearn.sphere.bessel import (
    log_hypergeometric,
    log_hypergeometric_kernel,
    log_normalizer_at_zero,
    mean_resultant_length_complement,
    mean_resultant_length_derivative,
)
from vmflearn.sphere.expansion import debye, log_debye, make_plan
from vmflearn.sphere.kernels import excess_kernel

KAPPAS = [1e-8, 1e-3, 0.3, 1.0, 4.9, 5.2, 10.9, 11.1, 25.9, 26.1, 50.0, 500.0, 3e3]
DIMS = [2, 3, 5, 16, 23, 24, 50, 53, 54, 64, 256, 1000]


def truth(kappa: float, dim: int) -> dict[str, float]:
    """log H, kappa - log H, A, 1 - A, A' from mpmath's Bessel functions, with digits to spare for the cancellation."""
    with mpmath.workdps(80):
        k, nu = mpmath.mpf(kappa), mpmath.mpf(dim) / 2 - 1
        i0, i1 = mpmath.besseli(nu, k), mpmath.besseli(nu + 1, k)
        log_h = mpmath.log(i0) + mpmath.loggamma(nu + 1) - nu * mpmath.log(k / 2)
        length = i1 / i0
        slope = 1 - length**2 - (dim - 1) * length / k
        values = {"log_h": log_h, "excess": k - log_h, "length": length, "complement": 1 - length, "slope": slope}
        return {name: float(value) for name, value in values.items()}


QUANTITIES = {
    "log_h": log_hypergeometric,
    "excess": excess_kernel,
    "length": mean_resultant_length,
    "complement": mean_resultant_length_complement,
    "slope": mean_resultant_length_derivative,
}


@pytest.mark.parametrize("dim", DIMS)
def test_every_quantity_is_right_to_rounding(dim: int) -> None:
    bounds = dict.fromkeys(QUANTITIES, (2e-15, 1e-6))
    if dim < 24:  # 1 - A is a difference below the join of the two series
        bounds["complement"] = (3e-14, 5e-6)
    if dim == 2:
        bounds["slope"] = (2e-15, 3e-6)
    for kappa in KAPPAS:
        for dtype, which in ((torch.float64, 0), (torch.float32, 1)):
            k = torch.tensor(kappa, dtype=dtype)
            expected = truth(float(k), dim)
            for name, function in QUANTITIES.items():
                got = function(k, dim)
                assert got.dtype == dtype
                assert float(got) == pytest.approx(expected[name], rel=bounds[name][which], abs=0), (name, kappa, dtype)


@pytest.mark.parametrize("dim", [2, 3, 16, 256, 4096])
def test_log_normalizer_against_mpmath(dim: int) -> None:
    kappa = torch.tensor([0.0, 1e-3, 1.0, 50.0, 500.0, 1e5], dtype=torch.float64)
    got, expected = log_normalizer(kappa, dim), log_normalizer(kappa, dim, method="mpmath")
    scale = abs(log_normalizer_at_zero(dim)) + log_hypergeometric(kappa, dim)
    assert ((got - expected).abs() <= 2e-15 * scale).all()


@pytest.mark.parametrize("kappa", [1e-3, 0.5, 7.0, 30.0, 600.0])
def test_closed_form_on_the_sphere(kappa: float) -> None:
    log_sinh = kappa + math.log1p(-math.exp(-2 * kappa)) - math.log(2)
    assert float(log_normalizer(kappa, 3)) == pytest.approx(math.log(kappa / (4 * math.pi)) - log_sinh, rel=1e-13)
    assert float(mean_resultant_length(kappa, 3)) == pytest.approx(1 / math.tanh(kappa) - 1 / kappa, rel=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 8, 53, 54, 256])
def test_zero_concentration_is_exact(dim: int) -> None:
    kappa = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = log_normalizer(kappa, dim)
    area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    assert value.item() == pytest.approx(-math.log(area), rel=1e-14)
    (first,) = torch.autograd.grad(value, kappa, create_graph=True)
    (second,) = torch.autograd.grad(first, kappa)
    assert first.item() == 0
    assert second.item() == pytest.approx(-1 / dim, rel=1e-15)
    assert mean_resultant_length_complement(0.0, dim).item() == 1


@pytest.mark.parametrize("dim", [2, 3, 5, 64, 1000])
@pytest.mark.parametrize("function", [log_normalizer, mean_resultant_length, mean_resultant_length_complement])
def test_gradients_across_the_join(dim: int, function) -> None:
    join = make_plan(dim, single=False).join
    points = [1e-3, 0.7, 5.0, max(join - 0.1, 10.0), max(join + 0.1, 11.0), 100.0, 1e3]
    kappa = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, (kappa, dim))
    assert gradgradcheck(function, (kappa, dim))


@pytest.mark.parametrize("dim", [2, 16, 300])
def test_derivatives_are_those_of_the_next_quantity(dim: int) -> None:
    kappa = torch.tensor([0.1, 20.0, 1e7], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(log_hypergeometric(kappa, dim).sum(), kappa, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), kappa)
    assert torch.equal(first, mean_resultant_length(kappa, dim))
    assert torch.equal(second, mean_resultant_length_derivative(kappa, dim))
    (excess,) = torch.autograd.grad(excess_kernel(kappa, dim).sum(), kappa)
    assert torch.equal(excess, mean_resultant_length_complement(kappa, dim))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(dim=st.integers(2, 70000), kappa=st.floats(1e-150, 1e12))
def test_bounds_hold_everywhere(dim: int, kappa: float) -> None:
    """Amos (1974): k / (a + sqrt(k^2 + b^2)) <= A <= k / (nu + sqrt(k^2 + (nu + 2)^2)) is tight at both ends."""
    nu = dim / 2 - 1
    lower = kappa / (nu + 0.5 + math.hypot(kappa, nu + 1.5))
    upper = kappa / (nu + math.hypot(kappa, nu + 2))
    length = float(mean_resultant_length(kappa, dim))
    assert lower * (1 - 4e-16) <= length <= upper * (1 + 4e-16)
    log_h = float(log_hypergeometric(kappa, dim))
    assert 0 <= log_h <= kappa
    assert float(mean_resultant_length_derivative(kappa, dim)) > 0


@pytest.mark.parametrize("dim", [2, 3, 256, 65536])
def test_large_concentrations_are_finite(dim: int) -> None:
    kappa = torch.tensor([1e12, 1e100, 1e300], dtype=torch.float64)
    for function in QUANTITIES.values():
        assert torch.isfinite(function(kappa, dim)).all()
    # A sphere is flat from close by: 1 - A tends to (p - 1) / (2 kappa).
    scaled = mean_resultant_length_complement(kappa[1:], dim) * kappa[1:]
    torch.testing.assert_close(scaled, torch.full_like(scaled, (dim - 1) / 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    kappa = torch.tensor([0.0, 3.0, 40.0], dtype=dtype, requires_grad=True)
    value = log_hypergeometric(kappa, 256)
    assert value.dtype == dtype
    assert torch.equal(value, log_hypergeometric(kappa.float(), 256).to(dtype))
    value.sum().backward()
    assert torch.equal(kappa.grad, mean_resultant_length(kappa.detach(), 256))


@pytest.mark.parametrize("dim", [3, 256])
def test_kernel_under_function_transforms(dim: int) -> None:
    kappa = torch.tensor([0.5, 20.0, 40.0, 900.0], dtype=torch.float64)
    second = torch.vmap(torch.func.grad(torch.func.grad(lambda k: log_hypergeometric_kernel(k, dim))))(kappa)
    torch.testing.assert_close(second, mean_resultant_length_derivative(kappa, dim), rtol=1e-15, atol=0)


@pytest.mark.slow
def test_kernel_compiles_to_one_graph() -> None:
    dim = 256
    w = torch.linspace(0.0, 9.0, 4 * dim, dtype=torch.float64).reshape(4, dim).requires_grad_()

    def total(w: torch.Tensor) -> torch.Tensor:
        return log_hypergeometric_kernel(torch.linalg.vector_norm(w, dim=-1), w.shape[-1]).sum()

    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)(w)
    torch.testing.assert_close(compiled, total(w), rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(compiled, w)
    (expected,) = torch.autograd.grad(total(w), w)
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


def test_scalars_lists_and_arrays_become_float64() -> None:
    for kappa in (2, 2.0, np.float32(2), [2.0], np.array([[2.0]])):
        value = log_normalizer(kappa, 8)
        assert value.dtype == torch.float64
        assert value.shape == torch.Size(np.shape(kappa))
        assert value.flatten()[0] == log_normalizer(torch.tensor(2.0, dtype=torch.float64), 8)
    assert log_normalizer(torch.empty(0, 3), 8).shape == (0, 3)


# --- the other methods ---


def test_debye_polynomials_of_the_handbook() -> None:
    """DLMF 10.41.10, as polynomials in t^2 times t^k."""
    assert [float(c) for c in debye(1)] == pytest.approx([3 / 24, -5 / 24])
    assert [float(c) for c in debye(2)] == pytest.approx([81 / 1152, -462 / 1152, 385 / 1152])
    assert [float(c) for c in debye(3)] == pytest.approx([c / 414720 for c in (30375, -369603, 765765, -425425)])
    assert sum(log_debye(5)) * 1260 == -1  # Stirling's series at kappa = 0
    assert float(log_debye(4)[0]) == 13 / 128  # Hankel's at order 0


@pytest.mark.parametrize("dim", [3, 64, 256])
def test_asymptotic_is_equation_5_longhand(dim: int) -> None:
    nu, p = dim / 2 - 1, dim
    for kappa in (0.5, 20.0, 500.0):
        r = kappa / nu
        eta = math.sqrt(1 + r * r) + math.log(r / (1 + math.sqrt(1 + r * r)))
        log_bessel = nu * eta - 0.5 * math.log(2 * math.pi * nu) - 0.25 * math.log(1 + r * r)
        log_c = nu * math.log(kappa) - p / 2 * math.log(2 * math.pi)
        assert float(log_normalizer(kappa, dim, "asymptotic")) == pytest.approx(log_c - log_bessel, rel=1e-12)
        t = 1 / math.sqrt(1 + r * r)
        u1 = (3 * t - 5 * t**3) / 24
        u2 = (81 * t**2 - 462 * t**4 + 385 * t**6) / 1152
        expected = log_c - log_bessel - math.log(1 + u1 / nu + u2 / nu**2)
        assert float(log_normalizer(kappa, dim, "asymptotic", terms=3)) == pytest.approx(expected, rel=1e-12)


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


# --- the inverse ---


@pytest.mark.parametrize("dim", [2, 3, 8, 64, 1000, 65536])
def test_inverse_recovers_the_concentration(dim: int) -> None:
    kappa = torch.logspace(-6, 7, 200, dtype=torch.float64)
    length, complement = mean_resultant_length(kappa, dim), mean_resultant_length_complement(kappa, dim)
    torch.testing.assert_close(concentration_from_length(length, dim, complement), kappa, rtol=5e-14, atol=0)
    single = concentration_from_length(length.float(), dim, complement.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), kappa, rtol=1e-6, atol=0)


def test_inverse_without_complement_and_at_the_ends() -> None:
    kappa = torch.tensor([0.5, 3.0, 60.0], dtype=torch.float64)
    torch.testing.assert_close(concentration_from_length(mean_resultant_length(kappa, 7), 7), kappa, rtol=1e-13, atol=0)
    assert concentration_from_length([0.0, 1.0], 7).tolist() == [0.0, math.inf]
    assert concentration_from_length(1.0, 7, complement=1e-20).item() == pytest.approx(3e20, rel=1e-14)


def test_inverse_gradient() -> None:
    length = torch.tensor([0.0, 0.1, 0.5, 0.95], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda r: concentration_from_length(r, 8), (length.detach()[1:].requires_grad_(),))
    concentration_from_length(length, 8).sum().backward()
    assert length.grad[0].item() == pytest.approx(8, rel=1e-14)


@pytest.mark.parametrize(
    ("length", "complement", "message"),
    [
        (-0.1, None, "length must lie between 0 and 1, got -0.1"),
        (1.5, None, "length must lie between 0 and 1, got 1.5"),
        (math.nan, None, "length must lie between 0 and 1, got nan"),
        (0.5, -0.5, "complement must lie between 0 and 1, got -0.5"),
        (0.5, 0.4, "complement must be 1 - length"),
    ],
)
def test_inverse_refuses(length: float, complement: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        concentration_from_length(length, 8, complement)


# --- bad input ---


@pytest.mark.parametrize("kappa", [-0.125, math.nan, math.inf])
@pytest.mark.parametrize("function", [log_normalizer, log_hypergeometric, mean_resultant_length])
def test_bad_concentration(function, kappa: float) -> None:
    with pytest.raises(ValueError, match=f"kappa must be finite and not negative, got {kappa}"):
        function(torch.tensor([1.0, kappa]), 8)


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
