import math

import pytest
import torch

from vmflearn.monitor.statistics import (
    effective_rank,
    feature_std,
    feature_variance,
    gradient_norm,
    prototype_statistics,
    teacher_statistics,
    update_norm,
)
from vmflearn.ssl import Prototypes, dino_loss

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


def test_kl_is_cross_entropy_minus_entropy():
    q, s = torch.rand(2, 6, K).softmax(-1), torch.randn(2, 6, K)
    kl = [(q[u] * (q[u].log() - s[1 - u].log_softmax(-1))).sum(-1).mean() for u in (0, 1)]
    assert teacher_statistics(q, float(dino_loss(s, q)))["kl"] == pytest.approx(float(sum(kl)) / 2, rel=1e-5)


def test_feature_variance_and_std():
    rows = torch.tensor([[2.0, 0.0], [0.0, 5.0]])  # unit: e1 and e2, mean (1/2, 1/2)
    assert feature_variance(rows) == pytest.approx(0.5, rel=1e-12)
    assert feature_std(rows) == pytest.approx(0.5, rel=1e-12)
    assert feature_variance(torch.randn(1, 7).expand(2, 9, 7)) < 1e-28
    assert feature_std(torch.randn(4000, 25)) == pytest.approx(1 / 5, rel=0.02)


def test_double_targets_are_not_cut_to_single():
    """A teacher that hardly looks at its input: information of 1e-9 nats, between entropies of 2.8."""
    tilt = 1e-4 * torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None] * torch.eye(K, dtype=torch.float64)[0]
    p = torch.softmax(tilt, dim=-1)
    longhand = (p / 2 * (p / p.mean(dim=0)).log()).sum()
    assert teacher_statistics(p)["teacher_information"] == pytest.approx(float(longhand), rel=1e-4)


def test_effective_rank():
    assert effective_rank(torch.eye(5)) == pytest.approx(5, rel=1e-12)
    assert effective_rank(torch.ones(4, 6)) == pytest.approx(1, abs=1e-6)
    p = torch.tensor([0.75, 0.25])
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(torch.diag(3 * p)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="rows"):
        effective_rank(torch.full((2, 2), math.nan))


def test_prototype_statistics():
    prototypes = Prototypes(4, 101, "vmf")
    with torch.no_grad():
        prototypes.weight_g.copy_(torch.arange(101.0).flip(0)[:, None])
    found = prototype_statistics(prototypes, 0.5)
    expected = {"prototype_norm_mean": 50, "kappa_p5": 10, "kappa_p50": 100, "kappa_p95": 190}
    assert found == pytest.approx(expected)


def test_gradient_and_update_norms():
    a, b, c = (torch.zeros(n, requires_grad=True) for n in (1, 2, 3))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([0.0, 4.0])
    assert gradient_norm([a, b, c]) == 5
    assert update_norm([torch.ones(2), torch.zeros(1)], [torch.tensor([4.0, 1.0]), torch.tensor([4.0])]) == 5
