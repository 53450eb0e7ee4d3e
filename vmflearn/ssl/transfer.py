"""Copies to the training device that the processor does not wait for."""

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
