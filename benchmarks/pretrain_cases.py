"""What `pretrain.py` compares: whole training steps, ours, ours without one of its savings, and DINO's longhand."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import Peer, Row, Timer, compare, timed
from torch import Tensor, nn

from vmflearn.backbones.creation import compile_blocks
from vmflearn.backbones.stochastic_depth import SubsetBlock
from vmflearn.ssl import DINOHead, LogitCentering, MultiCropNetwork, create_backbone, dino_loss
from vmflearn.train import StepSettings, training_step
from vmflearn.train.methods import DINO, dino
from vmflearn.train.optimizer import clip_each, make_optimizer, update_teacher

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4
SETTINGS = StepSettings(1e-4, 0.04, 0.996, student_temp=0.1, teacher_temp=0.04, clip_grad=3.0)


class PassPerCrop(MultiCropNetwork):
    """Every crop through the backbone on its own."""

    def features(self, crops: Any) -> Tensor:
        """Features of every crop, (crops, batch, features)."""
        return torch.stack([self.backbone(crop) for crop in crops])


class Way:
    """One way to train: networks, optimiser, centre, and a step; all ways start from the same weights."""

    def __init__(
        self,
        sizes: Any,
        *,
        fused: bool = True,
        per_crop: bool = False,
        rate: float = 0.0,
        subset: bool = False,
        parts: int = 1,
        autocast: bool = False,
        compiled: bool = False,
    ):
        torch.manual_seed(0)
        self.settings = replace(SETTINGS, accumulation=parts, autocast=autocast)
        kind = PassPerCrop if per_crop else MultiCropNetwork
        networks = []
        for drop in (rate, 0.0):
            backbone = create_backbone(sizes.backbone, drop_path_rate=drop)
            if subset and drop:
                SubsetBlock.adopt(backbone)
            for block in backbone.blocks:
                block.attn.fused_attn = fused
            networks.append(kind(backbone, DINOHead(backbone.num_features, sizes.components, "none")))
        self.student, self.teacher = networks[0], networks[1].requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        if compiled:
            compile_blocks(self.student.backbone)
            compile_blocks(self.teacher.backbone)
        self.optimizer = make_optimizer(self.student, fused=autocast)
        self.method = DINO(self.student, self.teacher, LogitCentering(sizes.components))

    def step(self, crops: list[Tensor]) -> float:
        """Take one step; returns its loss."""
        return training_step(self.method, self.optimizer, crops, self.settings).loss


class WrittenLogits(Way):
    """Ours, with the matrix of all logits and autograd in place of `prototype_loss`."""

    def step(self, crops: list[Tensor]) -> float:
        """Take one step; returns its loss."""
        with _replaced(lambda y, prototypes, tau, targets: dino_loss(prototypes(y, tau), targets)):
            return super().step(crops)


@contextmanager
def _replaced(loss: Callable[..., Tensor]) -> Iterator[None]:
    before = dino.prototype_loss
    dino.prototype_loss = loss  # type: ignore[assignment]
    try:
        yield
    finally:
        dino.prototype_loss = before


class Longhand(Way):
    """DINO's step as its algorithm is written.

    Attention with its matrix; a log-softmax for every pair of a teacher view and a student crop; gradients clipped and
    the teacher moved tensor by tensor. As in DINO, crops of one resolution share a pass.
    """

    def __init__(self, sizes: Any, autocast: bool = False):
        super().__init__(sizes, fused=False, autocast=autocast)
        self.optimizer = make_optimizer(self.student)
        self.center = torch.zeros(1, sizes.components)

    def step(self, crops: list[Tensor]) -> float:
        """Take one step; returns its loss."""
        s = SETTINGS
        with torch.autocast(crops[0].device.type, torch.bfloat16, enabled=self.settings.autocast):
            with torch.no_grad():
                teacher_out = self.teacher(crops[:2], 1.0).float()
            student_out = self.student(crops, 1.0).float() / s.student_temp
        teacher_probs = torch.softmax((teacher_out - self.center) / s.teacher_temp, dim=-1)
        terms = [
            torch.sum(-q * torch.log_softmax(student_out[v], dim=-1), dim=-1).mean()
            for u, q in enumerate(teacher_probs)
            for v in range(len(student_out))
            if u != v
        ]
        loss = sum(terms[1:], terms[0]) / len(terms)
        self.center = self.center * 0.9 + teacher_out.flatten(0, 1).mean(dim=0, keepdim=True) * 0.1
        value = loss.item()
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                clip = s.clip_grad / (parameter.grad.norm(2) + 1e-6)
                if clip < 1:
                    parameter.grad.mul_(clip)
        for group, decay in zip(self.optimizer.param_groups, (s.weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = s.lr, decay
        self.optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                ours.mul_(s.momentum).add_((1 - s.momentum) * theirs)
        return value


def make_crops(sizes: Any) -> list[Tensor]:
    """Random pixels in the recipe's crops."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(sizes.batch, 3, side, side, generator=generator) for side in sizes.crops]


def assert_equal_steps(ways: dict[str, Way], crops: list[Tensor], reference: Way) -> None:
    """Two steps of every way from the same weights: losses, parameters and centre as the reference's."""
    wanted = [reference.step(crops) for _ in range(2)]
    for name, way in ways.items():
        found = [way.step(crops) for _ in range(2)]
        gap = max(abs(a / b - 1) for a, b in zip(found, wanted, strict=True))
        assert gap < TOLERANCE, f"{name}: the loss differs by {gap:.2g}"
        for ours, theirs in ((way.student, reference.student), (way.teacher, reference.teacher)):
            a, b = (torch.cat([p.detach().flatten() for p in of.parameters()]) for of in (ours, theirs))
            gap = float((a - b).norm() / b.norm())
            assert gap < TOLERANCE, f"{name}: parameters differ by {gap:.2g}"


def measure_steps(sizes: Any) -> list[Row]:
    """Our step against DINO's longhand, and against ours without one saving at a time."""
    crops, ours = make_crops(sizes), Way(sizes)
    ways = {
        "DINO's step, longhand": Longhand(sizes),
        "ours, attention with its matrix": Way(sizes, fused=False),
        "ours, a pass for every crop": Way(sizes, per_crop=True),
        "ours, all logits written down": WrittenLogits(sizes),
        "ours, in two parts": Way(sizes, parts=2),
    }
    assert_equal_steps(ways, crops, ours)

    def timer(way: Way) -> Timer:
        return timed(lambda: way.step(crops))

    peers = [Peer(name, timer(way), 1.2 if "longhand" in name else None) for name, way in ways.items()]
    return compare("training step", timer(ours), peers, sizes.rounds)


def measure_precision(sizes: Any) -> list[Row]:
    """Both in bfloat16, as the recipes for ImageNet have it; and what that, and compiled blocks, give."""
    crops = make_crops(sizes)

    def timer(way: Way) -> Timer:
        return timed(lambda: way.step(crops))

    # As the trainer does on a processor: attention with its matrix, AdamW in one kernel.
    ours, longhand = Way(sizes, autocast=True, fused=False), Longhand(sizes, autocast=True)
    gap = abs(ours.step(crops) / longhand.step(crops) - 1)
    assert gap < 0.02, f"the losses in bfloat16 differ by {gap:.2g}"
    peers = [
        Peer("DINO's step, longhand, in bfloat16", timer(longhand), 1.2),
        Peer("ours in bfloat16, fused attention", timer(Way(sizes, autocast=True))),
        Peer("ours in float32", timer(Way(sizes))),
    ]
    if sizes.compiled:
        way = Way(sizes, autocast=True, fused=False, compiled=True)
        peers.append(Peer("ours in bfloat16, blocks compiled", timer(way)))
    return compare("training step in bfloat16", timer(ours), peers, sizes.rounds)


def measure_stochastic_depth(sizes: Any) -> list[Row]:
    """Subsets of the samples against timm's way, with the same rate."""
    crops = make_crops(sizes)
    ours, timms = Way(sizes, rate=sizes.rate, subset=True), Way(sizes, rate=sizes.rate)
    peers = [Peer("drawn for each sample, all computed", timed(lambda: timms.step(crops)))]
    what = f"training step, stochastic depth {sizes.rate:g} over subsets"
    return compare(what, timed(lambda: ours.step(crops)), peers, sizes.rounds)


def measure_updates(sizes: Any) -> list[Row]:
    """What follows the backward pass: clipping, AdamW and the teacher, over all tensors of the networks."""
    way = Way(sizes)
    generator = torch.Generator().manual_seed(2)
    parameters = list(way.student.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)

    def clip_one_by_one() -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.mul_((3.0 / (parameter.grad.norm() + 1e-6)).clamp(max=1.0))

    def teacher_one_by_one() -> None:
        with torch.no_grad():
            for ours, theirs in zip(way.teacher.parameters(), parameters, strict=True):
                ours.mul_(0.996).add_(0.004 * theirs)

    def adamw(**options: bool) -> Timer:
        optimizer = torch.optim.AdamW([nn.Parameter(p.detach().clone()) for p in parameters], lr=1e-4, **options)
        for ours, theirs in zip(optimizer.param_groups[0]["params"], parameters, strict=True):
            ours.grad = theirs.grad
        return timed(optimizer.step)

    rounds = max(sizes.rounds, 1)
    one_by_one = Peer("tensor by tensor", timed(clip_one_by_one))
    rows = compare("clipping, all tensors at once", timed(lambda: clip_each(parameters, 3.0)), [one_by_one], rounds)
    one_by_one = Peer("tensor by tensor", timed(teacher_one_by_one))
    rows += compare(
        "teacher, all at once", timed(lambda: update_teacher(way.teacher, way.student, 0.996)), [one_by_one], rounds
    )
    peers = [Peer("foreach", adamw(foreach=True)), Peer("one kernel a tensor (fused)", adamw(fused=True))]
    return rows + compare("AdamW, PyTorch's default on the CPU", adamw(), peers, rounds)


def scaling(sizes: Any) -> list[list[str]]:
    """Images a second of the script itself, one process and two with twice the batch, over gloo: best intervals."""
    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(sizes.scaling_rounds):
            for processes in (1, 2):
                run_dir = Path(folder) / f"{processes}-{attempt}"
                command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
                command += [f"--nproc-per-node={processes}", str(ROOT / "scripts" / "pretrain.py"), "--config"]
                command += [str(ROOT / "scripts" / "configs" / "photos_vit_tiny_dino_vmf.yaml")]
                command += [f"--run-dir={run_dir}", f"--run.max_steps={sizes.scaling_steps}", "--run.log_every=5"]
                command += [f"--optimizer.batch_size={64 * processes}", "--run.knn_every=0", "--run.device=cpu"]
                command += sizes.scaling_options
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                subprocess.run(command, check=True, capture_output=True, env=environment)
                lines = (run_dir / "timing.jsonl").read_text(encoding="utf-8").splitlines()
                found[processes].append(max(json.loads(line)["images_per_second"] for line in lines))
    one, two = (statistics.median(found[n]) for n in (1, 2))
    return [["1", "64", f"{one:.0f}", ""], ["2", "128", f"{two:.0f}", f"{two / one:.2f}"]]
