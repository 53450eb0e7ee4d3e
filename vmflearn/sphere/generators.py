"""Drawing from a generator of one's own, where the sampler draws from torch's global one.

The global generator takes over the state for as long as the draw lasts, and gives it back further on. That is right for
every draw within, whatever function makes it, and leaves the global stream where it was; other threads that draw in
the meantime would disturb it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor


@contextmanager
def drawing_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Put the generator in the place of the global one of its device, the CPU or a CUDA device."""
    if generator.device.type != device.type or generator.device.index not in (None, device.index):
        raise ValueError(
            f"generator is on {generator.device} and the samples are on {device}; make one with "
            f"torch.Generator('{device}')"
        )
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        default = torch.cuda.default_generators[index]
    elif device.type == "cpu":
        default = torch.default_generator
    else:
        raise ValueError(f"generator= is for samples on the CPU and on CUDA devices, not on {device}")
    before = default.get_state()
    default.set_state(generator.get_state())
    try:
        yield
        generator.set_state(default.get_state())
    finally:
        default.set_state(before)


def accepts_generator(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a ``sample`` or ``rsample`` of a distribution with a ``device`` take ``generator=``."""

    def drawing(
        self: Any,
        sample_shape: Any = torch.Size(),  # noqa: B008
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if generator is None:
            return method(self, sample_shape)
        if torch.compiler.is_compiling():
            raise RuntimeError("generator= cannot be used inside torch.compile; call torch.manual_seed before it")
        with drawing_from(generator, self.device):
            return method(self, sample_shape)

    update_wrapper(drawing, method)
    del drawing.__wrapped__  # type: ignore[attr-defined]  # the signature to show is this one
    return drawing
