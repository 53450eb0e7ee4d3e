import pytest
import torch

from vmflearn.sphere.directions import directions


@pytest.mark.parametrize(("dtype", "powers"), [(torch.float32, (-140, 120)), (torch.float64, (-1060, 1000))])
def test_any_length(dtype, powers):
    """Scaled by powers of two, rows have the directions they had; ordinary ones are those of normalize, bit for bit."""
    x = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = torch.nn.functional.normalize(x, dim=-1)
    assert torch.equal(directions(x), expected)
    for power in (*powers, -60, 60):
        scaled = x.double() * 2.0**power
        found = directions(scaled.to(dtype))
        lost = 2e-2 if power == -140 else 1e-4 if power == -1060 else 0  # denormal numbers have fewer digits
        torch.testing.assert_close(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=lost + 1e-16)
        one = torch.ones(20, dtype=dtype)
        torch.testing.assert_close(found.norm(dim=-1), one, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_zero_stays_zero_and_the_gradient_is_that_of_a_direction():
    x = torch.tensor([[0.0, 0.0], [3e-20, 4e-20], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    y = directions(x)
    assert y[0].tolist() == [0, 0]
    y[1:, 0].sum().backward()
    across = torch.tensor([0.64, -0.48], dtype=torch.float64)  # (I - x x^T) e_1
    torch.testing.assert_close(x.grad[1:], across / torch.tensor([[5e-20], [5.0]], dtype=torch.float64))
