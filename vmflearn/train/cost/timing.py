"""Where the time of training goes: waiting for data, forward and backward, the rest; throughput, MFU and memory.

Nothing here waits for the device inside a step. On CUDA, marks are events in its stream, read when an interval ends and
the host has waited anyway; elsewhere they are times of the host.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from vmflearn import distributed
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.train.cost.counting import count_operations
from vmflearn.train.cost.matrix_rate import matrix_rate
from vmflearn.train.methods.base import Work

GIB = 2**30
PARTS = ("data", "forward_backward", "rest")
Item = TypeVar("Item")


class StepClock:
    """Divide the time of steps into parts, and sum it over an interval of several steps.

    `steps` goes around the loader, and `watch` looks at the optimiser, so that the step itself needs no clock:

    - ``data``: from the end of a step to the next one's crops, made on the device or waited for;
    - ``forward_backward``: until the optimiser's turn;
    - ``rest``: optimiser, teacher, centre, and what is measured and saved.

    Parameters
    ----------
    device : torch.device
        On "cuda" time is that of the device's stream, in which crops that are waited for leave a gap.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Begin an interval now: what lies between the last `read` and now counts for nothing."""
        self._marks = [("start", self._now())]
        self._waited, self._began = 0.0, time.perf_counter()

    def steps(self, loader: Iterable[Item]) -> Iterator[Item]:
        """Items of a loader, with the time that each of them takes to come counted as ``data``."""
        items = iter(loader)
        while True:
            asked = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            self._mark("data")
            yield item
            self._mark("rest")

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Let ``forward_backward`` end where the optimiser begins."""
        optimizer.register_step_pre_hook(lambda *_: self._mark("forward_backward"))

    def read(self) -> dict[str, float]:
        """What the interval was like up to now; waits for the device.

        Returns
        -------
        dict of float
            ``seconds``; ``data``, ``forward_backward`` and ``rest`` as shares of them, which sum to one; ``data_wait``,
            the share in which the host waited for the loader (on CUDA it may, while the device is busy).
        """
        self._mark("rest")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        spent = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            spent[part] += _between(before, after)
        seconds = time.perf_counter() - self._began
        total = sum(spent.values())
        shares = {part: value / total if total else 0.0 for part, value in spent.items()}
        return {"seconds": seconds, **shares, "data_wait": self._waited / seconds}

    def _mark(self, part: str) -> None:
        """The part that ends here."""
        self._marks.append((part, self._now()))

    def _now(self) -> "float | torch.cuda.Event":
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def _between(before: "float | torch.cuda.Event", after: "float | torch.cuda.Event") -> float:
    """Seconds between two marks."""
    if isinstance(before, float) and isinstance(after, float):
        return after - before
    assert isinstance(before, torch.cuda.Event)
    assert isinstance(after, torch.cuda.Event)
    return before.elapsed_time(after) / 1000


def peak_memory(device: torch.device) -> float | None:
    """Most memory held so far, in GiB: on CUDA by the device's tensors, elsewhere by the process; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


class Speedometer:
    """A clock with what turns its seconds into throughput and utilisation: the lines of timing.jsonl.

    Parameters
    ----------
    network : MultiCropNetwork
        The student, whose operations are counted.
    work : Work
        What a step computes for each image, see `Method.work`.
    device : torch.device
        Its matrix rate is measured now.
    precision : str
        ``run.precision`` of the configuration.

    Attributes
    ----------
    clock : StepClock
    operations : float
        Of a step, for each image.
    peak : float
        Matrix rate of all processes' devices together, taken for equal: operations a second.
    """

    def __init__(self, network: MultiCropNetwork, work: Work, device: torch.device, precision: str):
        self.operations = count_operations(network, work).total
        self.peak = matrix_rate(device, precision) * distributed.world_size()
        self.clock = StepClock(device)
        self._precision = precision

    def read(self, images: int) -> dict[str, float]:
        """Throughput, shares of the time, MFU and memory of the interval, in which all processes took ``images``."""
        shares = self.clock.read()
        rate, memory = images / shares["seconds"], peak_memory(self.clock.device)
        return {
            "images_per_second": rate,
            **shares,
            "mfu": rate * self.operations / self.peak,
            **({} if memory is None else {"memory_gib": memory}),
        }

    def __str__(self) -> str:
        return (
            f"a step takes {self.operations / 1e9:.4g} GFLOP an image; MFU is stated against "
            f"{self.peak / 1e12:.3g} TFLOP/s, the rate of {self._precision} matrix products measured now"
        )
