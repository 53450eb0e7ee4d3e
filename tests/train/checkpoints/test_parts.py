"""Every part of a checkpoint that can be missing or wrong is found before anything is changed."""

import copy

import pytest
import torch

from vmflearn.train.checkpoints.checkpoint import BrokenCheckpointError
from vmflearn.train.checkpoints.parts import check_values
from vmflearn.train.checkpoints.writer import snapshot
from vmflearn.train.config import Config, load_config
from vmflearn.train.state import State
from vmflearn.weights.digest import digest

CONFIG = [
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=0",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}",
    "head.out_dim=8",
    "head.hidden_dim=8",
    "head.bottleneck_dim=4",
    "optimizer.batch_size=64",
    "run.device=cpu",
]
WEIGHT = "head.mlp.0.weight"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    made = State(load_config(None, CONFIG), torch.device("cpu"))
    for parameter in made.student.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    made.optimizer.step()
    made.linear.learn(torch.randn(2, 4, 8), torch.tensor([0, 300, 700, 1500]))
    made.step, made.best = 5, 0.25
    made.pending = {"metrics": {"step": 5}, "timing": {}, "findings": [("a", "b")]}
    return made


def faults():
    """Name, change to a good checkpoint, and what must be said."""
    for part in ("step", "best", "images", "config"):
        yield f"no {part}", lambda saved, part=part: saved.pop(part), f"{part} is missing"
    for part in ("student", "teacher", "centering", "optimizer", "monitor", "linear"):
        yield f"no {part}", lambda saved, part=part: saved.pop(part), f"{part} is a NoneType, not a"
        yield f"{part} a list", lambda saved, part=part: saved.update({part: []}), f"{part} is a list, not a mapping"
    for part, value in (("step", "5"), ("step", True), ("best", None), ("images", 1800.0), ("config", [])):
        yield (
            f"{part}={value!r}",
            lambda saved, p=part, v=value: saved.update({p: v}),
            f"{part} is a {type(value).__name__}",
        )
    yield "negative step", lambda saved: saved.update(step=-1), "step is -1"
    yield "a section a list", lambda saved: saved["config"].update(head=[]), "config.head is a list, not a dict"
    yield "pending a list", lambda saved: saved.update(pending=[]), "pending is not a dict"
    yield "pending cut", lambda saved: saved["pending"].pop("timing"), "pending.timing is missing"
    for network in ("student", "teacher"):
        yield f"a weight of the {network}", lambda s, n=network: s[n].pop(WEIGHT), f"{network}.{WEIGHT} is missing"
    yield (
        "a weight too many",
        lambda saved: saved["student"].update(more=torch.ones(1)),
        "student holds more, which is none",
    )
    yield (
        "a shape",
        lambda s: s["teacher"].update({WEIGHT: torch.ones(3)}),
        rf"teacher.{WEIGHT} is .* \(3,\), not",
    )
    yield "a type", lambda s: s["student"].update({WEIGHT: s["student"][WEIGHT].half()}), "is torch.float16"
    yield "no tensor", lambda s: s["centering"].update({k: 0.0 for k in s["centering"]}), "is a float, not a tensor"
    yield "no groups", lambda s: s["optimizer"].pop("param_groups"), "optimizer.param_groups is missing"
    yield "a group", lambda s: s["optimizer"]["param_groups"].pop(), "optimizer has 1 groups of parameters, not 2"
    yield (
        "a parameter",
        lambda s: s["optimizer"]["param_groups"][0]["params"].pop(),
        r"optimizer.param_groups.0 has \d+ param",
    )
    yield (
        "a setting",
        lambda s: s["optimizer"]["param_groups"][1].pop("betas"),
        "optimizer.param_groups.1.betas is missing",
    )
    yield "a moment", lambda s: s["optimizer"]["state"][0].pop("exp_avg_sq"), "optimizer.state.0.exp_avg_sq is missing"
    yield (
        "a moment's shape",
        lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.ones(2)),
        r"0.exp_avg is .*\(2,\)",
    )
    yield (
        "a probe's moment",
        lambda s: s["linear"]["optimizer"]["state"][1].pop("step"),
        "linear.optimizer.state.1.step is",
    )
    yield "monitor", lambda s: s["monitor"].update(last_win=torch.ones(8)), "monitor.last_win is torch.float32"
    yield "observations", lambda s: s["monitor"].update(recent=[3]), "monitor.recent holds something else"


@pytest.mark.parametrize(("change", "words"), [fault[1:] for fault in faults()], ids=[fault[0] for fault in faults()])
def test_what_is_wrong_is_named_and_nothing_is_changed(state, change, words):
    saved = copy.deepcopy(snapshot(state.save()))
    before = digest(state.save())
    change(saved)
    with pytest.raises(BrokenCheckpointError, match=words):
        check_values(saved, Config().to_dict()) or state.load(saved)
    assert digest(state.save()) == before


def test_what_was_saved_is_loaded_again(state):
    saved = snapshot(state.save())
    check_values(saved, Config().to_dict())
    torch.manual_seed(1)
    other = State(load_config(None, CONFIG), torch.device("cpu"))
    other.load(saved)
    assert digest(other.save()) == digest(saved)
