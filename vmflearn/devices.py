"""Between processor and device: copies that neither waits for."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device.

    From ordinary memory, a copy to a GPU first waits for all that the GPU was given to do. From pinned memory it takes
    its place in that queue.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Readback:
    """The values of a tensor, asked for now and read later.

    ``float(x)`` on a GPU waits for all that has been queued for it, and leaves it idle until the processor has queued
    something new. Here the copy is queued behind ``x`` itself, and `values` waits for that copy alone: what was queued
    in between (a backward pass, say) keeps the device busy meanwhile.

    Parameters
    ----------
    x : Tensor, (n,)
        On any device.
    """

    def __init__(self, x: Tensor):
        self._there, self._copied = x, None
        if x.device.type == "cuda":
            self._there = torch.empty_like(x, device="cpu", pin_memory=True)
            self._there.copy_(x, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(x.device))

    def values(self) -> list[float]:
        """The numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(value) for value in self._there]
