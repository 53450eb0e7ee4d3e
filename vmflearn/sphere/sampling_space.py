r"""Samples in three dimensions, where two uniform numbers make one: the height w, and an angle around the mean.

The height has density :math:`\propto e^{\kappa w}`, whose distribution function has an inverse: with :math:`y = 1 - w`
and u uniform, :math:`y = -\log(1 - u(1 - e^{-2\kappa}))/\kappa`, and :math:`2u` at concentration 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from vmflearn.sphere.random_numbers import uniform

# Below this concentration y differs from 2u by less than rounding, and the quotient would be 0/0.
UNIFORM = 1e-17


def draw_in_space(
    loc: Tensor, kappa: Tensor | float, sample: Tensor, tangent: Tensor | None, generator: Generator | None
) -> Tensor:
    r"""Fill ``sample`` with :math:`(1 - y)\mu + \sqrt{y(2 - y)}\,v` and ``tangent`` with v; return y.

    Parameters
    ----------
    loc : Tensor (3,) or (\*batch_shape, 3)
        Mean directions, float64, where y is to be.
    kappa : number or Tensor (\*batch_shape)
        Concentrations, not negative; float64.
    sample, tangent : Tensor (\*sample_shape, \*batch_shape, 3)
        Contiguous, of any floating-point type, on any device.
    """
    shape = sample.shape[:-1]
    u, angle = uniform((2, *shape), loc.device, generator)
    gap = _gap(u, kappa)
    parts = gap.new_empty(3, *shape)
    torch.cos(angle.mul_(2 * math.pi), out=parts[1])
    torch.sin(angle, out=parts[2])
    frame = _frame(loc)
    if tangent is not None:
        _combine(parts[1:], frame[1:], tangent)
    parts[1:].mul_((2 - gap).mul_(gap).sqrt_())
    torch.sub(1, gap, out=parts[0])
    _combine(parts, frame, sample)
    return gap


def _gap(u: Tensor, kappa: Tensor | float) -> Tensor:
    """Y from a uniform number."""
    if not isinstance(kappa, Tensor):
        return u.mul_(2) if kappa < UNIFORM else u.mul_(math.expm1(-2 * kappa)).log1p_().div_(-kappa).clamp_(max=2)
    is_uniform = kappa < UNIFORM
    safe = torch.where(is_uniform, 1.0, kappa)
    return torch.where(is_uniform, 2 * u, torch.log1p(u * torch.expm1(-2 * safe)) / -safe).clamp_(max=2)


def _frame(loc: Tensor) -> list[list[Any]]:
    """Three unit vectors at right angles, loc the first (Duff et al. 2017): of numbers, or of tensors (...)."""
    single = loc.dim() == 1
    coordinates: Any = loc.tolist() if single else loc.unbind(-1)
    length: Any = math.hypot(*coordinates) if single else torch.linalg.vector_norm(loc, dim=-1)
    x, y, z = (c / length for c in coordinates)
    sign: Any = math.copysign(1.0, z) if single else torch.copysign(torch.ones_like(z), z)
    a = -1 / (sign + z)
    b = x * y * a
    return [[x, y, z], [1 + sign * x * x * a, sign * b, -sign * x], [b, sign + y * y * a, -y]]


def _combine(parts: Tensor, vectors: list[list[Any]], out: Tensor) -> None:
    """Write the sums over k of parts[k] times vectors[k] into ``out`` (..., 3)."""
    if isinstance(vectors[0][0], Tensor) or parts.device.type != "cpu":
        columns = zip(*vectors, strict=True)
        out.copy_(torch.stack([sum(p * x for p, x in zip(parts, column, strict=True)) for column in columns], dim=-1))
    else:  # NumPy's product is twice as fast as torch's with so few columns
        rows = parts.view(len(parts), -1).numpy().T
        fits = out.device.type == "cpu" and out.dtype == torch.float64
        product = np.matmul(rows, np.array(vectors), out=out.view(-1, 3).numpy() if fits else None)
        if not fits:
            out.copy_(torch.from_numpy(product).view(out.shape))
