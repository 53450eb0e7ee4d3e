"""What `pretrain.py` measures beside whole steps: memory by way, checkpoints, and two savings that were tried."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import Peer, Row, compare, duration, timed
from pretrain_cases import Way

from vmflearn.train.checkpoints.checkpoint import save_checkpoint
from vmflearn.train.checkpoints.writer import snapshot

HERE = Path(__file__).parent
WAYS = (
    "ours",
    "ours, four parts",
    "ours, two parts",
    "ours, attention with its matrix",
    "ours, all logits written down",
    "DINO's step, longhand",
)


def measure_memory(sizes: Any) -> list[list[str]]:
    """Most memory that a step of each way holds above what stays: median of fresh processes."""
    found: dict[str, float] = {}
    for name in WAYS[: sizes.memory_ways]:
        command = [sys.executable, str(HERE / "step_memory.py"), name, sizes.backbone, str(sizes.memory_batch)]
        command += [str(sizes.components), *map(str, sizes.crops)]
        peaks = []
        for _ in range(sizes.memory_rounds):
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks.append(json.loads(done.stdout)["peak_mib"])
        found[name] = statistics.median(peaks)
    return [[name, f"{peak:,.0f} MiB", f"{peak / found['ours']:.2f}"] for name, peak in found.items()]


def measure_checkpoint(sizes: Any) -> list[Row]:
    """What the loop waits for a checkpoint that a thread writes, against writing it on the spot."""
    way = Way(sizes)
    for parameter in way.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    way.optimizer.step()
    parts = {"student": way.student, "teacher": way.teacher, "optimizer": way.optimizer}
    state = {name: part.state_dict() for name, part in parts.items()}  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        on_the_spot = Peer(
            "digest and file, written on the spot", timed(lambda: save_checkpoint(Path(folder), 1, state))
        )
        return compare("copy of a checkpoint's state", timed(lambda: snapshot(state)), [on_the_spot], sizes.rounds)


def measure_concatenation(sizes: Any) -> list[Row]:
    """Norm and MLP of one block, forward and backward: tokens of both resolutions in one matrix, or one by one."""
    block = Way(sizes).student.backbone.blocks[0]
    side = block.mlp.fc1.in_features
    patch = 16
    tokens = [sizes.crops.count(size) * sizes.batch * ((size // patch) ** 2 + 1) for size in dict.fromkeys(sizes.crops)]
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(1, n, side, generator=generator, requires_grad=True) for n in tokens]

    def run(pieces: list[torch.Tensor]) -> list[torch.Tensor]:
        return [piece + block.mlp(block.norm2(piece)) for piece in pieces]

    def separately() -> None:
        sum(out.sum() for out in run(inputs)).backward()  # type: ignore[union-attr]

    def together() -> None:
        (out,) = run([torch.cat(inputs, dim=1)])
        sum(piece.sum() for piece in out.split(tokens, dim=1)).backward()  # type: ignore[union-attr]

    one_by_one = Peer("one resolution after the other (kept)", timed(separately))
    return compare("norm and MLP of a block, all tokens in one matrix", timed(together), [one_by_one], 3 * sizes.rounds)


EXCHANGE = """
import sys, time, torch
from vmflearn import distributed
torch.distributed.init_process_group("gloo")
x, times = torch.randn(int(sys.argv[1])), []
for _ in range(30):
    torch.distributed.barrier()
    start = time.perf_counter()
    distributed.log_mean_exp_over_processes(x)
    times.append(time.perf_counter() - start)
if distributed.rank() == 0:
    print(sorted(times)[len(times) // 2])
torch.distributed.destroy_process_group()
"""


def measure_exchange(sizes: Any, step: float) -> list[list[str]]:
    """The centre's exchange over two processes: the most that hiding it behind the backward pass could save."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "exchange.py"
        script.write_text(EXCHANGE, encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(sizes.components)], check=True, capture_output=True, text=True, env=environment
        )
    seconds = float(done.stdout)
    row = [f"centre of {sizes.components:,} components", duration(seconds), duration(step)]
    return [[*row, f"{100 * seconds / step:.3f} %"]]
