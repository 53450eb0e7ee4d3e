"""Two processes under torchrun, on tar shards, and everything that goes wrong in a week of training, in a minute.

Processes are killed five times, a checkpoint is cut short, an image within a shard is damaged, the disk is full during
a save, and a scheduler asks for the node: the run must end with every step taken once, and say what happened.
"""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmflearn.data.shard_writing import write_shards
from vmflearn.train.runs.records import read_metrics

ROOT = Path(__file__).parents[2]
IMAGES, BATCH, EPOCHS, ACCIDENTS = 256, 64, 17, 6
EPOCH = IMAGES // BATCH
STEPS = EPOCH * EPOCHS
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four shards, with one image damaged in place after they were made."""
    images, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = images / f"class_{i % 2}" / f"{i:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(path, quality=90)
    write_shards(images, out, shard_size=64)
    shard = sorted(out.glob("*.tar"))[1]
    with tarfile.open(shard) as tar:
        member = next(m for m in tar.getmembers()[20:] if m.name.endswith(".jpg"))
    with shard.open("r+b") as file:
        file.seek(member.offset_data)
        file.write(bytes(member.size))
    return out, member.name


class Run:
    """One command, started as often as it takes; its output is gathered in one log."""

    def __init__(self, shards, folder, restarts):
        self.folder, self.log = folder, folder.with_suffix(".log")
        self.command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        self.command += [f"--max-restarts={restarts}", str(ROOT / "scripts" / "pretrain.py")]
        self.command += [
            "--model.backbone=vit_tiny_patch16_224",
            "--model.options={img_size: 16, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",  # one drops none
            "--model.drop_path=0.2",
            "--views.global_size=16",
            "--views.local_size=8",
            "--views.n_local=1",
            "--head.out_dim=64",
            "--head.hidden_dim=64",
            "--head.bottleneck_dim=16",
            f"--optimizer.batch_size={BATCH}",
            "--optimizer.warmup_epochs=2",
            f"--run.epochs={EPOCHS}",
            "--run.log_every=1",
            "--data.source=shards",
            f"--data.root={shards}",
            "--data.workers=1",
            f"--run-dir={folder}",
        ]

    def start(self):
        """Start the command."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self.log.open("a") as log:
            self.agent = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def finish(self):
        """Wait for its end; returns the exit status."""
        return self.agent.wait(timeout=240)

    def steps(self):
        """Steps in the records."""
        return [line["step"] for line in read_metrics(self.folder / "metrics.jsonl")]

    def wait_for(self, step):
        """Until the records have reached a step."""
        end = time.monotonic() + 120
        while not (self.steps() and self.steps()[-1] >= step):
            assert self.agent.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def process(self, rank):
        """Process number of a rank."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            if parent == self.agent.pid and b"RANK=%d" % rank in variables:
                return int(folder.name)
        raise AssertionError(f"no process of rank {rank}")


def newest(folder):
    return max((folder / "checkpoints").glob("step-*.pt"))


def test_the_run_ends_as_if_nothing_had_happened(tmp_path, shards):
    folder, damaged_image = shards
    whole = Run(folder, tmp_path / "whole", restarts=0)
    whole.start()
    assert whole.finish() == 0, whole.log.read_text()[-3000:]

    rng = random.Random(0)
    run = Run(folder, tmp_path / "run", restarts=12)
    run.start()
    reached = []
    for accident in range(ACCIDENTS):
        run.wait_for(8 * (accident + 1) + rng.randrange(4))
        if accident == ACCIDENTS - 1:  # no kill: no file may grow any more, as on a full disk; a checkpoint is due
            resource.prlimit(run.process(0), resource.RLIMIT_FSIZE, (100_000, 100_000))
            before, deadline = run.log.read_text().count("could not be written"), time.monotonic() + 60
            while run.log.read_text().count("could not be written") == before and time.monotonic() < deadline:
                time.sleep(0.02)
            reached.append(run.steps()[-1])
        else:
            reached.append(run.steps()[-1])
            # the first process writes checkpoints: once it is gone, the newest stays the newest
            os.kill(run.process(0 if accident == 2 else rng.randrange(2)), signal.SIGKILL)
        if accident == 2:
            time.sleep(0.2)  # the processes take seconds to be up again
            path = newest(run.folder)
            path.write_bytes(path.read_bytes()[:-1000])
        while run.log.read_text().count("continuing ") <= accident:
            assert run.agent.poll() is None, run.log.read_text()[-3000:]
            time.sleep(0.05)
    begun = int(re.findall(r"continuing .* at step (\d+) of", run.log.read_text())[-1])
    run.wait_for(max(STEPS - 8, begun + 1))  # it trains: a stop before that has nothing to save, and says so
    run.agent.send_signal(signal.SIGTERM)  # what a scheduler sends
    assert run.finish() != 0
    stopped = run.steps()[-1]
    assert stopped < STEPS, "the run ended before it could be stopped: make it longer"
    run.start()
    assert run.finish() == 0, run.log.read_text()[-3000:]

    log = run.log.read_text()
    continued = [int(step) for step in re.findall(r"continuing .* at step (\d+) of", log)]
    assert len(continued) == ACCIDENTS + 1
    for accident, (before, after) in enumerate(zip([*reached, stopped], continued, strict=True)):
        # one epoch between two checkpoints; one more where the newest was being written, and one where it was damaged
        assert after <= before
        assert before - after <= EPOCH * (2 + (accident == 2)), (accident, before, after)
    assert continued[-1] == stopped  # a stop that was asked for loses nothing
    assert re.search(r"checkpoint \S*step-000000\d\d.pt cannot be read", log)
    assert "going back to step-" in log
    assert re.search(r"error: checkpoint .* could not be written \(File too large\); earlier checkpoints are", log)
    assert f"stopped at step {stopped}; the same command continues from there" in log
    assert "error: another process was lost" in log
    assert re.search(rf"skipped unreadable image \S*{re.escape(damaged_image)}", log)

    assert run.steps() == list(range(1, STEPS + 1))
    found, wanted = (read_metrics(of.folder / "metrics.jsonl") for of in (run, whole))
    for one, other in zip(found, wanted, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5), one["step"]
    assert not list((run.folder / "checkpoints").glob("*.tmp"))
    assert (run.folder / "backbone.safetensors").exists()
