"""Peak memory of one training step in a process of its own: `pretrain.py` runs this once for every way.

    python benchmarks/step_memory.py WAY BACKBONE BATCH COMPONENTS SIDE [SIDE ...]

Prints one line of JSON: what the step held at its height above weights, gradients, moments and crops, in MiB.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pretrain_cases
import torch
from loss_memory import resident_mib

WAYS = {
    "ours": pretrain_cases.Way,
    "ours, two parts": lambda sizes: pretrain_cases.Way(sizes, parts=2),
    "ours, four parts": lambda sizes: pretrain_cases.Way(sizes, parts=4),
    "ours, attention with its matrix": lambda sizes: pretrain_cases.Way(sizes, fused=False),
    "ours, all logits written down": pretrain_cases.WrittenLogits,
    "DINO's step, longhand": pretrain_cases.Longhand,
}


def main() -> None:
    """Measure one way once."""
    name, backbone, *numbers = sys.argv[1:]
    batch, components, *crops = map(int, numbers)
    sizes = SimpleNamespace(backbone=backbone, batch=batch, components=components, crops=crops)
    way, images = WAYS[name](sizes), pretrain_cases.make_crops(sizes)
    few = pretrain_cases.make_crops(SimpleNamespace(batch=4, crops=crops))
    way.step(few)  # moments and gradients are there from now on
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident_mib("VmRSS")
    way.step(images)
    print(json.dumps({"peak_mib": resident_mib("VmHWM") - before, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
