import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vmflearn.train import ConfigError, load_config, pretrain
from vmflearn.train.checkpoint import load_newest
from vmflearn.train.records import read_metrics
from vmflearn.train.state import State
from vmflearn.train.warm_start import start_from

SETTINGS = [
    "data.source=photos",
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=1",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 64, depth: 1, num_heads: 1}",
    "model.drop_path=0",
    "head.out_dim=12",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "teacher.centering=logit",
    "optimizer.batch_size=300",
    "optimizer.warmup_epochs=0",
    "optimizer.freeze_last_layer_epochs=0",
    "run.epochs=1",
    "run.device=cpu",
]


def fresh(*overrides):
    """A state as a new run has it."""
    torch.manual_seed(99)
    return State(load_config(overrides=[*SETTINGS, *overrides]), torch.device("cpu"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of DINO, whose student, teacher and centre are not where they started."""
    folder = tmp_path_factory.mktemp("run")
    pretrain(load_config(overrides=[*SETTINGS, "head.normalization=none", "optimizer.lr=1e-2"]), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def saved(run):
    return load_newest(run / "checkpoints", pytest.fail)


def newest(run):
    return max((run / "checkpoints").glob("step-*.pt"))


def equal(network, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def as_dino(saved, **changes):
    """The same weights as DINO's training writes them."""

    def named(state, prefix):
        renamed = {name.replace("head.prototypes.", "head.last_layer."): tensor for name, tensor in state.items()}
        return {prefix + name: tensor.clone() for name, tensor in renamed.items()}

    content = {
        "student": named(saved["student"], "module."),
        "teacher": named(saved["teacher"], ""),
        "dino_loss": {"center": saved["centering"]["center"][None].clone()},
    }
    return content | changes


def test_an_own_checkpoint_restores_networks_and_centre(run, saved):
    state = fresh("head.normalization=none")
    lines = start_from(state, newest(run))
    assert equal(state.student, saved["student"])
    assert equal(state.teacher, saved["teacher"])
    assert not equal(state.student, saved["teacher"])
    assert torch.equal(state.centering.center, saved["centering"]["center"])
    assert saved["centering"]["center"].abs().max() > 0
    assert state.step == 0
    assert not state.optimizer.state
    assert [line.strip().partition(":")[0] for line in lines[1:]] == ["restored"] * 4 + ["afresh"]


def test_dinos_file_restores_networks_and_centre(saved, tmp_path):
    torch.save(as_dino(saved), tmp_path / "checkpoint.pth")
    state = fresh("head.normalization=none")
    lines = start_from(state, tmp_path / "checkpoint.pth")
    assert equal(state.student, saved["student"])
    assert equal(state.teacher, saved["teacher"])
    assert torch.equal(state.centering.center, saved["centering"]["center"])
    assert "  restored: the centre" in lines


def test_dino_vmf_may_start_from_dino(run, saved):
    state = fresh("head.normalization=vmf", "teacher.centering=probability")
    lines = start_from(state, newest(run))
    assert equal(state.teacher, saved["teacher"])
    assert "  restored: prototypes, read as 'vmf' from now on, not 'none'" in lines
    assert "  afresh: the centre (the file's is one of logit space, teacher.centering=probability)" in lines
    assert not state.centering.center.any()


def test_other_prototypes_start_afresh_with_their_centre(run, saved):
    state = fresh("head.normalization=none", "head.out_dim=20")
    before = state.student.prototypes.weight_v.clone()
    lines = start_from(state, newest(run))
    assert equal(state.student.backbone, {n.removeprefix("backbone."): t for n, t in saved["student"].items()})
    assert equal(state.student.head.mlp, {n.removeprefix("head.mlp."): t for n, t in saved["student"].items()})
    assert torch.equal(state.student.prototypes.weight_v, before)
    assert any("afresh: prototypes (weight_v is (12, 8) in the file and (20, 8) here" in line for line in lines)
    assert "  afresh: the centre" in lines


def test_another_head_starts_afresh(run):
    state = fresh("head.hidden_dim=24")
    before = {name: tensor.clone() for name, tensor in state.teacher.head.state_dict().items()}
    lines = start_from(state, newest(run))
    assert equal(state.teacher.head, before)
    assert any("afresh: the head's MLP (0.weight is (16, 64) in the file and (24, 64) here" in line for line in lines)


def test_a_backbone_alone_goes_to_both(run, saved):
    state = fresh()
    lines = start_from(state, run / "backbone.safetensors")
    expected = {n.removeprefix("backbone."): t for n, t in saved["teacher"].items()}
    assert equal(state.student.backbone, expected)
    assert equal(state.teacher.backbone, expected)
    assert "  restored: backbones of student and teacher, both from one" in lines
    assert "  afresh: prototypes (the file has none)" in lines


def test_sinkhorn_has_no_centre(run):
    assert "  afresh: sinkhorn has no centre" in start_from(fresh("teacher.centering=sinkhorn"), newest(run))


def test_another_backbone_is_named_and_nothing_is_changed(run, tmp_path):
    deeper = "model.options={img_size: 16, patch_size: 8, embed_dim: 64, depth: 2, num_heads: 1}"
    state = fresh(deeper)
    before = {name: tensor.clone() for name, tensor in state.student.state_dict().items()}
    with pytest.raises(
        ConfigError, match=r"blocks.1.norm1.weight is missing in the file and \(64,\) here.*model.options"
    ):
        start_from(state, newest(run))
    assert equal(state.student, before)
    with pytest.raises(ConfigError, match=r"run.init_from: path=.*there is no such file"):
        start_from(fresh(), tmp_path / "nowhere.pth")


def test_the_command_says_what_it_restores_and_resumes_without_it(run, tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "scripts" / "pretrain.py"), "--init-from", str(newest(run))]
    command += ["--run-dir", str(tmp_path / "run"), *(f"--{setting}" for setting in SETTINGS)]
    command += ["--head.normalization=none", "--run.log_every=1"]
    first = subprocess.run([*command, "--run.max_steps=2"], capture_output=True, text=True, check=True)
    assert "restored: prototypes" in first.stdout
    assert "backbone it starts from" in first.stdout
    again = subprocess.run([*command, "--run.max_steps=4"], capture_output=True, text=True, check=True)
    assert "restored:" not in again.stdout
    assert "continuing" in again.stdout
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    cold = pretrain(
        load_config(overrides=[*SETTINGS, "head.normalization=none", "run.max_steps=1"]), tmp_path / "cold", quiet=True
    )
    assert len(losses) == 4
    assert losses[0] != cold.metrics["loss"]
