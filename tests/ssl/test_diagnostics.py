import math

import pytest
import torch

from vmflearn.ssl.diagnostics import teacher_statistics

K = 16


def test_uniform_collapse_has_full_entropy_and_no_information():
    found = teacher_statistics(torch.full((2, 8, K), 1 / K))
    assert found["teacher_entropy"] == pytest.approx(math.log(K))
    assert found["teacher_information"] == pytest.approx(0, abs=1e-5)


def test_one_component_collapse_has_neither():
    one = torch.zeros(2, 8, K)
    one[..., 3] = 1
    found = teacher_statistics(one)
    assert found["teacher_entropy"] == 0
    assert found["teacher_information"] == pytest.approx(0, abs=1e-6)


def test_a_decided_balanced_teacher_carries_ln_k():
    found = teacher_statistics(torch.eye(K).expand(2, K, K))
    assert found["teacher_entropy"] == 0
    assert found["teacher_information"] == pytest.approx(math.log(K))


def test_mutual_information_longhand():
    p = torch.softmax(torch.randn(10, K, dtype=torch.float64), dim=-1)
    joint, marginal = p / 10, p.mean(dim=0)
    longhand = (joint * (joint / (marginal / 10)).log()).sum()
    assert teacher_statistics(p)["teacher_information"] == pytest.approx(float(longhand), rel=1e-4)
