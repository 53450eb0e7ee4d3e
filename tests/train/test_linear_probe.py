import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from vmflearn.train import load_config, pretrain
from vmflearn.train.checkpoints.checkpoint import load_newest
from vmflearn.train.linear_probe import LEARNING_RATE, LinearProbe
from vmflearn.train.runs.records import read_metrics

CPU = torch.device("cpu")


def toy(n=120, dim=6, n_classes=3, seed=0):
    """Rows (n, dim) around one centre a class, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    centers = 2 * torch.randn(n_classes, dim, generator=generator, dtype=torch.float64)
    return centers[labels] + torch.randn(n, dim, generator=generator, dtype=torch.float64), labels


def test_it_ends_where_logistic_regression_ends():
    rows, labels = toy()
    rows = rows + 4 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probe = LinearProbe(labels, 3, 6, CPU, torch.float64)
    for _ in range(6000):
        probe.learn(rows[None], torch.arange(len(rows)))
    unit = rows / rows.norm(dim=1, keepdim=True) * 6**0.5
    judge = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000).fit(unit, labels)
    ours = torch.log_softmax(unit @ probe.weight.T + probe.bias, dim=1).detach().numpy()
    np.testing.assert_allclose(ours, judge.predict_log_proba(unit), atol=2e-3)
    assert probe.accuracy(rows, labels) == judge.score(unit.numpy(), labels.numpy())
    assert probe.accuracy(5 * rows, labels) == probe.accuracy(rows, labels), "only directions count"


def test_one_step_is_adam_on_the_gradient_of_logistic_regression():
    rows, labels = toy(n=8)
    probe = LinearProbe(labels, 3, 6, CPU, torch.float64)
    views, indices = torch.stack([rows[[5, 2]], rows[[4, 1]]]), torch.tensor([7, 3])
    probe.learn(views, indices)
    x = views.flatten(0, 1) / views.flatten(0, 1).norm(dim=1, keepdim=True) * 6**0.5
    wanted = torch.eye(3, dtype=torch.float64)[labels[[7, 3, 7, 3]]]
    gradient = (1 / 3 - wanted).T @ x / 4  # weights are zero: all classes have probability 1/3
    step = LEARNING_RATE * gradient / (gradient.abs() + 1e-8)  # Adam's first step, biases corrected
    torch.testing.assert_close(probe.weight.detach(), -step, rtol=1e-9, atol=1e-12)


def test_no_gradient_reaches_the_features():
    rows, labels = toy(n=8)
    backbone = nn.Linear(6, 6, dtype=torch.float64)
    LinearProbe(labels, 3, 6, CPU, torch.float64).learn(backbone(rows)[None], torch.arange(8))
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_it_goes_on_from_a_saved_state():
    rows, labels = toy()
    whole, first, second = (LinearProbe(labels, 3, 6, CPU) for _ in range(3))
    for step in range(6):
        batch = torch.arange(20 * step, 20 * step + 20)
        whole.learn(rows[None, batch], batch)
        (first if step < 3 else second).learn(rows[None, batch], batch)
        if step == 2:
            second.load_state_dict(first.state_dict())
    assert torch.equal(whole.weight, second.weight)
    assert not torch.equal(whole.weight, first.weight)


def test_bad_classes_are_named():
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        LinearProbe(torch.zeros(4, dtype=torch.int64), 1, 6, CPU)
    for labels in (torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels must be 0 to 2"):
            LinearProbe(labels, 3, 6, CPU)


@pytest.fixture
def small(tiny_settings):
    return load_config(overrides=[*tiny_settings, "run.epochs=1", "run.log_every=4"])


@pytest.fixture
def tiny_settings():
    return [
        "data.source=photos",
        "views.global_size=16",
        "views.local_size=8",
        "views.n_local=1",
        "model.backbone=vit_tiny_patch16_224",
        "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
        "model.drop_path=0",
        "head.out_dim=16",
        "head.hidden_dim=16",
        "head.bottleneck_dim=8",
        "optimizer.batch_size=300",
        "optimizer.warmup_epochs=0",
        "optimizer.freeze_last_layer_epochs=0",
        "run.device=cpu",
    ]


def test_a_run_reports_it_and_trains_the_same_without_it(small, tmp_path, monkeypatch):
    with_it = pretrain(small, tmp_path / "with", quiet=True)
    assert 0.1 <= with_it.metrics["linear_top1"] <= 1
    saved = load_newest(tmp_path / "with" / "checkpoints", print)
    assert saved["linear"]["weight"].abs().max() > 0
    monkeypatch.setattr("vmflearn.train.state.State._linear_probe", lambda state, student: None)
    without = pretrain(small, tmp_path / "without", quiet=True)
    assert "linear_top1" not in without.metrics
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("with", "without")]
    del lines[0][-1]["linear_top1"]
    assert lines[0] == lines[1], "the probe changed the run that it watches"
