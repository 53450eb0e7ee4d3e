import time

import pytest
import torch

from vmflearn.devices import Readback


def test_the_number_comes_through():
    assert Readback(torch.tensor([1.5, -2.0], dtype=torch.float64)).values() == [1.5, -2.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_queued_after_it_is_not_waited_for():
    x = torch.randn(8192, 8192, device="cuda")
    (x @ x).sum().item()  # starts cuBLAS
    readback = Readback(torch.tensor([3.0], device="cuda") * 2)
    done = torch.cuda.Event()
    for _ in range(50):
        x @ x
    done.record()
    began = time.perf_counter()
    assert readback.values() == [6.0]
    assert not done.query(), f"waited {time.perf_counter() - began:.3f} s, until the queue was empty"
