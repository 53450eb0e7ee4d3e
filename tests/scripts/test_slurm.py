"""The batch job on a real SLURM: what clusters do to jobs, and what is left of the run afterwards.

Nothing is played: two nodes on this machine run SLURM's daemons, jobs are submitted, signalled, cancelled, preempted
and queued again by its commands, and the processes of the run talk over gloo. Only the waits are shortened: a job that
was put back would wait two minutes, and a time limit is announced by hand with the signal that SLURM would send.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmflearn.train.runs.records import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = "scripts/slurm/pretrain.sbatch"
STEPS, LONG = 150, 100_000
TINY = """
name: tiny
model:
  backbone: vit_tiny_patch16_224
  options: {{img_size: 16, patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}}
views: {{global_size: 16, local_size: 8, n_local: 1}}
head: {{out_dim: 32, hidden_dim: 32, bottleneck_dim: 16}}
optimizer: {{batch_size: 8, warmup_epochs: 1}}
data: {{source: folder, root: {images}}}
run: {{epochs: 50000, log_every: 1, device: cpu}}
"""
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


class Run:
    """A pretraining run as a batch job."""

    def __init__(self, cluster, folder, *options, steps=STEPS, **variables):
        given = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MIN_SECONDS": "0"}
        arguments = [folder.parent / "tiny.yaml", f"--run.max_steps={steps}", f"--run-dir={folder}"]
        options = ["--gpus-per-node=1", "--time=10", *options]
        self.folder = folder
        self.job = cluster.submit(*options, SCRIPT, *arguments, **{**given, **variables})

    def steps(self):
        """Steps in the records."""
        return [line["step"] for line in read_metrics(self.folder / "metrics.jsonl")]

    def reach(self, step):
        """Wait until the records have reached a step; returns the one they have reached."""
        end = time.monotonic() + 240
        while not (self.steps() and self.steps()[-1] >= step):
            assert self.job.JobState in ("PENDING", "RUNNING"), self.job.text()
            assert time.monotonic() < end, self.job.text()
            time.sleep(0.05)
        return self.steps()[-1]

    def saved(self):
        """Step of the newest checkpoint."""
        return int(max((self.folder / "checkpoints").glob("step-*.pt")).stem.removeprefix("step-"))

    def continued(self):
        """Steps at which the run says that it has gone on."""
        return [int(step) for step in re.findall(r"continuing \S+ at step (\d+) of", self.job.text())]

    def process(self, node, worker):
        """Number of the torchrun of a node, or of the process that it has started."""
        wanted = [b"SLURM_JOB_ID=%d" % self.job.number, b"SLURM_NODEID=%d" % node]
        for found in Path("/proc").glob("[0-9]*"):
            try:
                variables, words = ((found / name).read_bytes().split(b"\0") for name in ("environ", "cmdline"))
            except OSError:  # it has just ended
                continue
            script = b"scripts/pretrain.py" if worker else b"scripts/slurm/launch.py"
            if set(wanted) <= set(variables) and script in words[1:3]:
                return int(found.name)
        raise AssertionError(f"not found on node {node}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The images and the configuration of a very small run."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / "images" / f"{i:02}.png")
    (folder / "tiny.yaml").write_text(TINY.format(images=folder / "images"))
    return folder


def test_time_is_over_and_another_job_on_the_node_goes_on(cluster, folder):
    whole, run = (Run(cluster, folder / name, "--nodelist=node1") for name in ("whole", "stopped"))
    run.reach(3)
    step = cluster.run("scontrol", "show", "step", "-o", f"{run.job.number}.0")
    assert "CPUs=64 Tasks=1" in step  # all that the job has asked for
    run.job.signal("--batch", "--signal=USR1")
    run.job.start_now()
    stopped = run.saved()
    assert run.steps()[-1] == stopped < STEPS  # nothing is lost
    assert run.job.Restarts == "1"
    assert "put back into the queue" in run.job.text()
    for job in (whole.job, run.job):
        job.wait_for("COMPLETED")
        assert f"finished after {STEPS} steps" in job.text()
        assert "Traceback" not in job.text()
    assert run.continued() == [stopped]
    metrics = [(one.folder / "metrics.jsonl").read_bytes() for one in (whole, run)]
    assert metrics[0] == metrics[1]
    assert not list(ROOT.glob("*.saved"))


def test_a_job_is_queued_again_by_hand(cluster, folder):
    run = Run(cluster, folder / "again", steps=LONG)
    run.reach(8)
    cluster.run("scontrol", "requeue", run.job.number)
    run.job.start_now()
    reached = run.steps()[-1]
    run.reach(reached + 1)
    (first,) = run.continued()
    assert 0 < first <= reached
    run.job.signal("--signal=USR1")  # reaches the run, and not the batch script
    run.job.wait_for("PENDING")
    assert run.job.Restarts == "2"
    assert run.steps() == list(range(1, run.saved() + 1))
    run.job.signal()


def test_a_preempted_job_makes_room_and_goes_on(cluster, folder):
    run = Run(cluster, folder / "preempted", "--nodelist=node2")
    run.reach(3)
    other = cluster.submit("--partition=high", "--nodelist=node2", "--gpus-per-node=8", "--wrap=sleep 3")
    run.job.start_now()
    stopped = run.saved()
    assert run.steps()[-1] == stopped
    other.wait_for("COMPLETED")
    run.job.wait_for("COMPLETED")
    assert run.continued() == [stopped]
    assert run.steps() == list(range(1, STEPS + 1))


def test_what_is_killed_on_one_of_two_nodes_is_started_again_and_what_is_cancelled_is_not(cluster, folder):
    run = Run(cluster, folder / "lost", "--nodes=2", steps=LONG)
    for times, worker in enumerate((True, False), start=1):
        reached = run.reach(times * 6)
        os.kill(run.process(node=1, worker=worker), signal.SIGKILL)
        while len(run.continued()) < times:
            assert run.job.wait_for("RUNNING")
            time.sleep(0.1)
        run.reach(reached + 1)
    run.job.signal()
    run.job.wait_for("CANCELLED")
    assert "cancelled; the same command goes on" in run.job.text()
    time.sleep(1)
    assert run.job.JobState == "CANCELLED"
    assert run.job.Restarts == "0"
    assert "2 process(es)" in run.job.text()
    assert run.job.text().count("torchrun was killed on a node") == 1
    assert run.steps() == list(range(1, run.saved() + 1))


def test_what_fails_or_is_told_to_stop_at_once_is_not_queued_again(cluster, folder):
    wrong = Run(cluster, folder / "wrong", steps="many", MAX_RESTARTS="0")
    bare = Run(cluster, folder / "bare", PYTHON="/bin/false")
    short = Run(cluster, folder / "short", steps=LONG, MIN_SECONDS="1000")
    empty = cluster.submit(SCRIPT)
    short.reach(1)
    short.job.signal("--batch", "--signal=USR1")
    for job, words in (
        (wrong.job, "run.max_steps"),
        (bare.job, "error: /bin/false has no PyTorch"),
        (short.job, "told to stop within a minute"),
        (empty, "usage: sbatch scripts/slurm/pretrain.sbatch CONFIG"),
    ):
        job.wait_for("FAILED")
        assert job.Restarts == "0"
        assert words in job.text()
        assert "Traceback" not in job.text()
    assert short.saved() == short.steps()[-1]
