import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from vmflearn.ssl.sinkhorn import SinkhornKnopp


def random_logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published(z, turns):
    """SwAV's algorithm as published: components in rows, the whole matrix to sum one, components first, then images."""
    q = [[math.exp(value) for value in column] for column in z.T.tolist()]  # K x B
    k, b = len(q), len(q[0])
    whole = math.fsum(math.fsum(row) for row in q)
    q = [[value / whole for value in row] for row in q]
    for _ in range(turns):
        q = [[value / math.fsum(row) / k for value in row] for row in q]
        images = [math.fsum(row[j] for row in q) for j in range(b)]
        q = [[value / images[j] / b for j, value in enumerate(row)] for row in q]
    return [[b * q[i][j] for i in range(k)] for j in range(b)]


@pytest.mark.parametrize("turns", [1, 2, 3, 10])
def test_equals_the_published_algorithm(turns):
    z = random_logits(2, 5, 7)
    ours = SinkhornKnopp(7, turns).probabilities(z, 0.05)
    assert ours.shape == z.shape
    np.testing.assert_allclose(ours.reshape(10, 7), published(z.reshape(10, 7), turns), rtol=1e-12)


def test_one_turn_by_hand():
    """Components' sums are 1 + e^2 + e and e + e^.5 + e; then the first row is divided by its own sum."""
    z = torch.tensor([[0.0, 1.0], [2.0, 0.5], [1.0, 1.0]], dtype=torch.float64)
    e = math.e
    first = [1 / (1 + e**2 + e), e / (e + e**0.5 + e)]
    found = SinkhornKnopp(2, iterations=1).probabilities(z, 1.0)
    assert found[0, 0].item() == pytest.approx(first[0] / sum(first), rel=1e-12)
    assert found[0, 0].item() == pytest.approx(0.1901, abs=5e-5)


def test_the_constant_of_an_image_is_its_weight_in_the_first_turn():
    """As in the published code; in the limit it does not matter."""
    z = random_logits(6, 3)
    shifted = z + torch.tensor([0.0, 4, 0, 0, 0, 0]).double()[:, None]
    gap = [
        (SinkhornKnopp(3, n).probabilities(z, 1.0) - SinkhornKnopp(3, n).probabilities(shifted, 1.0)).abs().max()
        for n in (1, 500)
    ]
    assert gap[0] > 0.01
    assert gap[1] < 1e-12


def test_many_turns_share_the_batch_equally():
    probs = SinkhornKnopp(4, 300).probabilities(random_logits(12, 4), 1.0)
    torch.testing.assert_close(probs.sum(dim=0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(12, dtype=torch.float64))


def test_nothing_underflows_at_65536_components():
    z = random_logits(4, 65_536, scale=300.0).float()
    z[:, 7] -= 1e5  # far out of reach in the probability domain
    probs = SinkhornKnopp(65_536).probabilities(z + 1e4, 0.04)
    assert probs.dtype == torch.float32
    assert probs.isfinite().all()
    assert probs[:, 7].sum() > 0
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(4), rtol=1e-4, atol=0)


def test_a_single_row_is_uniform_and_nothing_is_kept():
    module = SinkhornKnopp(5)
    z = random_logits(1, 5).requires_grad_()
    probs = module.probabilities(z, 0.05)
    torch.testing.assert_close(probs, torch.full((1, 5), 0.2, dtype=torch.float64))
    assert not probs.requires_grad
    module.update(z, 0.05)
    assert module.state_dict() == {}
    assert torch.equal(module.probabilities(z, 0.05), probs)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"out_dim.* must be at least 2, got 1"):
        SinkhornKnopp(1)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        SinkhornKnopp(4, 0)
    module = SinkhornKnopp(4)
    for call in (module.probabilities, module.update):
        with pytest.raises(ValueError, match=r"logits must have shape \(\.\.\., 4\)"):
            call(torch.zeros(2, 5), 0.1)
        with pytest.raises(ValueError, match=r"at least one row"):
            call(torch.zeros(0, 4), 0.1)
        for temperature in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"temperature must be .*got {temperature}"):
                call(torch.zeros(2, 4), temperature)


PROCESS = """
import sys, torch
import torch.distributed as dist
from vmflearn.ssl.sinkhorn import SinkhornKnopp
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
rows = torch.load(f"{folder}/rows.pt")
torch.save(SinkhornKnopp(5).probabilities(rows[rank::2], 0.05), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_balance_as_one(tmp_path):
    rows = random_logits(8, 5)
    torch.save(rows, tmp_path / "rows.pt")
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    together = SinkhornKnopp(5).probabilities(rows, 0.05)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), together[rank::2], rtol=1e-12, atol=0)


def test_fewer_rows_than_components_are_balanced_and_warned_of_once():
    """Every component then gets n/K of the batch, less than one row."""
    balance, z = SinkhornKnopp(16, 100), random_logits(2, 3, 16)
    with pytest.warns(UserWarning, match="balances 6 rows of a batch over 16 components") as seen:
        targets = [balance.probabilities(z, 0.1) for _ in range(3)]
    assert len(seen) == 1
    np.testing.assert_allclose(targets[0].sum(dim=(0, 1)), np.full(16, 6 / 16), rtol=1e-6)
    np.testing.assert_allclose(targets[0].sum(dim=-1), np.ones((2, 3)), rtol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SinkhornKnopp(6).probabilities(random_logits(2, 3, 6), 0.1)
