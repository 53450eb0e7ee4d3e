r"""Drawing from the von Mises-Fisher distribution: a height along the mean direction, and a direction across it.

A sample is :math:`x = w\mu + \sqrt{1 - w^2}\,v` with v uniform among the unit vectors orthogonal to :math:`\mu`, and w
of density proportional to :math:`e^{\kappa w}(1 - w^2)^{(p-3)/2}`. The height is drawn as :math:`y = 1 - w`, which at
large concentration is small and would be lost in the rounding of w; :math:`1 - w^2 = y(2 - y)`.

All computations are in float64 and use torch's global random generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

# At larger concentrations y is of the order of the smallest float64; the sample is the mean direction all the same.
LARGEST_CONCENTRATION = 1e300


def sample_complement(kappa: Tensor, dim: int) -> Tensor:
    """Draw y = 1 - mu . x, in [0, 2], for each element of ``kappa`` (float64, finite, not negative)."""
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
    y = torch.empty_like(kappa)
    pending = torch.arange(kappa.numel(), device=kappa.device)
    while pending.numel():
        # Several proposals for each pending element when few are left: the tail takes one round, not ten.
        repeats = max(1, min(16, 64 // pending.numel()))
        proposal, accepted = _propose(kappa[pending].expand(repeats, -1), dim)
        first = accepted.int().argmax(0, keepdim=True)
        found = accepted.any(0)
        y[pending[found]] = proposal.gather(0, first)[0, found]
        pending = pending[~found]
    return y


def _propose(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """One proposal of y for each element, and whether it is accepted."""
    d = dim - 1
    b = d / (torch.hypot(2 * kappa, torch.full_like(kappa, d)) + 2 * kappa)
    half = torch.full_like(kappa, d / 2)
    z = torch.distributions.Beta(half, half, validate_args=False).sample()
    y = 2 * b * z / (1 - (1 - b) * z)
    x0 = (1 - b) / (1 + b)
    start = 2 * b / (1 + b)  # 1 - x0
    log_ratio = kappa * (start - y) + d * torch.log((start + x0 * y) * (1 + b) ** 2 / (4 * b))
    # Written so that an unchecked NaN is accepted, and seen in the sample, rather than proposed for ever.
    return y, ~(torch.log(torch.rand_like(kappa)) > log_ratio)


def sample_tangent(loc: Tensor) -> Tensor:
    """Draw unit vectors orthogonal to ``loc`` (..., dim): Gaussian vectors, less their part along ``loc``.

    Twice, because of a vector almost parallel to ``loc`` (not rare at dim 2) the first difference keeps few digits.
    """
    v = torch.randn_like(loc)
    for _ in range(2):
        v = v - (v * loc).sum(-1, keepdim=True) * loc
        v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return v
