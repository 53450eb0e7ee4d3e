"""One EM iteration on many rows, and the memory it takes; `sphere.py --large` runs this in a process of its own.

    python benchmarks/large_mixture.py ROWS DIM COMPONENTS

prints one JSON object. The peak is that of the whole process, interpreter, libraries and the rows included.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from measure import per_step

from vmflearn.sphere import VonMisesFisherMixture

TARGET_GIB = 3.0
BLOCK = 8192


def peak_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_rows(n: int, dim: int, n_components: int) -> np.ndarray:
    """Unit float32 rows in overlapping clusters, made block by block."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((n_components, dim), dtype=np.float32) / np.float32(dim**0.5)
    rows = np.empty((n, dim), dtype=np.float32)
    for first in range(0, n, BLOCK):
        block = rows[first : first + BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= np.float32(dim**-0.5)
        block += centers[rng.integers(n_components, size=len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def main() -> None:
    """Fit with one and with three iterations; the iteration is half the difference."""
    n, dim, n_components = map(int, sys.argv[1:])
    warnings.simplefilter("ignore")  # three iterations do not converge
    torch.set_num_threads(2)
    before = peak_gib()
    rows = make_rows(n, dim, n_components)
    start = rows[:n_components].copy()

    def fit(max_iter: int) -> int:
        return VonMisesFisherMixture(n_components, init=start, max_iter=max_iter, tol=0.0).fit(rows).n_iter_

    seconds = per_step(fit, 1, 3, clock=time.perf_counter)()
    found = {"seconds": seconds, "before_gib": before, "rows_gib": rows.nbytes / 2**30, "peak_gib": peak_gib()}
    print(json.dumps({**found, "target_gib": TARGET_GIB}))


if __name__ == "__main__":
    main()
