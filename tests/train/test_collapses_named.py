"""Collapses put into iBOT and MSN, through the trainer: each is named by its monitor, and healthy runs by none."""

import pytest
import torch

from vmflearn.train import load_config, pretrain, state
from vmflearn.train.methods import IBOT
from vmflearn.train.runs.records import read_metrics

pytestmark = pytest.mark.usefixtures("fewer_photos")
EVERY = 10
TINY = [
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=0",
    "views.blur_sigma=[0.1, 0.2]",
    "views.color_jitter=0.4",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}",
    "model.drop_path=0",
    "head.out_dim=32",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "teacher.temp=0.04",
    "teacher.momentum=0.9",
    "optimizer.batch_size=32",
    "optimizer.lr=0.02",
    "optimizer.warmup_epochs=0",
    "optimizer.freeze_last_layer_epochs=0",
    "run.epochs=12",
    "run.log_every=4",
    "run.max_steps=28",
    "run.save_every=12",
    "run.device=cpu",
]
IBOT_ALONE = ["method.name=ibot", "method.patch_temp=0.04", "method.patch_temp_warmup_epochs=0"]
PLAIN = [*IBOT_ALONE, "head.normalization=none", "teacher.centering=logit"]
SEPARATE = [*PLAIN, "method.shared_head=false", "method.patch_out_dim=24"]
MSN = ["method.name=msn", "head.normalization=l2", "teacher.centering=sinkhorn", "teacher.warmup_temp=0.025"]
MSN += ["teacher.temp=0.025", "views.n_local=1"]
NORM = "head.batch_norm=true"  # spreads y from the first step, as in the recipes for photographs
SHARP = ["head.normalization=l2", "teacher.temp=0.02", "teacher.warmup_temp=0.02"]


def named(tmp_path, *overrides):
    """Everything that the monitor named in a run, and the last line of its metrics."""
    pretrain(load_config(None, [*TINY, *overrides]), tmp_path, quiet=True)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    return {finding for line in lines for finding in line.get("findings", [])}, lines[-1]


HEALTHY = {
    "ibot": [*PLAIN, NORM],
    "ibot, separate heads": [*SEPARATE, NORM],
    "ibot-vmf": [*IBOT_ALONE, NORM],
    "msn": [*MSN, NORM],
    "msn, no batch norm": MSN,
    "msn-vmf": [*MSN, NORM, "head.normalization=vmf"],
}
COLLAPSES = {
    "ibot, no centring": ([*PLAIN, *SHARP, "teacher.center_momentum=1"], {"", " of patches"}, "constant output"),
    "ibot, hot teacher": ([*PLAIN, "teacher.temp=0.5", "teacher.warmup_temp=0.5"], {""}, "temperature too high"),
    "ibot, hot teacher of patches": (
        [*PLAIN, "method.patch_temp=0.5", "method.patch_warmup_temp=0.5"],
        {" of patches"},
        "temperature too high",
    ),
    "msn, neither balance nor mean entropy": (
        [*MSN, "method.balanced=false", "method.mean_entropy=0"],
        {""},
        "constant output",
    ),
    "msn, hot teacher": ([*MSN, NORM, "teacher.temp=0.5", "teacher.warmup_temp=0.5"], {""}, "temperature too high"),
}


@pytest.mark.parametrize("method", HEALTHY)
def test_healthy_runs_are_silent(method, tmp_path):
    found, last = named(tmp_path, *HEALTHY[method])
    assert found == set()
    assert ("patch_teacher_information" in last) == ("ibot" in method)


@pytest.mark.parametrize("case", COLLAPSES)
def test_a_collapse_is_named(case, tmp_path):
    overrides, of, name = COLLAPSES[case]
    found, _ = named(tmp_path, *overrides)
    assert found == {name + which for which in of}


def test_what_helps_is_said_in_the_words_of_the_method():
    cures = {
        name: state.State(load_config(None, [*TINY, *overrides]), torch.device("cpu")).monitor.cures
        for name, overrides in (("ibot", PLAIN), ("msn", MSN))
    }
    assert "centre" in cures["ibot"]["constant output"]
    assert "method.balanced" in cures["msn"]["constant output"]
    assert cures["msn"]["uniform output"] == cures["ibot"]["uniform output"]


def test_a_centre_of_patches_that_stands_still_is_named_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(IBOT, "update", lambda self, aim: self.centering.move(aim.centers[0]))
    found, _ = named(tmp_path, *SEPARATE, *SHARP, "method.patch_temp=0.02", "method.patch_warmup_temp=0.02")
    assert found == {"constant output of patches"}


@pytest.mark.parametrize("method", ["ibot", "msn"])
def test_a_head_that_gives_one_vector_is_named(method, tmp_path, monkeypatch):
    """The centre, or Sinkhorn, then makes every target uniform."""
    build = state.build_model

    def constant(*arguments, **options):
        network = build(*arguments, **options)
        last = network.head.mlp[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.ones_(last.bias)
        last.requires_grad_(False)
        return network

    monkeypatch.setattr(state, "build_model", constant)
    overrides = {"ibot": [*PLAIN, "teacher.center_momentum=0.5", "optimizer.lr=0.001"], "msn": MSN}[method]
    found, _ = named(tmp_path, *overrides)
    assert found == {"uniform output"} | ({"uniform output of patches"} if method == "ibot" else set())
