"""The sampler as one operator that ``torch.compile`` and ``torch.func`` call without looking inside.

Its loop of proposals ends when all are accepted: no graph of fixed size holds it, and it is not to be traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vmflearn.sphere.sampling import double_device, draw


@torch.library.custom_op("vmflearn::draw_von_mises_fisher", mutates_args=())
def draw_opaque(loc: Tensor, kappa: Tensor, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Sample, tangent and gap of `vmflearn.sphere.sampling.draw`."""
    shape = torch.Size(sample_shape)
    tangent = loc.new_empty(shape + loc.shape)
    sample, gap = draw(loc, kappa, shape, tangent)
    return sample.clone() if sample.data_ptr() == loc.data_ptr() else sample, tangent, gap


@draw_opaque.register_fake
def _shapes(loc: Tensor, kappa: Tensor, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    shape = [*sample_shape, *loc.shape]
    gap = torch.empty(shape[:-1], dtype=torch.float64, device=double_device(loc.device))
    return loc.new_empty(shape), loc.new_empty(shape), gap


@draw_opaque.register_vmap
def _batched(
    info: Any, in_dims: tuple[int | None, int | None, None], loc: Tensor, kappa: Tensor, sample_shape: Sequence[int]
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
    if info.randomness != "different":
        raise RuntimeError(f"vmap over samples needs randomness='different', got {info.randomness!r}")
    loc, kappa = (
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in ((loc, in_dims[0]), (kappa, in_dims[1]))
    )
    where = len(sample_shape)
    return draw_opaque(loc, kappa, sample_shape), (where, where, where)
