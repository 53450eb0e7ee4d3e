r"""Drawing from the von Mises-Fisher distribution: a height along the mean direction, and a direction across it.

A sample is :math:`x = w\mu + \sqrt{1 - w^2}\,v` with v uniform among the unit vectors orthogonal to :math:`\mu`, and w
of density proportional to :math:`e^{\kappa w}(1 - w^2)^{(p-3)/2}`. The height is drawn as :math:`y = 1 - w`, which at
large concentration is small and would be lost in the rounding of w; :math:`1 - w^2 = y(2 - y)`.

The height is drawn by rejection and v made of normal numbers; three dimensions have a shorter way
(`vmflearn.sphere.sampling_space`).

Heights are computed in float64, on the CPU where the device has no float64. Directions are computed in the dtype of
the mean direction, in few dimensions and for half precision in a wider one. ``torch.manual_seed`` makes all of it
reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from vmflearn.sphere.kernels import keep_freed_memory
from vmflearn.sphere.random_numbers import fast_generator, fill_normal, uniform
from vmflearn.sphere.sampling_space import draw_in_space

# At larger concentrations y is of the order of the smallest float64; the sample is the mean direction all the same.
LARGEST_CONCENTRATION = 1e300
# Below this dimension a Gaussian vector may lie so close to the mean direction that its part across has lost digits:
# it is computed in float64 and orthogonalised twice. From here on that happens less than once in 1e15 vectors.
FEW_DIMENSIONS = 16
# Numbers in a block of rows on the CPU, where they stay in the cache from the Gaussian draw to the finished sample.
BLOCK = 2**18


def double_device(device: torch.device) -> torch.device:
    """Return the device for float64 work: ``device`` itself, or the CPU for MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def draw(loc: Tensor, kappa: Tensor, sample_shape: torch.Size, tangent: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Draw ``sample_shape`` samples for each mean direction and concentration.

    Parameters
    ----------
    loc : Tensor (\*batch_shape, dim)
        Mean directions, of unit length.
    kappa : Tensor (\*batch_shape)
        Concentrations, not negative; where one is infinite the sample is the mean direction itself.
    sample_shape : torch.Size
        Leading shape of the samples.
    tangent : Tensor (\*sample_shape, \*batch_shape, dim), optional
        Contiguous, of the dtype and device of ``loc``; it is filled with v. It does not change the sample.

    Returns
    -------
    sample : Tensor (\*sample_shape, \*batch_shape, dim)
        x, in the dtype and on the device of ``loc``.
    gap : Tensor (\*sample_shape, \*batch_shape)
        :math:`y = 1 - w`, in float64, on `double_device`.
    """
    dim, device = loc.shape[-1], double_device(loc.device)
    shape = sample_shape + loc.shape[:-1]
    mean, kappas = _one_of(loc, 1), _one_of(kappa, 0).to(device, torch.float64)
    kappa_or_number: Tensor | float = kappas if kappas.dim() else kappas.item()
    some_are_points = bool(torch.isinf(kappas).any()) if kappas.dim() else kappa_or_number == math.inf
    generator = fast_generator(loc.device)
    keep_freed_memory()
    sample = torch.empty(*shape, dim, dtype=loc.dtype, device=loc.device)
    if dim == 3:
        gap = draw_in_space(mean.to(device, torch.float64), kappa_or_number, sample, tangent, generator)
    else:
        gap = sample_complement(kappa_or_number, dim, shape, generator, device)
        _place(mean, gap.view(-1), sample.view(-1, dim), None if tangent is None else tangent.view(-1, dim), generator)
    if some_are_points:  # to the last bit, which normalisation may change
        point_mass = torch.isinf(kappas)
        gap = gap.masked_fill_(point_mass, 0.0)
        sample = torch.where(point_mass.to(loc.device).unsqueeze(-1), loc, sample)
    return sample, gap


def _one_of(x: Tensor, n_kept: int) -> Tensor:
    """Without its leading axes, all but the last ``n_kept``, where they repeat one element."""
    leading = x.dim() - n_kept
    repeats = all(x.stride(i) == 0 or x.shape[i] == 1 for i in range(leading))
    return x[(0,) * leading] if repeats and x.numel() else x


def sample_complement(
    kappa: Tensor | float, dim: int, shape: torch.Size, generator: Generator | None, device: torch.device
) -> Tensor:
    """Draw y = 1 - mu . x, in [0, 2], of ``shape`` on ``device``, for dim != 3; float64.

    Rejection from the envelope of Ulrich (1984) and Wood (1994), until every element has its draw. The acceptance rate
    is 1 at concentration 0 and never below 0.65 (dim 2, large concentration). ``kappa`` (not negative) is a number or
    a float64 tensor that is broadcast to ``shape``.
    """
    envelope = _envelope(kappa.reshape(-1) if isinstance(kappa, Tensor) else kappa, dim)
    n_kappas = kappa.numel() if isinstance(kappa, Tensor) else 1
    if not shape.numel():
        return torch.empty(shape, dtype=torch.float64, device=device)
    y, accepted = _propose(envelope, dim, (shape.numel() // n_kappas, n_kappas), generator, device)
    y = y.view(-1)
    pending = _where_not(accepted.view(-1))
    while pending.numel():
        own = [x[pending % n_kappas] for x in envelope] if isinstance(kappa, Tensor) else envelope
        # Several proposals for each pending element when few are left: the tail takes one round, not ten.
        repeats = max(1, min(16, 2048 // pending.numel()))
        proposal, accepted = _propose(own, dim, (repeats, pending.numel()), generator, device)
        y[pending] = proposal.gather(0, accepted.int().argmax(0, keepdim=True))[0]
        pending = pending[_where_not(accepted.any(0))]
    return y.view(shape)


def _envelope(kappa: Any, dim: int) -> Sequence[Any]:
    r"""Numbers or vectors of the envelope: :math:`b, \kappa, 1 - x_0`, and the constant of the log ratio."""
    d, several = dim - 1, isinstance(kappa, Tensor)
    kappa = kappa.clamp(max=LARGEST_CONCENTRATION) if several else min(kappa, LARGEST_CONCENTRATION)
    root = torch.hypot(2 * kappa, torch.full_like(kappa, d)) if several else math.hypot(2 * kappa, d)
    b = d / (root + 2 * kappa)
    start, scale = 2 * b / (1 + b), (1 + b) ** 2 / (4 * b)
    return b, kappa, start, kappa * start + d * (torch.log(scale) if several else math.log(scale))


def _where_not(mask: Tensor) -> Tensor:
    """Indices at which a vector is false; NumPy's search is several times as fast as torch's."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(~mask.numpy()))
    return torch.nonzero(~mask)[:, 0]


def _propose(
    envelope: Sequence[Any], dim: int, shape: tuple[int, int], generator: Generator | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    r"""One proposal of y for each element, and whether it is accepted; both of ``shape``.

    :math:`y = 2bz / (1 - (1 - b)z)` with z of law Beta(d/2, d/2), d = dim - 1. That is :math:`(1 + t)/2` for a
    coordinate t of a uniform point of the sphere in d + 1 dimensions, two of whose coordinates have a uniform direction
    and the length r, :math:`1 - r^2 = u^{2/(d-1)}` (Ulrich 1984). With half the angle, :math:`\phi`, nothing cancels:
    :math:`z = (1 - r^2)/2(1 + r) + r\cos^2\phi`.
    """
    b, kappa, start, offset = envelope
    u, angle, test = uniform((3, *shape), device, generator)
    rest = u.log_().mul_(2 / (dim - 2) if dim > 2 else math.inf).exp_()
    r = (1 - rest).sqrt_()
    z = rest.div_((2 * r).add_(2)).addcmul_(r, angle.mul_(math.pi).cos_().square_())
    y = (2 * b * z).div_(z.mul_(b - 1).add_(1))
    log_ratio = (y * (1 - start)).add_(start).log_().mul_(dim - 1).add_(offset).sub_(kappa * y)
    # Written so that an unchecked NaN is accepted, and seen in the sample, rather than proposed for ever.
    return y, ~(test.log_() > log_ratio)


def _place(loc: Tensor, gap: Tensor, sample: Tensor, tangent: Tensor | None, generator: Generator | None) -> None:
    r"""Fill the rows of ``sample`` with :math:`(1 - y)\mu + \sqrt{y(2 - y)}\,v`, and those of ``tangent`` with v."""
    n, dim = sample.shape
    double = loc.dtype == torch.float64 or (dim < FEW_DIMENSIONS and double_device(loc.device) == loc.device)
    working = torch.float64 if double else torch.float32
    means = loc.reshape(-1, dim).to(working)
    means = means / torch.linalg.vector_norm(means, dim=-1, keepdim=True)
    gap = gap.unsqueeze(-1)
    cosines = (1 - gap).to(loc.device, working)
    sines = (2 - gap).mul_(gap).sqrt_().to(loc.device, working)
    size = max(1, BLOCK // dim) if loc.device.type == "cpu" else max(1, n)
    for first in range(0, n, size):
        block = slice(first, first + size)
        rows = sample[block] if sample.dtype == working else torch.empty_like(sample[block], dtype=working)
        mu = means
        if len(means) > 1:
            mu = means[torch.arange(first, first + len(rows), device=loc.device) % len(means)]
        fill_normal(rows, generator)
        if dim < FEW_DIMENSIONS:
            rows.addcmul_(mu, _dot(rows, mu), value=-1)
            rows.div_(torch.linalg.vector_norm(rows, dim=-1, keepdim=True))
        along = _dot(rows, mu)
        across = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_().addcmul_(along, along, value=-1).sqrt_()
        if tangent is not None:
            tangent[block] = torch.addcmul(rows, mu, along, value=-1).div_(across)
        stretch = sines[block] / across
        rows.mul_(stretch).addcmul_(mu, torch.addcmul(cosines[block], stretch, along, value=-1))
        if sample.dtype != working:
            sample[block] = rows


def _dot(rows: Tensor, mu: Tensor) -> Tensor:
    """Inner products of rows (n, dim) with mu (1 or n, dim), as (n, 1).

    Not by a product of two matrices, which a process may have set to fewer digits (TF32, bfloat16).
    """
    return (rows @ mu[0]).unsqueeze(-1) if len(mu) == 1 else (rows * mu).sum(-1, keepdim=True)
