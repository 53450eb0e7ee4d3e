"""The batch job, with `srun` and `scontrol` played by two short scripts: there is no SLURM where the tests run.

What is real: the job's own script, torchrun, two processes, the signal, the checkpoint, and the run that goes on.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmflearn.train.records import read_metrics

ROOT = Path(__file__).parents[2]
JOB = ROOT / "scripts" / "slurm" / "pretrain.sbatch"
SRUN = '#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/usr/bin/env bash\nif [[ $1 == show ]]; then echo localhost; echo other; else echo "$@" >> "$TOLD"; fi\n'


@pytest.fixture
def cluster(tmp_path):
    """Environment of a job on one node of two processors."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TOLD": str(tmp_path / "told"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "RDZV_PORT": "0",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def submit(environment, *arguments):
    command = ["bash", str(JOB), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_job_whose_time_is_over_saves_goes_back_into_the_queue_and_continues(tmp_path, cluster):
    run_dir = tmp_path / "run"
    arguments = [
        "scripts/configs/photos_vit_tiny_dino_vmf.yaml",
        "--head.out_dim=64",
        "--model.options={img_size: 32, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",
        "--views.n_local=1",
        "--run.log_every=1",
        "--run.knn_every=0",
        "--run-dir",
        run_dir,
    ]
    job = submit(cluster, *arguments, "--run.max_steps=100000", "--run.epochs=5000")
    while job.poll() is None and len(read_metrics(run_dir / "metrics.jsonl")) < 3:
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=120)
    assert job.returncode == 0, out
    assert "the same command continues from there" in out
    assert Path(cluster["TOLD"]).read_text() == "requeue 4711\n"
    reached = read_metrics(run_dir / "metrics.jsonl")[-1]["step"]
    job = submit(cluster, *arguments, f"--run.max_steps={reached + 2}", "--run.epochs=5000")
    out, _ = job.communicate(timeout=120)
    assert job.returncode == 0, out
    assert f"continuing {run_dir} at step {reached} of {reached + 2}" in out
    assert f"finished after {reached + 2} steps" in out
    assert Path(cluster["TOLD"]).read_text() == "requeue 4711\n"  # a run that is finished stays out of the queue


def test_a_job_that_fails_says_so_and_is_not_queued_again(tmp_path, cluster):
    job = submit({**cluster, "MAX_RESTARTS": "0"}, "absent.yaml")
    out, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "configuration absent.yaml cannot be read" in out
    assert not Path(cluster["TOLD"]).exists()


def test_a_job_without_a_configuration_is_refused(cluster):
    job = submit(cluster)
    assert "usage: sbatch scripts/slurm/pretrain.sbatch CONFIG" in job.communicate(timeout=20)[0]
    assert job.returncode == 2
