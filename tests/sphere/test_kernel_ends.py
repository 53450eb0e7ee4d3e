"""The unchecked kernels where one of their two regimes is out of its depth, and in half precision."""

import pytest
import torch

from vmflearn.sphere.kernels import (
    complement_kernel,
    excess_kernel,
    length_derivative_kernel,
    length_kernel,
    log_hypergeometric_kernel,
)

KERNELS = [log_hypergeometric_kernel, excess_kernel, length_kernel, complement_kernel, length_derivative_kernel]


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_derivatives_at_zero(dim: int) -> None:
    """A is odd: A(k) = k/p - k^3/(p^2 (p + 2)) + ..."""
    kappa = torch.zeros((), dtype=torch.float64, requires_grad=True)
    found = [length_kernel(kappa, dim)]
    for _ in range(2):
        found += torch.autograd.grad(found[-1], kappa, create_graph=True)
    torch.testing.assert_close(torch.stack(found).detach(), torch.tensor([0, 1 / dim, 0], dtype=torch.float64))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(kernel, dtype: torch.dtype) -> None:
    kappa = torch.tensor([0.0, 0.3, 8.0, 50.0, 300.0], dtype=dtype)
    found = kernel(kappa, 64)
    assert found.dtype == dtype
    assert torch.equal(found, kernel(kappa.float(), 64).to(dtype))
