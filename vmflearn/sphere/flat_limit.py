r"""The kernels' quantities at any finite concentration: from so close by, a sphere is flat.

The kernels square the concentration, which overflows from 1.8e19 on in float32 and 1.3e154 in float64. There
:math:`I_\nu(\kappa) = e^\kappa / \sqrt{2\pi\kappa}`, to more digits than a float has (the next term of DLMF 10.40.1 is
:math:`(4\nu^2 - 1) / 8\kappa` of it), and with it

.. math:: \log C_p = \tfrac{p-1}2\log\frac{\kappa}{2\pi} - \kappa, \qquad 1 - A = \frac{p-1}{2\kappa}, \qquad
          A' = \frac{p-1}{2\kappa^2} .
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from vmflearn.sphere.expansion import log_normalizer_at_zero
from vmflearn.sphere.kernels import quantity

FLAT_SINGLE, FLAT_DOUBLE = 1e18, 1e150
LIMIT: dict[str, Callable[[Tensor, float], Tensor]] = {
    "log_h": lambda kappa, p: kappa,
    "excess": lambda kappa, p: (p - 1) / 2 * torch.log(kappa / (2 * math.pi)) - log_normalizer_at_zero(int(p)),
    "length": lambda kappa, p: torch.ones_like(kappa),
    # a quotient of two tensors, whose gradient does not overflow on its way to zero
    "complement": lambda kappa, p: torch.full_like(kappa, (p - 1) / 2) / kappa,
    "slope": lambda kappa, p: torch.full_like(kappa, (p - 1) / 2) / kappa / kappa,
}


def flat_from(dtype: torch.dtype) -> float:
    """The concentration above which the limits hold; the kernels go a little further."""
    return FLAT_DOUBLE if dtype == torch.float64 else FLAT_SINGLE


def anywhere(kappa: Tensor, dim: int | Fraction, name: str) -> Tensor:
    """One of the kernels' quantities for float32 or float64 of any size; without branches on data, differentiable."""
    flat = flat_from(kappa.dtype)
    limit = LIMIT[name](kappa.clamp(min=flat), float(dim))
    return torch.where(kappa > flat, limit, quantity(kappa.clamp(max=flat), dim, name))


def spread(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`\kappa(1 - A)`, which tends to (p - 1)/2: by how much the mean of the log-density is below its mode's."""
    flat = flat_from(kappa.dtype)
    near = kappa.clamp(max=flat)
    return torch.where(kappa > flat, (dim - 1) / 2, near * quantity(near, dim, "complement"))
