"""One soft EM iteration on many rows in a memory-mapped file, its two matrix products, and the memory that it takes.

    python benchmarks/large_mixture.py ROWS DIM COMPONENTS [FOLDER]

writes the rows to FOLDER (a temporary one otherwise), on two threads, and prints one JSON object. Memory is what the
process has of its own at its peak, interpreter and libraries included: pages of the file are the system's to drop.
`sphere.py --large` runs this in a process of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from measure import per_step
from mixture_cases import products

from vmflearn.sphere import VonMisesFisherMixture

TARGET_GIB = 2.0
TARGET_RATIO = 1.3
BLOCK = 8192
PERIOD = 0.02  # seconds between two looks at the memory


def own_gib() -> float:
    """Memory of this process that no file stands behind, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("/proc/self/status has no line RssAnon; this script needs Linux")


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Look at the memory all the time; the list holds the largest so far."""
    largest, done = [own_gib()], threading.Event()

    def watch() -> None:
        while not done.wait(PERIOD):
            largest[0] = max(largest[0], own_gib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield largest
    finally:
        done.set()
        watcher.join()


def write_rows(path: Path, n: int, dim: int, n_components: int) -> np.ndarray:
    """Write unit float32 rows in overlapping clusters, block by block, and map them for reading."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((n_components, dim), dtype=np.float32) / np.float32(dim**0.5)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, dim))
    for first in range(0, n, BLOCK):
        block = rng.standard_normal((min(BLOCK, n - first), dim), dtype=np.float32)
        block *= np.float32(dim**-0.5)
        block += centers[rng.integers(n_components, size=len(block))]
        rows[first : first + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()
    return np.load(path, mmap_mode="r")


def measure(rows: np.ndarray, n_components: int) -> dict[str, float]:
    """Fit with one and with three iterations, of which the iteration is half the difference, and take the products."""
    start = np.array(rows[:n_components])

    def fit(max_iter: int) -> int:
        return VonMisesFisherMixture(n_components, init=start, max_iter=max_iter, tol=0.0).fit(rows).n_iter_

    run = products(rows, start)
    run()  # the file is in memory now, as far as it fits: the shorter fit alone would have read it, and be taken off
    with watched_memory() as largest:
        before = own_gib()
        seconds = per_step(fit, 1, 3, clock=time.perf_counter)()
    begin = time.perf_counter()
    run()
    floor = time.perf_counter() - begin
    return {"seconds": seconds, "products": floor, "before_gib": before, "peak_gib": largest[0]}


def main() -> None:
    """Write, measure, print."""
    n, dim, n_components = map(int, sys.argv[1:4])
    warnings.simplefilter("ignore")  # three iterations do not converge, and the map cannot be written to
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(dir=sys.argv[4] if len(sys.argv) > 4 else None) as folder:
        found = measure(write_rows(Path(folder) / "rows.npy", n, dim, n_components), n_components)
    print(json.dumps({**found, "target_gib": TARGET_GIB, "target_ratio": TARGET_RATIO}))


if __name__ == "__main__":
    main()
