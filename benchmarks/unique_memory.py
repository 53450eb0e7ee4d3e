"""Time and peak memory of counting unique prototypes; `distillation.py` runs this in a process of its own.

    python benchmarks/unique_memory.py distinct|duplicates K DIM

prints one JSON object. "distinct": random directions, of which hardly any two are similar, so that all are compared
with all; "duplicates": a thousand directions, each many times over with a little noise, as the paper finds them. Two
threads; the peak is what comes on top of the prototypes themselves.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from loss_memory import resident_mib

from vmflearn.ssl import unique_prototypes


def main() -> None:
    """Count once."""
    kind, (n, dim) = sys.argv[1], map(int, sys.argv[2:])
    torch.set_num_threads(2)
    torch.manual_seed(0)
    w = torch.randn(n, dim)
    if kind == "duplicates":
        w = torch.randn(min(1000, n), dim)[torch.randint(min(1000, n), (n,))] + 0.1 * w
    w = F.normalize(w, dim=-1)
    unique_prototypes(w[: min(64, n)])  # what libraries load at their first use does not count
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = resident_mib("VmRSS"), time.perf_counter()
    use = unique_prototypes(w)
    seconds = time.perf_counter() - start
    found = {
        "seconds": seconds,
        "peak_mib": resident_mib("VmHWM") - before,
        "unique": use.count,
        "largest": use.largest,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
