"""The matrix rate of a device: the height against which model FLOP utilisation (MFU) is stated."""

import time

import torch
from torch import Tensor

SIDES = {"cuda": 8192, "mps": 2048, "cpu": 512}
"""Sides of the square matrices: large enough for the device's full rate, small enough for a measurement of a moment."""


def matrix_rate(device: torch.device, precision: str, *, seconds: float = 0.1) -> float:
    """Floating-point operations a second of square matrix products, the best of short rounds.

    Parameters
    ----------
    device : torch.device
        Measured with the threads, and the settings of TF32, that the process has now.
    precision : str
        ``run.precision`` of a configuration: the type in which the step's products run.
    seconds : float
        How long it takes, roughly, after a first product that wakes the device.

    Notes
    -----
    PyTorch's random state is left as it was.
    """
    n, dtype = SIDES.get(device.type, 512), getattr(torch, precision)
    generator = torch.Generator(device).manual_seed(0)
    # Normal entries, not ones: a device that computes with zeros and ones draws less power and runs faster.
    a, b = (torch.randn(n, n, generator=generator, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    repeats = 10 if device.type == "cuda" else 1
    _products(a, b, out, repeats)
    times: list[float] = []
    while sum(times) < seconds:
        times.append(_products(a, b, out, repeats))
    return 2.0 * n**3 / min(times)


def _products(a: Tensor, b: Tensor, out: Tensor, repeats: int) -> float:
    """Seconds of one product."""
    _wait(a.device)
    start = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, b, out=out)
    _wait(a.device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
