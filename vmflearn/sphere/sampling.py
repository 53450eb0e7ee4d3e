r"""Drawing from the von Mises-Fisher distribution: a height along the mean direction, and a direction across it.

A sample is :math:`x = w\mu + \sqrt{1 - w^2}\,v` with v uniform among the unit vectors orthogonal to :math:`\mu`, and w
of density proportional to :math:`e^{\kappa w}(1 - w^2)^{(p-3)/2}`. The height is drawn as :math:`y = 1 - w`, which at
large concentration is small and would be lost in the rounding of w; :math:`1 - w^2 = y(2 - y)`.

Heights are computed in float64, on the CPU where the device has no float64. Directions are computed in the dtype of
the mean direction, in few dimensions and for half precision in a wider one. ``torch.manual_seed`` makes all of it
reproducible.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# At larger concentrations y is of the order of the smallest float64; the sample is the mean direction all the same.
LARGEST_CONCENTRATION = 1e300
# Below this dimension a Gaussian vector may lie so close to the mean direction that its part across has lost digits:
# it is computed in float64 and orthogonalised twice. From here on that happens less than once in 1e15 vectors.
FEW_DIMENSIONS = 16
# Numbers in a block of rows on the CPU, where they stay in the cache from the Gaussian draw to the finished sample.
BLOCK = 2**17


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
    dim, shape = loc.shape[-1], sample_shape + loc.shape[:-1]
    kappa = kappa.to(double_device(loc.device), torch.float64).expand(shape)
    point_mass = torch.isinf(kappa)
    gap = torch.where(point_mass, 0.0, sample_complement(kappa, dim))
    sample = torch.empty(*shape, dim, dtype=loc.dtype, device=loc.device)
    _place(loc, gap.reshape(-1), sample.view(-1, dim), None if tangent is None else tangent.view(-1, dim))
    if bool(point_mass.any()):
        where = point_mass.to(loc.device).unsqueeze(-1)
        sample = torch.where(where, loc, sample)  # to the last bit, which normalisation may change
    return sample, gap


def sample_complement(kappa: Tensor, dim: int) -> Tensor:
    """Draw y = 1 - mu . x, in [0, 2], for each element of ``kappa`` (float64, not negative)."""
    flat = kappa.reshape(-1).clamp(max=LARGEST_CONCENTRATION)
    y = _exact_sphere(flat) if dim == 3 else _by_rejection(flat, dim)
    return y.reshape(kappa.shape)


def _exact_sphere(kappa: Tensor) -> Tensor:
    r"""Draw y in three dimensions, where w has density :math:`\propto e^{\kappa w}`: invert its distribution function.

    :math:`y = -\log(1 - u(1 - e^{-2\kappa}))/\kappa`, and :math:`2u` at concentration 0.
    """
    u = torch.rand_like(kappa)
    # Below this concentration y differs from 2u by less than rounding, and the quotient would be 0/0.
    uniform = kappa < 1e-17
    safe = torch.where(uniform, 1.0, kappa)
    return torch.where(uniform, 2 * u, -torch.log1p(u * torch.expm1(-2 * safe)) / safe).clamp(0, 2)


def _by_rejection(kappa: Tensor, dim: int) -> Tensor:
    """Rejection from the envelope of Ulrich (1984) and Wood (1994), until every element has its draw.

    The acceptance rate is 1 at concentration 0 and never below 0.65 (dim 2, large concentration).
    """
    generator = _fast_generator() if kappa.device.type == "cpu" else None
    y = torch.empty_like(kappa)
    pending = torch.arange(kappa.numel(), device=kappa.device)
    while pending.numel():
        # Several proposals for each pending element when few are left: the tail takes one round, not ten.
        repeats = max(1, min(16, 1024 // pending.numel()))
        proposal, accepted = _propose(kappa[pending].expand(repeats, -1), dim, generator)
        first = accepted.int().argmax(0, keepdim=True)
        found = accepted.any(0)
        y[pending[found]] = proposal.gather(0, first)[0, found]
        pending = pending[~found]
    return y


def _propose(kappa: Tensor, dim: int, generator: np.random.Generator | None) -> tuple[Tensor, Tensor]:
    """One proposal of y for each element, and whether it is accepted."""
    d = dim - 1
    b = d / (torch.hypot(2 * kappa, torch.full_like(kappa, d)) + 2 * kappa)
    z = _symmetric_beta(d / 2, kappa, generator)
    y = 2 * b * z / (1 - (1 - b) * z)
    x0 = (1 - b) / (1 + b)
    start = 2 * b / (1 + b)  # 1 - x0
    log_ratio = kappa * (start - y) + d * torch.log((start + x0 * y) * (1 + b) ** 2 / (4 * b))
    # Written so that an unchecked NaN is accepted, and seen in the sample, rather than proposed for ever.
    return y, ~(torch.log(torch.rand_like(kappa)) > log_ratio)


def _symmetric_beta(half: float, like: Tensor, generator: np.random.Generator | None) -> Tensor:
    """Draw Beta(half, half) variables of the shape of ``like``."""
    if generator is not None:
        return torch.from_numpy(generator.beta(half, half, like.shape))
    shape = torch.full_like(like, half)
    return torch.distributions.Beta(shape, shape, validate_args=False).sample()


def _place(loc: Tensor, gap: Tensor, sample: Tensor, tangent: Tensor | None) -> None:
    r"""Fill the rows of ``sample`` with :math:`(1 - y)\mu + \sqrt{y(2 - y)}\,v`, and those of ``tangent`` with v."""
    n, dim = sample.shape
    few = dim < FEW_DIMENSIONS
    double = loc.dtype == torch.float64 or (few and double_device(loc.device) == loc.device)
    working = torch.float64 if double else torch.float32
    single = all(stride == 0 or size == 1 for stride, size in zip(loc.stride()[:-1], loc.shape[:-1], strict=True))
    means = (loc[(0,) * (loc.dim() - 1)] if single and n else loc).reshape(-1, dim).to(working)
    means = torch.nn.functional.normalize(means, dim=-1)

    gap = gap.unsqueeze(-1)
    cosines = (1 - gap).to(working).to(loc.device)
    sines = torch.sqrt(gap * (2 - gap)).to(working).to(loc.device)
    on_cpu = loc.device.type == "cpu"
    generator = _fast_generator() if on_cpu and double else None
    size = max(1, BLOCK // dim) if on_cpu else max(1, n)
    for first in range(0, n, size):
        block = slice(first, first + size)
        rows = sample[block] if sample.dtype == working else torch.empty_like(sample[block], dtype=working)
        mu = means
        if len(means) > 1:
            mu = means[torch.arange(first, first + len(rows), device=loc.device) % len(means)]
        _gaussian(rows, generator)
        if few:
            rows.addcmul_(mu, _dot(rows, mu), value=-1)
            rows.div_(torch.linalg.vector_norm(rows, dim=-1, keepdim=True))
        along = _dot(rows, mu)
        across = torch.sqrt(torch.linalg.vector_norm(rows, dim=-1, keepdim=True) ** 2 - along**2)
        if tangent is not None:
            tangent[block] = (rows - along * mu) / across
        stretch = sines[block] / across
        rows.mul_(stretch).addcmul_(mu, cosines[block] - stretch * along)
        if sample.dtype != working:
            sample[block] = rows


def _dot(rows: Tensor, mu: Tensor) -> Tensor:
    """Inner products of rows (n, dim) with mu (1 or n, dim), as (n, 1).

    Not by a product of two matrices, which a process may have set to fewer digits (TF32, bfloat16).
    """
    return (rows @ mu[0]).unsqueeze(-1) if len(mu) == 1 else (rows * mu).sum(-1, keepdim=True)


def _gaussian(rows: Tensor, generator: np.random.Generator | None) -> None:
    """Fill a contiguous block with standard normal numbers."""
    if generator is None:
        rows.normal_()
    else:
        generator.standard_normal(out=rows.numpy())


def _fast_generator() -> np.random.Generator:
    """NumPy's generator, two to three times as fast as torch's for float64 normal numbers; seeded by torch's."""
    return np.random.Generator(np.random.SFC64(torch.randint(2**63 - 1, (4,)).tolist()))
