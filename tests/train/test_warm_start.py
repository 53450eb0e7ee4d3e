import argparse
import warnings
from pathlib import Path

import preloaded
import pytest
import torch

from vmflearn.train import ConfigError, load_config, pretrain
from vmflearn.train.checkpoints import checkpoint
from vmflearn.train.checkpoints.checkpoint import load_newest
from vmflearn.train.runs.records import read_metrics
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
    assert torch.equal(state.method.centerings()["centering"].center, saved["centering"]["center"])
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
    assert torch.equal(state.method.centerings()["centering"].center, saved["centering"]["center"])
    assert "  restored: the centre" in lines


def test_dino_vmf_may_start_from_dino(run, saved):
    state = fresh("head.normalization=vmf", "teacher.centering=probability")
    lines = start_from(state, newest(run))
    assert equal(state.teacher, saved["teacher"])
    assert "  restored: prototypes, read as 'vmf' from now on, not 'none'" in lines
    assert "  afresh: the centre (the file's is one of logit space, teacher.centering=probability)" in lines
    assert not state.method.centerings()["centering"].center.any()


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


# -------------------------------------------------------------------------------- what no shape of a tensor tells

TWO_HEADS = "model.options={img_size: 16, patch_size: 8, embed_dim: 64, depth: 1, num_heads: 2}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([TWO_HEADS], r"blocks.0.attn.num_heads is 1 in the file and 2 here.*\(model.options.num_heads: 1 -> 2\)"),
        (
            ["model.options.act_layer=relu"],
            r"blocks.0.mlp.act is GELU in the file and ReLU here.*act_layer: \(absent\) -> relu",
        ),
    ],
)
@pytest.mark.parametrize("file", ["checkpoints", "backbone.safetensors", "backbone/model.safetensors"])
def test_an_own_file_with_other_settings_is_refused(run, file, changes, said):
    state = fresh("head.normalization=none", *changes)
    before = {name: tensor.clone() for name, tensor in state.student.state_dict().items()}
    with pytest.raises(ConfigError, match=said):
        start_from(state, run / file)
    assert equal(state.student, before)


def test_drop_rates_may_change(run):
    state = fresh("head.normalization=none", "model.drop_path=0.3", "model.stochastic_depth=subset")
    assert "  restored: backbones of student and teacher" in start_from(state, newest(run))
    state = fresh("head.normalization=none", "model.options.proj_drop_rate=0.1")
    assert "  restored: backbones of student and teacher" in start_from(state, newest(run))


def test_another_rule_for_positions_is_said(run, saved):
    state = fresh("head.normalization=none", "model.position_interpolation=dino")
    lines = start_from(state, newest(run))
    assert equal(state.student, saved["student"])
    assert any(line.startswith("  changed: model.position_interpolation=dino, the file's is timm:") for line in lines)


def as_flat(saved):
    return {n.removeprefix("backbone."): t for n, t in saved["teacher"].items() if n.startswith("backbone.")}


def test_a_foreign_file_gets_the_heads_of_the_configuration(saved, tmp_path):
    torch.save(as_flat(saved), tmp_path / "pretrain.pth")
    state = fresh(TWO_HEADS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = start_from(state, tmp_path / "pretrain.pth")
    assert equal(state.student.backbone, as_flat(saved))
    assert "  unknown: the file does not tell the heads of attention; 2 as model.options say" in lines
    lines = start_from(fresh(TWO_HEADS.replace("}", ", act_layer: relu}")), tmp_path / "pretrain.pth")
    assert any(line.startswith("  unknown: blocks.0.mlp.act is ReLU as model.options say, GELU in") for line in lines)


def test_a_foreign_file_that_tells_its_heads_is_held_to_them(saved, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(as_dino(saved, args=argparse.Namespace(arch="vit_tiny")), path)
    assert not [line for line in start_from(fresh(), path) if "heads" in line]
    with pytest.raises(ConfigError, match="num_heads=2, and the file's network has 1"):
        start_from(fresh(TWO_HEADS), path)


# ------------------------------------------------------------------------------------------- the folder of a run


def folder_of(saved, tmp_path, *steps):
    inside = tmp_path / "run" / "checkpoints"
    for step in steps:
        content = {
            **saved,
            "step": step,
            "student": {n: t + step if "bias" in n else t for n, t in saved["student"].items()},
        }
        checkpoint.save_checkpoint(inside, step, content)
    return tmp_path / "run"


def test_a_runs_folder_stands_for_its_newest_checkpoint(saved, tmp_path):
    folder = folder_of(saved, tmp_path, 9, 10)
    for given in (folder, folder / "checkpoints"):
        state = fresh("head.normalization=none")
        lines = start_from(state, given)
        assert (
            lines[0] == f"starting from {folder / 'checkpoints' / 'step-00000010.pt'}, the newest checkpoint of {given}"
        )
        assert torch.equal(state.student.backbone.norm.bias, saved["student"]["backbone.norm.bias"] + 10)
        assert torch.equal(state.teacher.backbone.norm.bias, saved["teacher"]["backbone.norm.bias"])
    (folder / "checkpoints" / "best.pt").touch()
    assert start_from(fresh("head.normalization=none"), folder)[0].endswith("; its best.pt is another choice, by name")


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_checkpoint_is_passed_over_and_left_where_it_is(saved, tmp_path, damage):
    folder = folder_of(saved, tmp_path, 9, 10)
    path = folder / "checkpoints" / "step-00000010.pt"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-3000]
    else:  # in the middle of a tensor: PyTorch reads it without complaint
        raw = saved["teacher"]["backbone.pos_embed"].numpy().tobytes()
        content[content.index(raw) + 2] ^= 64
    path.write_bytes(content)
    state = fresh("head.normalization=none")
    lines = start_from(state, folder)
    assert "step-00000009.pt" in lines[0]
    assert lines[1].startswith(f"  passed over: path={path} ")
    assert torch.equal(state.student.backbone.norm.bias, saved["student"]["backbone.norm.bias"] + 9)
    assert path.exists()
    with pytest.raises(ConfigError, match=r"its digest differs" if damage == "changed" else "cannot be read"):
        start_from(state, path)
    (folder / "checkpoints" / "step-00000009.pt").unlink()
    with pytest.raises(ConfigError, match=r"none of the checkpoints in .* can be read: path="):
        start_from(state, folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"run.init_from: path=.* is a directory without checkpoints \(step-\*.pt\)"):
        start_from(fresh(), tmp_path)


def test_an_exported_folder_gives_its_backbone(run, saved):
    state = fresh()
    assert start_from(state, run / "backbone")[0] == f"starting from {run / 'backbone' / 'model.safetensors'}"
    assert equal(state.student.backbone, as_flat(saved))


def test_the_command_says_what_it_restores_and_resumes_without_it(run, tmp_path):
    root = Path(__file__).parents[2]
    command = [root / "scripts" / "pretrain.py", "--init-from", newest(run)]
    command += ["--run-dir", tmp_path / "run", *(f"--{setting}" for setting in SETTINGS)]
    command += ["--head.normalization=none", "--run.log_every=1"]
    first = preloaded.run([*command, "--run.max_steps=2"])
    assert "restored: prototypes" in first.stdout
    assert "backbone it starts from" in first.stdout
    again = preloaded.run([*command, "--run.max_steps=4"])
    assert "restored:" not in again.stdout
    assert "continuing" in again.stdout
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    cold = pretrain(
        load_config(overrides=[*SETTINGS, "head.normalization=none", "run.max_steps=1"]), tmp_path / "cold", quiet=True
    )
    assert len(losses) == 4
    assert losses[0] != cold.metrics["loss"]
