import math

import numpy as np
import pytest
import torch

from vmflearn.ssl.koleo import koleo_loss


def rows(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("block_size", [1, 7, 20, 1024])
def test_equals_the_definition(block_size):
    x = rows(20, 5)
    u = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    distances = np.linalg.norm(u[:, None] - u[None], axis=-1) + np.diag(np.full(20, np.inf))
    expected = -np.log(distances.min(axis=1)).mean()
    assert koleo_loss(x, block_size=block_size).item() == pytest.approx(expected, rel=1e-12)


def test_the_corners_of_a_square_are_root_two_apart():
    square = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [0.0, -0.5]], dtype=torch.float64)
    assert koleo_loss(square).item() == pytest.approx(-0.5 * math.log(2), rel=1e-12)


def test_two_opposite_rows_are_each_others_nearest():
    assert koleo_loss(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).item() == pytest.approx(-math.log(2), rel=1e-6)


def test_gradcheck():
    assert torch.autograd.gradcheck(koleo_loss, [rows(6, 3).requires_grad_()])


@pytest.mark.parametrize("length", [1e-30, 1e-13, 1e30])
def test_length_of_the_rows_does_not_matter(length):
    x = rows(20, 5).float()
    assert koleo_loss(x * length).item() == pytest.approx(koleo_loss(x).item(), rel=1e-5)


def test_descent_spreads_the_rows():
    x = torch.nn.Parameter(rows(5, 3) * 0.05 + torch.tensor([1.0, 0.0, 0.0]))
    before = koleo_loss(x).item()
    optimizer = torch.optim.SGD([x], lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        koleo_loss(x).backward()
        optimizer.step()
    assert koleo_loss(x).item() < before - 1


def test_identical_rows_are_finite():
    x = torch.ones(3, 4).requires_grad_()
    loss = koleo_loss(x)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1e8), rel=1e-6)
    assert torch.equal(x.grad, torch.zeros(3, 4))


def test_autocast_keeps_float32():
    x = rows(30, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(koleo_loss(x), koleo_loss(x.clone()))
        loss = koleo_loss(x)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(koleo_loss(x.double()).item(), rel=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 2 vectors, got 1"):
        koleo_loss(torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"shape \(n, dim\), got \(3,\)"):
        koleo_loss(torch.ones(3))
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        koleo_loss(torch.ones(2, 3), block_size=0)
