"""Two processes on the CPU (gloo), started by torchrun."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def torchrun(n, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *arguments]
    done = subprocess.run([str(a) for a in command], capture_output=True, text=True, env=ENVIRONMENT, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_reductions(tmp_path):
    script = tmp_path / "reductions.py"
    script.write_text(
        textwrap.dedent("""
        import math, torch, torch.distributed as dist
        from vmflearn import distributed as d
        dist.init_process_group("gloo")
        r = d.rank()
        assert d.is_distributed() and d.world_size() == 2
        assert torch.equal(d.mean_over_processes(torch.tensor([1.0, 10.0]) * (r + 1)), torch.tensor([1.5, 15.0]))
        # exp(-2000) underflows, its logarithm must not
        x = torch.tensor([-2000.0, -2001.0][r])
        expected = -2000 + math.log((1 + math.exp(-1)) / 2)
        assert abs(float(d.log_mean_exp_over_processes(x)) - expected) < 1e-3
        rows = d.gather_rows(torch.full((r + 1, 2), float(r)))
        assert rows.tolist() == [[0, 0], [1, 1], [1, 1]], rows
        dist.destroy_process_group()
        """)
    )
    torchrun(2, script)


def test_two_processes_train_like_one(tmp_path):
    """The same images, views, losses and centre whether one process takes the batch, two share it, or first one and
    then, from its checkpoint, two."""
    arguments = [
        ROOT / "scripts" / "pretrain.py",
        "--config",
        ROOT / "scripts" / "configs" / "photos_vit_tiny_dino_vmf.yaml",
        "--head.out_dim=64",
        "--model.options={img_size: 32, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",
        "--model.drop_path=0",
        "--head.batch_norm=false",
        "--run.precision=float64",
        "--run.max_steps=20",
        "--run.log_every=1",
        "--run-dir",
    ]
    found = {}
    for processes in (1, 2):
        torchrun(processes, *arguments, tmp_path / str(processes))
        found[processes] = read(tmp_path / str(processes) / "metrics.jsonl")
    torchrun(1, *arguments, tmp_path / "changed", "--run.max_steps=8")
    said = torchrun(2, *arguments, tmp_path / "changed")
    assert "2 process(es) now, 1 before: every step keeps its images and their crops" in said
    found["changed"] = read(tmp_path / "changed" / "metrics.jsonl")
    assert [len(lines) for lines in found.values()] == [20, 20, 20]
    for other in (2, "changed"):
        for one, two in zip(found[1], found[other], strict=True):
            for key, value in one.items():
                if not key.endswith("_top1"):
                    assert two[key] == pytest.approx(value, rel=1e-6), (key, one["step"])
        for accuracy in ("knn_top1", "linear_top1"):
            assert found[other][-1][accuracy] == pytest.approx(found[1][-1][accuracy], abs=0.01)
