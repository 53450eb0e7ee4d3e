"""Random numbers for the samplers: NumPy's on a CPU, torch's elsewhere; ``torch.manual_seed`` rules both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor


class _TorchSeeds(ISeedSequence):
    """Words from torch's global generator, to seed one of NumPy's with."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return ``n_words`` random words; NumPy calls it."""
        return torch.randint(2**63 - 1, (n_words,)).numpy().astype(dtype)


def fast_generator(device: torch.device) -> Generator | None:
    """NumPy's generator, two to three times as fast as torch's for float64 numbers; none but for a CPU."""
    if device.type != "cpu":
        return None
    return Generator(np.random.SFC64(_TorchSeeds()))  # type: ignore[arg-type]


def fill_normal(rows: Tensor, generator: Generator | None) -> None:
    """Fill a contiguous block with standard normal numbers; torch's are the faster ones in float32."""
    if generator is None or rows.dtype != torch.float64:
        rows.normal_()
    else:
        generator.standard_normal(out=rows.numpy())


def uniform(shape: tuple[int, ...], device: torch.device, generator: Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), in float64."""
    if generator is None:
        return torch.rand(shape, dtype=torch.float64, device=device)
    return torch.from_numpy(generator.random(shape))
