import math

import mpmath
import pytest
import torch
from torch.autograd import gradcheck

from vmflearn.sphere import concentration_from_length, mean_resultant_length
from vmflearn.sphere.bessel import mean_resultant_length_complement, mean_resultant_length_derivative

LENGTHS = ["1e-6", "1e-3", "0.07", "0.3", "0.499999", "0.5", "0.7", "0.9", "0.99", "0.99999", "0.999999999"]


def true_length(kappa: mpmath.mpf, dim: int) -> mpmath.mpf:
    nu = mpmath.mpf(dim) / 2 - 1
    return mpmath.besseli(nu + 1, kappa) / mpmath.besseli(nu, kappa)


@pytest.mark.parametrize("dim", [2, 3, 5, 17, 18, 23, 24, 53, 54, 256])
def test_inverse_against_mpmath(dim: int) -> None:
    """The answer, put into mpmath's Bessel functions, gives the length back, up to A' times the error."""
    for text in LENGTHS:
        with mpmath.workdps(40):
            r = mpmath.mpf(text)
            length, complement = float(r), float(1 - r)
            got = mpmath.mpf(float(concentration_from_length(length, dim, complement)))
            back = true_length(got, dim)
            slope = 1 - back**2 - (dim - 1) * back / got
            # What the function was given: the complement where it is the more exact of the two.
            given = mpmath.mpf(length) if r < 0.5 else 1 - mpmath.mpf(complement)
            assert abs(back - given) <= 2e-13 * got * slope, (dim, text)


@pytest.mark.parametrize("dim", [2, 3, 8, 64, 65536])
def test_many_values_and_few_give_the_same(dim: int) -> None:
    length = torch.linspace(0, 1, 1203, dtype=torch.float64)[:-1].reshape(2, 601)
    many = concentration_from_length(length, dim)
    torch.testing.assert_close(many[1, 580:], concentration_from_length(length[1, 580:], dim), rtol=1e-12, atol=0)
    back = mean_resultant_length(many, dim)
    torch.testing.assert_close(back, length, rtol=1e-14, atol=0)


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
    assert concentration_from_length(1.0, 7, complement=1e-20).item() == pytest.approx(3e20, rel=1e-14, abs=0)
    assert concentration_from_length(1.0, 7, complement=1e-200).item() == pytest.approx(3e200, rel=1e-14, abs=0)
    assert concentration_from_length(1e-200, 7).item() == pytest.approx(7e-200, rel=1e-14, abs=0)
    assert concentration_from_length(torch.empty(0, 2), 7).shape == (0, 2)


def test_inverse_gradient() -> None:
    length = torch.tensor([0.0, 0.1, 0.5, 0.95], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda r: concentration_from_length(r, 8), (length.detach()[1:].requires_grad_(),))
    concentration_from_length(length, 8).sum().backward()
    assert length.grad[0].item() == pytest.approx(8, rel=1e-14, abs=0)
    expected = 1 / mean_resultant_length_derivative(concentration_from_length(length.detach(), 8), 8)
    torch.testing.assert_close(length.grad, expected)
    end = torch.ones((), requires_grad=True)
    concentration_from_length(end, 8).backward()
    assert end.grad == math.inf


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
