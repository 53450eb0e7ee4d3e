"""One batch ahead: on a GPU, copies and crops of the next batch run beside the step of this one.

They go to a CUDA stream of their own, so that the device works on them whenever the step leaves it something to spare.
On a CPU there is nothing to run beside, and each batch is made when it is asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


def prefetch(
    batches: Iterable[Batch], make: Callable[[Batch], tuple[list[Tensor], Tensor]], device: torch.device
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Make the crops of every batch, on a GPU one batch ahead.

    Parameters
    ----------
    batches
        On the CPU; pinned, if the processor is not to wait for the copy.
    make
        Copies a batch to `device` and makes its crops; returns them with the images' indices, which stay on the CPU.
    device
    """
    if device.type != "cuda":
        yield from map(make, batches)
        return
    beside = torch.cuda.Stream(device)
    ahead = None
    for batch in batches:
        with torch.cuda.stream(beside):
            made, ready = make(batch), torch.cuda.Event()
            ready.record(beside)
        if ahead is not None:
            yield _hand_over(*ahead)
        ahead = made, ready
    if ahead is not None:
        yield _hand_over(*ahead)


def _hand_over(made: tuple[list[Tensor], Tensor], ready: torch.cuda.Event) -> tuple[list[Tensor], Tensor]:
    """Let the step's stream wait for the crops, and the allocator keep them until that stream is done with them."""
    step = torch.cuda.current_stream(made[0][0].device)
    step.wait_event(ready)
    for crop in made[0]:
        crop.record_stream(step)
    return made
