"""Peak memory of one way to the loss and its gradients; `distillation.py` runs this in processes of its own.

    python benchmarks/loss_memory.py prototype_loss|dino_loss CROPS BATCH COMPONENTS DIM

prints one JSON object: the peak above what is there before (inputs, parameters, and gradients of both), and the size
of one matrix of the student's logits. The peak is the resident memory's, which Linux alone counts from a point on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from vmflearn.ssl import Prototypes, dino_loss, prototype_loss

STUDENT_TEMP = 0.1


def resident_mib(entry: str) -> float:
    """A number of /proc/self/status: VmRSS is the memory now, VmHWM its peak since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {entry}")


def main() -> None:
    """Measure one way once."""
    way, (crops, batch, components, dim) = sys.argv[1], map(int, sys.argv[2:])
    torch.set_num_threads(1)
    torch.manual_seed(0)

    def step(inputs: tuple[torch.Tensor, torch.Tensor, Prototypes]) -> None:
        y, targets, prototypes = inputs
        if way == "prototype_loss":
            prototype_loss(y, prototypes, STUDENT_TEMP, targets).backward()
        else:
            dino_loss(prototypes(y, STUDENT_TEMP), targets).backward()

    def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, Prototypes]:
        y = F.normalize(torch.randn(crops, batch, dim), dim=-1).requires_grad_()
        prototypes = Prototypes(dim, n, "vmf")
        for leaf in (y, *prototypes.parameters()):
            leaf.grad = torch.zeros_like(leaf)
        return y, torch.randn(2, batch, n).softmax(dim=-1), prototypes

    step(inputs(64))  # what libraries load at their first use is not the loss's
    whole = inputs(components)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident_mib("VmRSS")
    step(whole)
    peak = resident_mib("VmHWM") - before
    print(json.dumps({"peak_mib": peak, "logits_mib": crops * batch * components * 4 / 2**20}))


if __name__ == "__main__":
    main()
