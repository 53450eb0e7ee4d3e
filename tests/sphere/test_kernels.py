import math
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from vmflearn.sphere import kernels
from vmflearn.sphere.expansion import debye, economized, log_debye, make_plan
from vmflearn.sphere.kernels import (
    complement_kernel,
    evaluate,
    excess_kernel,
    length_derivative_kernel,
    length_kernel,
    log_hypergeometric_kernel,
)

QUANTITIES = ("log_h", "excess", "length", "complement", "slope")
KAPPAS = [1e-8, 1e-3, 0.3, 1.0, 4.9, 5.2, 8.9, 10.9, 11.1, 17.5, 23.4, 25.9, 26.1, 50.0, 500.0, 3e3]
KAPPAS = [float(np.float32(kappa)) for kappa in KAPPAS]  # the same points in both precisions
DIMS = [2, 3, 4, 16, 23, 24, 50, 53, 54, 64, 256, 1000]


@cache
def truth(kappa: float, dim: int) -> tuple[float, ...]:
    """The five quantities from mpmath's Bessel functions, with digits to spare for the cancellation."""
    with mpmath.workdps(60):
        k, nu = mpmath.mpf(kappa), mpmath.mpf(dim) / 2 - 1
        i0, i1 = mpmath.besseli(nu, k), mpmath.besseli(nu + 1, k)
        log_h = mpmath.log(i0) + mpmath.loggamma(nu + 1) - nu * mpmath.log(k / 2)
        length = i1 / i0
        slope = 1 - length**2 - (dim - 1) * length / k
        return tuple(float(value) for value in (log_h, k - log_h, length, 1 - length, slope))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", DIMS)
def test_every_quantity_is_right_to_rounding(dim: int, dtype: torch.dtype) -> None:
    bound = 2e-15 if dtype == torch.float64 else 1e-6
    kappa = torch.tensor(KAPPAS, dtype=dtype)
    expected = torch.tensor([truth(k, dim) for k in KAPPAS], dtype=torch.float64).T
    # Few elements and many take different ways through the polynomials.
    many = torch.cat([kappa, kappa.new_ones(kernels.FEW)])
    for results in (evaluate(kappa, dim, *QUANTITIES), evaluate(many, dim, *QUANTITIES)):
        for name, result, values in zip(QUANTITIES, results, expected, strict=True):
            assert result.dtype == dtype
            error = (result[: len(kappa)].double() - values).abs() / values
            assert error.max() <= bound, (name, KAPPAS[int(error.argmax())], float(error.max()))


# Largest errors, in eps, of the power series (s below the join) and of the expansion just above, with a third to spare.
REACHED = {
    (torch.float64, "below"): {"log_h": 2.0, "excess": 4.0, "length": 3.0, "complement": 5.5, "slope": 6.0},
    (torch.float64, "above"): {"log_h": 2.6, "excess": 1.6, "length": 2.0, "complement": 2.0, "slope": 2.7},
    (torch.float32, "below"): {"log_h": 2.2, "excess": 2.2, "length": 2.9, "complement": 3.0, "slope": 5.0},
    (torch.float32, "above"): {"log_h": 2.6, "excess": 1.6, "length": 1.9, "complement": 2.0, "slope": 3.6},
}


@pytest.mark.parametrize(("dtype", "join"), [(torch.float64, 26), (torch.float32, 11)])
@pytest.mark.parametrize("side", ["below", "above"])
def test_each_regime_is_used_where_it_is_the_better_one(dtype: torch.dtype, join: int, side: str) -> None:
    """Beyond the join the series loses what its terms, all positive, add up to: a join moved to 40 or 20 shows here."""
    steps = np.linspace(0.3, 1.0, 9)[:-1] if side == "below" else np.linspace(1.0, 1.6, 9)[1:]
    worst = dict.fromkeys(QUANTITIES, 0.0)
    for dim in (2, 3, 5, 7, 13, 21):
        squares = (join * steps) ** 2 - (dim / 2 - 1) ** 2
        kappas = [float(np.float32(k**0.5)) for k in squares if k > 0.01]
        expected = torch.tensor([truth(k, dim) for k in kappas], dtype=torch.float64).T
        results = evaluate(torch.tensor(kappas, dtype=dtype), dim, *QUANTITIES)
        for name, result, values in zip(QUANTITIES, results, expected, strict=True):
            error = ((result.double() - values).abs() / values).max().item() / torch.finfo(dtype).eps
            worst[name] = max(worst[name], error)
    assert all(worst[name] <= bound for name, bound in REACHED[dtype, side].items()), worst


@pytest.mark.parametrize("dim", [*range(2, 10), 13, 21, 37, *range(44, 54)])
def test_either_side_of_the_join(dim: int) -> None:
    """Where each regime is at its worst, in every dimension whose power series is cut differently."""
    join = make_plan(dim, single=False).join
    kappa = torch.tensor([join * (1 - 1e-12), join * (1 + 1e-12)], dtype=torch.float64)
    expected = torch.tensor([truth(k, dim) for k in kappa.tolist()], dtype=torch.float64).T
    for name, result, values in zip(QUANTITIES, evaluate(kappa, dim, *QUANTITIES), expected, strict=True):
        assert ((result - values).abs() / values).max() <= 2e-15, name


@pytest.mark.parametrize(("dim", "kappa"), [(2, 4.0), (3, 30.0), (7, 0.5), (40, 60.0)])
def test_slope_against_numerical_differentiation(dim: int, kappa: float) -> None:
    def length(k: mpmath.mpf) -> mpmath.mpf:
        return mpmath.besseli(mpmath.mpf(dim) / 2, k) / mpmath.besseli(mpmath.mpf(dim) / 2 - 1, k)

    with mpmath.workdps(50):
        expected = float(mpmath.diff(length, kappa))
    assert float(length_derivative_kernel(torch.tensor(kappa, dtype=torch.float64), dim)) == pytest.approx(
        expected, rel=2e-15
    )


@pytest.mark.parametrize("dim", [2, 5, 30, 256])
def test_quantities_evaluated_together_are_those_evaluated_alone(dim: int) -> None:
    for kappa in (torch.tensor([0.0, 3.0, 400.0]), torch.linspace(0, 900, 700)):
        together = evaluate(kappa, dim, *QUANTITIES)
        for name, value in zip(QUANTITIES, together, strict=True):
            torch.testing.assert_close(evaluate(kappa, dim, name)[0], value, rtol=3e-7, atol=0)


@pytest.mark.parametrize("dim", [5, 256])
def test_large_tensors_are_evaluated_in_pieces(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kappa = torch.linspace(0, 900, 40 * 50, dtype=torch.float64).reshape(40, 50).T
    whole = evaluate(kappa, dim, *QUANTITIES)
    monkeypatch.setattr(kernels, "CHUNK", 601)
    calls = []
    join = kernels._join
    monkeypatch.setattr(kernels, "_join", lambda part, *rest: calls.append(part.numel()) or join(part, *rest))
    pieces = evaluate(kappa, dim, *QUANTITIES)
    assert len(calls) > 1 or torch.get_num_threads() > 3
    assert sum(calls) == kappa.numel()
    for a, b in zip(whole, pieces, strict=True):
        assert b.shape == kappa.shape
        torch.testing.assert_close(a, b, rtol=2e-15, atol=0)


# --- derivatives ---


@pytest.mark.parametrize("dim", [2, 3, 5, 64, 1000])
@pytest.mark.parametrize("kernel", [log_hypergeometric_kernel, excess_kernel, length_kernel, complement_kernel])
def test_gradients_across_the_join(dim: int, kernel) -> None:
    join = make_plan(dim, single=False).join
    points = [1e-3, 0.7, 5.0, max(join - 0.1, 10.0), max(join + 0.1, 11.0), 100.0, 1e3]
    kappa = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    assert gradcheck(kernel, (kappa, dim))
    assert gradgradcheck(kernel, (kappa, dim))


@pytest.mark.parametrize("count", [3, 600])
@pytest.mark.parametrize("dim", [2, 16, 300])
def test_derivatives_are_those_of_the_next_quantity(dim: int, count: int) -> None:
    kappa = torch.logspace(-1, 7, count, dtype=torch.float64).requires_grad_()
    _, _, length, complement, slope = evaluate(kappa.detach(), dim, *QUANTITIES)
    exactly = {"rtol": 1e-15, "atol": 0}
    value = log_hypergeometric_kernel(kappa, dim)
    (stored,) = torch.autograd.grad(value.sum(), kappa, retain_graph=True)
    (first,) = torch.autograd.grad(value.sum(), kappa, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), kappa)
    for got in (stored, first):
        torch.testing.assert_close(got, length, **exactly)
    torch.testing.assert_close(second, slope, **exactly)
    (excess,) = torch.autograd.grad(excess_kernel(kappa, dim).sum(), kappa)
    torch.testing.assert_close(excess, complement, **exactly)
    (minus_slope,) = torch.autograd.grad(complement_kernel(kappa, dim).sum(), kappa)
    torch.testing.assert_close(minus_slope, -slope, **exactly)


@pytest.mark.parametrize("dim", [3, 256])
@pytest.mark.filterwarnings("error")
def test_kernel_under_function_transforms(dim: int) -> None:
    kappa = torch.tensor([0.5, 20.0, 40.0, 900.0], dtype=torch.float64)
    one = lambda k: log_hypergeometric_kernel(k, dim)  # noqa: E731
    length, slope = evaluate(kappa, dim, "length", "slope")
    exactly = {"rtol": 1e-15, "atol": 0}
    torch.testing.assert_close(torch.vmap(one)(kappa), one(kappa), **exactly)
    torch.testing.assert_close(torch.vmap(torch.func.grad(one))(kappa), length, **exactly)
    torch.testing.assert_close(torch.func.grad(lambda k: torch.vmap(one)(k).sum())(kappa), length, **exactly)
    torch.testing.assert_close(torch.vmap(torch.func.grad(torch.func.grad(one)))(kappa), slope, **exactly)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(one))(kappa[2]), slope[2], **exactly)
    many = torch.linspace(0.1, 900.0, 3 * kernels.FEW, dtype=torch.float64).reshape(2, -1)
    torch.testing.assert_close(torch.vmap(one)(many), one(many), **exactly)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [4, 256])
def test_kernel_compiles_to_one_graph(dim: int) -> None:
    w = torch.linspace(0.0, 9.0, 4 * dim, dtype=torch.float64).reshape(4, dim).requires_grad_()

    def total(w: torch.Tensor) -> torch.Tensor:
        return log_hypergeometric_kernel(torch.linalg.vector_norm(w, dim=-1), w.shape[-1]).sum()

    compiled = torch.compile(total, backend="aot_eager", fullgraph=True, dynamic=False)(w)
    torch.testing.assert_close(compiled, total(w), rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(compiled, w)
    (expected,) = torch.autograd.grad(total(w), w)
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dim", [2, 3, 64])
def test_third_derivative_at_zero(dim: int) -> None:
    """A is odd, so that A'' is 0; the expansion, which is not used there, must not divide by zero."""
    kappa = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (third,) = torch.autograd.grad(length_derivative_kernel(kappa, dim).sum(), kappa)
    assert third.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_third_derivatives_in_three_dimensions(dtype: torch.dtype) -> None:
    """A'' = 2 cosh/sinh^3 - 2/k^3, far beyond the join too, where the series that is not used must not overflow."""
    points = [float(np.float32(k)) for k in (0.4, 3.0, 10.0, 12.0, 25.0, 27.0, 80.0, 1e4, 1e6, 1e9)]
    kappa = torch.tensor([0.0, *points], dtype=dtype, requires_grad=True)
    with mpmath.workdps(60):
        exact = [float(2 * mpmath.cosh(k) / mpmath.sinh(k) ** 3 - 2 / mpmath.mpf(k) ** 3) for k in points]
    slope = length_derivative_kernel(kappa, 3)
    (third,) = torch.autograd.grad(slope.sum(), kappa)
    assert third[0] == 0
    assert third[1:].tolist() == pytest.approx(exact, rel=1e3 * torch.finfo(dtype).eps, abs=0)
    value = log_hypergeometric_kernel(kappa, 3)
    (first,) = torch.autograd.grad(value.sum(), kappa, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), kappa, create_graph=True)
    (again,) = torch.autograd.grad(second.sum(), kappa)
    assert torch.equal(again, third)


# --- dtypes, layouts, devices ---


@pytest.mark.parametrize("dim", [3, 256])
def test_single_precision_never_touches_double(dim: int) -> None:
    """Some devices have no float64."""

    class OnlySingle(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for value in torch.utils._pytree.tree_leaves((args, result)):
                assert not isinstance(value, torch.Tensor) or value.dtype != torch.float64, func
            return result

    for count in (5, 2 * kernels.FEW):
        kappa = torch.linspace(0, 900, count, dtype=torch.float32).requires_grad_()
        with OnlySingle():
            for kernel in (log_hypergeometric_kernel, excess_kernel, length_kernel, complement_kernel):
                value = kernel(kappa, dim)
                (first,) = torch.autograd.grad(value.sum(), kappa, create_graph=True)
                torch.autograd.grad(first.sum(), kappa)
    with pytest.raises(AssertionError), OnlySingle():
        kappa.double() + 1


def test_shapes_and_layouts() -> None:
    kappa = torch.linspace(0, 90, 24, dtype=torch.float64).reshape(4, 6)
    expected = log_hypergeometric_kernel(kappa, 7)
    assert torch.equal(log_hypergeometric_kernel(kappa.T, 7), expected.T)
    assert torch.equal(log_hypergeometric_kernel(kappa[:, ::2], 7), expected[:, ::2])
    assert torch.equal(log_hypergeometric_kernel(kappa[2, 3], 7), expected[2, 3])
    assert torch.equal(log_hypergeometric_kernel(kappa[:1, :1].expand(3, 5), 7), expected[:1, :1].expand(3, 5))
    assert log_hypergeometric_kernel(torch.empty(0, 3), 7).shape == (0, 3)
    with torch.inference_mode():
        assert torch.equal(log_hypergeometric_kernel(kappa, 7), expected)


# --- coefficients ---


def test_debye_polynomials_of_the_handbook() -> None:
    """DLMF 10.41.10, as polynomials in t^2 times t^k."""
    assert [float(c) for c in debye(1)] == pytest.approx([3 / 24, -5 / 24])
    assert [float(c) for c in debye(2)] == pytest.approx([81 / 1152, -462 / 1152, 385 / 1152])
    assert [float(c) for c in debye(3)] == pytest.approx([c / 414720 for c in (30375, -369603, 765765, -425425)])
    assert sum(log_debye(5)) * 1260 == -1  # Stirling's series at kappa = 0
    assert float(log_debye(4)[0]) == 13 / 128  # Hankel's at order 0


def test_economized_polynomials_keep_their_promise() -> None:
    coefficients = tuple(Fraction(1, math.factorial(n)) for n in range(16))
    u = np.linspace(0, 1, 101)
    lengths = []
    for tolerance in (1e-2, 1e-6, 1e-10):
        lower = [float(c) for c in economized(coefficients, tolerance)]
        assert np.abs(np.polynomial.polynomial.polyval(u, lower) - np.exp(u)).max() <= tolerance
        lengths.append(len(lower))
    assert lengths == [3, 7, 9]  # the Taylor polynomials of that accuracy have 5, 10 and 14 terms
