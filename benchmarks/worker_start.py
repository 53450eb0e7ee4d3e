"""What a loader's worker costs by the way it starts: processor time until it can read, and memory of its own.

`input_pipeline.py --workers` runs this file once for every row of its table, in a process of its own, which must not
have started workers before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from vmflearn.data import workers
from vmflearn.data.decoding import ImageSource
from vmflearn.data.sources import open_images

N_WORKERS, NAMES, IMAGES = 2, 200_000, 100
HEAD = [
    "start",
    "index",
    "training process, for each worker",
    "server, once",
    "worker, until it reads",
    "worker, an image",
    "private memory of a worker, at first",
    "after 200,000 names",
]


class Visits(Dataset):
    """A worker's own account of itself."""

    def __init__(self, source: ImageSource):
        self.source = source

    def __getitem__(self, seed: int) -> dict[str, float]:
        """Seconds of the processor, and memory in MB."""
        found = {"parent": os.getppid(), "ready": time.process_time(), "fresh": private_memory()}
        wanted = np.random.default_rng(seed).integers(0, len(self.source), NAMES).tolist()
        for index in wanted:
            self.source.path(index)
        found["visited"] = private_memory()
        start = time.process_time()
        for index in wanted[:IMAGES]:
            self.source.pixels(index, 512)
        return found | {"image": (time.process_time() - start) / IMAGES}


def private_memory() -> float:
    """MB that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def main(method: str, index: str, folder: str, n_images: int) -> None:
    """Print what was measured for one way to start and one kind of index, as JSON."""
    source = open_images(folder)
    names = [str(source.path(i % len(source))) for i in range(n_images)]
    source.labels = torch.zeros(n_images, dtype=torch.int64)
    source._files = type(source._files)(names) if index == "tensors" else names  # type: ignore[assignment]
    workers.START_METHOD = method
    loader = workers.WorkerLoader(Visits(source), workers=N_WORKERS, sampler=range(N_WORKERS), batch_size=None)
    start = time.process_time()
    batches = iter(loader)
    started = (time.process_time() - start) / N_WORKERS
    found = list(batches)
    mean = {key: float(np.mean([account[key] for account in found])) for key in found[0]}
    server = 0.0
    if method == "forkserver":
        fields = Path(f"/proc/{found[0]['parent']}/stat").read_text().rpartition(")")[2].split()
        server = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    print(json.dumps(mean | {"started": started, "server": server}))


def rows(folder: Path, n_images: int) -> list[list[str]]:
    """Rows of the table, each measured in a new process."""
    table = []
    for method in ("fork", "forkserver", "spawn"):
        for index in ("list", "tensors"):
            call = f"import worker_start; worker_start.main({method!r}, {index!r}, {str(folder)!r}, {n_images})"
            done = subprocess.run(
                [sys.executable, "-c", call], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True
            )
            it = json.loads(done.stdout)
            times = [f"{it[key]:.2f} s" for key in ("started", "server", "ready")]
            memory = [f"{it[key]:.0f} MB" for key in ("fresh", "visited")]
            table.append([method, index, *times, f"{1000 * it['image']:.2f} ms", *memory])
    return table
