"""The page "Add a method": its blocks are a method that trains, and what it shows is what a run says."""

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest
import torch
from chapters import SRC
from torch import nn

from vmflearn.ssl import DINOHead, MultiCropNetwork
from vmflearn.train import CheckpointError, ConfigError, StepSettings, load_config, pretrain, training_step
from vmflearn.train.cost.counting import count_cost
from vmflearn.train.methods import METHODS
from vmflearn.train.methods.from_file import add_methods_from
from vmflearn.train.optimizer import make_optimizer
from vmflearn.train.runs.records import read_metrics

ROOT = Path(__file__).resolve().parents[2]
PAGE = (SRC / "add_a_method.md").read_text(encoding="utf-8")
TINY = [
    "method.name=swav",
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=2",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
    "model.drop_path=0",
    "head.out_dim=16",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "head.normalization=l2",
    "teacher.centering=sinkhorn",
    "teacher.temp=0.05",
    "optimizer.batch_size=300",
    "optimizer.warmup_epochs=0",
    "run.epochs=1",
    "run.log_every=1",
    "run.device=cpu",
]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the page's two files, as a reader saves them."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "swav.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    (folder / "swav.yaml").write_text(*blocks("yaml"), encoding="utf-8")
    (folder / "scripts").symlink_to(ROOT / "scripts", target_is_directory=True)
    return folder


@pytest.fixture(scope="module", autouse=True)
def swav(world):
    """The method of the page, known as long as these tests run."""
    assert add_methods_from(world / "swav.py") == ["swav"]
    yield METHODS["swav"]
    del METHODS["swav"]


def test_it_is_short_and_sound(world):
    text = (world / "swav.py").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.strip()]) <= 75
    rules = ["--line-length", "120", "--select", "E,F,W,B,UP", "--ignore", "E303"]
    subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", *rules, world / "swav.py"], check=True)


class Backbone(nn.Module):
    """Mean over patches of a nonlinear embedding."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 5, 4, 4)

    def forward(self, images):
        return self.patch(images).flatten(2).mT.tanh().mean(dim=1)


def make(swav, K=7):
    torch.manual_seed(1)
    networks = []
    for _ in range(2):
        head = DINOHead(5, K, "l2", hidden_dim=6, bottleneck_dim=4)
        networks.append(MultiCropNetwork(Backbone(), head).double())
    student, teacher = networks
    with torch.no_grad():
        for layer in student.head.mlp[::2]:
            layer.weight.mul_(20)
    teacher.load_state_dict(student.state_dict())
    return swav(student, teacher.requires_grad_(False)), make_optimizer(student)


def settings(**changed):
    values = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.0, "student_temp": 0.1, "teacher_temp": 0.05}
    return StepSettings(**values | changed)


def longhand(p, crops):
    """SwAV's loss by the paper's formulas, on plain tensors; codes by sums and divisions of one matrix a view."""
    scores = []
    for crop in crops:
        n, _, side, _ = crop.shape
        patches = crop.reshape(n, 3, side // 4, 4, side // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 48)
        x = torch.tanh(patches @ p["backbone.patch.weight"].reshape(5, 48).T + p["backbone.patch.bias"]).mean(1)
        for layer in (0, 2, 4):
            x = x @ p[f"head.mlp.{layer}.weight"].T + p[f"head.mlp.{layer}.bias"]
            if layer < 4:
                x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        y, v = x / (x**2).sum(1, keepdim=True).sqrt(), p["head.prototypes.weight_v"]
        scores.append(y @ (v / (v**2).sum(1, keepdim=True).sqrt()).T)
    loss = 0.0
    for v in range(2):
        q = torch.exp(scores[v].detach() / 0.05)
        q = q / q.sum()
        for _ in range(3):  # Algorithm 1 of the paper's appendix: prototypes first, then images
            q = q / q.sum(0, keepdim=True) / q.shape[1]
            q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q * q.shape[0]
        others = [u for u in range(len(crops)) if u != v]
        for u in others:
            e = torch.exp(scores[u] / 0.1)
            loss = loss - (q * torch.log(e / e.sum(1, keepdim=True))).sum(1).mean() / len(others) / 2
    return loss


def test_steps_equal_the_paper_written_out(swav):
    method, optimizer = make(swav)
    p = {name: x.detach().clone() for name, x in method.student.named_parameters()}
    moments = {name: (torch.zeros_like(x), torch.zeros_like(x)) for name, x in p.items()}
    for step in range(1, 4):
        crops = [torch.randn(6, 3, side, side, dtype=torch.float64) for side in (16, 16, 8, 8, 8)]
        result = training_step(method, optimizer, crops, settings())
        for x in p.values():
            x.requires_grad_(True)
        loss = longhand(p, crops)
        trained = [name for name in p if not name.endswith("weight_g")]
        gradients = torch.autograd.grad(loss, [p[name] for name in trained])
        assert result.loss == pytest.approx(loss.item(), rel=1e-12)
        with torch.no_grad():
            for name, g in zip(trained, gradients, strict=True):
                m, s = moments[name]
                m.mul_(0.9).add_(0.1 * g)
                s.mul_(0.999).add_(0.001 * g**2)
                decay = 0.0 if p[name].ndim == 1 else 0.1
                move = (m / (1 - 0.9**step)) / ((s / (1 - 0.999**step)).sqrt() + 1e-8)
                p[name] = p[name].detach() * (1 - 0.01 * decay) - 0.01 * move
            v = p["head.prototypes.weight_v"]
            p["head.prototypes.weight_v"] = v / (v**2).sum(1, keepdim=True).sqrt()
            p = {name: x.detach() for name, x in p.items()}
        for network in (method.student, method.teacher):
            for name, x in network.named_parameters():
                torch.testing.assert_close(x.detach(), p[name], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(result.targets.sum(-1), torch.ones(2, 6, dtype=torch.float64))


def test_parts_of_a_batch_make_the_same_step(swav):
    crops = [torch.randn(6, 3, side, side, dtype=torch.float64) for side in (16, 16, 8)]
    networks = []
    for accumulation in (1, 3):
        method, optimizer = make(swav)
        training_step(method, optimizer, crops, settings(accumulation=accumulation))
        networks.append(method.student)
    for one, three in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, three, rtol=1e-9, atol=1e-11)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretrain(load_config(None, TINY), whole, quiet=True)
    pretrain(load_config(None, [*TINY, "run.max_steps=3"]), halves, quiet=True)
    pretrain(load_config(None, TINY), halves, quiet=True)
    lines = [read_metrics(folder / "metrics.jsonl") for folder in (whole, halves)]
    assert len(lines[0]) == 6
    assert lines[0][:2] + lines[0][3:] == lines[1][:2] + lines[1][3:]  # the third was a last one, and evaluated
    assert all(line["momentum"] == line["ema_distance"] == 0 for line in lines[0])
    assert not any("findings" in line for line in lines[0])
    with pytest.raises(CheckpointError, match=r"method\.name: swav -> msn.*; give another run folder with --run-dir"):
        pretrain(load_config(None, [*TINY, "method.name=msn"]), whole, quiet=True)
    with pytest.raises(CheckpointError, match=r"method\.iterations: 3 -> 2"):
        pretrain(load_config(None, [*TINY, "method.iterations=2"]), whole, quiet=True)


def test_what_it_cannot_run_is_refused():
    with pytest.raises(ConfigError, match=r"^teacher\.centering=probability: SwAV balances its codes; give sinkhorn$"):
        load_config(None, ["method.name=swav"])
    with pytest.raises(ConfigError, match=r"^method\.iterations must be at least 1, not 0$"):
        load_config(None, [*TINY, "method.iterations=0"])


def test_its_cost_is_that_of_dino():
    dino = [setting for setting in TINY if "method" not in setting]
    assert count_cost(load_config(None, TINY)).operations == count_cost(load_config(None, dino)).operations


def execute(command, world, *more, launcher=()):
    """A command of the page; what it printed."""
    program, *words = shlex.split(command)
    assert program == "python"
    clean = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    env = clean | {"PYTHONPATH": str(ROOT), **preloaded.FIXED}
    if launcher:
        command = [sys.executable, *launcher, *words, *more]
        done = subprocess.run(command, cwd=world, env=env, capture_output=True, text=True, check=False)
    else:
        done = preloaded.run([*words, *more], world, env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def alike(shown, said):
    """Whether two lines have the same words, and numbers that agree but for the machine: speed aside, to 0.05."""
    shown, said = (re.sub(r" +images/s .*|, \d+ threads", "", line) for line in (shown, said))
    number = re.compile(r"\d+\.\d+")
    if number.sub("_", shown) != number.sub("_", said):
        return False
    return all(
        abs(float(a) - float(b)) < 0.05 for a, b in zip(number.findall(shown), number.findall(said), strict=True)
    )


DRY, TRAIN = (line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines())


@pytest.mark.slow
def test_the_dry_run_says_what_the_page_shows(world):
    assert execute(DRY, world).strip() == blocks("text")[0].strip()


@pytest.mark.slow
def test_training_says_what_the_page_shows(world):
    shown = blocks("text")[1].strip().splitlines()
    said = [line for line in execute(TRAIN, world).strip().splitlines() if "MFU is stated" not in line]
    assert len(said) == len(shown)
    for a, b in zip(shown, said, strict=True):
        assert alike(a, b), f"{a}\n{b}"


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_take_the_steps_of_one(world):
    command = "python scripts/pretrain.py --method-file swav.py"
    wanted = [f"--{setting}" for setting in TINY] + ["--run.precision=float64", "--run.max_steps=3"]
    execute(command, world, *wanted, "--run-dir=one")
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    execute(command, world, *wanted, "--run-dir=two", launcher=two)
    one, two = (read_metrics(world / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-9)
