"""torchrun is killed, and what it has started goes with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmflearn.train.runs.records import read_metrics

ROOT = Path(__file__).parents[1]
TINY = [
    "--model.options={img_size: 16, patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}",
    "--views.global_size=16",
    "--views.local_size=8",
    "--views.n_local=1",
    "--head.out_dim=32",
    "--head.hidden_dim=32",
    "--head.bottleneck_dim=16",
    "--optimizer.batch_size=8",
    "--run.epochs=10000",
    "--run.log_every=1",
    "--run.knn_every=0",
    "--run.device=cpu",
]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the process in /proc")
def test_a_process_ends_when_torchrun_is_killed(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command += [str(ROOT / "scripts" / "pretrain.py"), *TINY, f"--run-dir={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "log").open("w") as log:
        torchrun = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    worker = None
    try:
        end = time.monotonic() + 240
        while not read_metrics(tmp_path / "run" / "metrics.jsonl"):
            assert torchrun.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        (worker,) = children(torchrun.pid)
        torchrun.kill()
        torchrun.wait()
        end = time.monotonic() + 20
        while Path(f"/proc/{worker}").exists():
            assert time.monotonic() < end, "it trains on"
            time.sleep(0.1)
    finally:
        torchrun.kill()
        torchrun.wait()
        if worker is not None and Path(f"/proc/{worker}").exists():
            os.kill(worker, signal.SIGKILL)
    assert f"error: the process that started this one ({torchrun.pid}) is gone" in (tmp_path / "log").read_text()


def children(parent):
    """Numbers of the processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except OSError:  # it has just ended
            continue
    return found
