r"""Maximum likelihood for one von Mises-Fisher distribution.

With :math:`R\mu = \sum_i w_i x_i / \sum_i w_i` the estimate is :math:`\hat\mu = \mu`, :math:`\hat\kappa = A_p^{-1}(R)`
(Banerjee et al. 2005, Eqs. 2.4-2.5). Where R is close to 1 its complement is the mean of
:math:`\tfrac12\|x_i - \mu\|^2`, in which nothing cancels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vmflearn.sphere.arguments import Real, as_real_tensor, first_offender
from vmflearn.sphere.bessel import concentration_from_length
from vmflearn.sphere.constraints import check_unit_vectors
from vmflearn.sphere.sampling import double_device

# Rows converted to float64 at a time.
ROWS = 4096
# A resultant shorter than this is rounding, and so is a mean squared distance below its square.
ROUNDING = 16 * torch.finfo(torch.float64).eps


@torch.no_grad()
def maximum_likelihood(data: Real, weights: Real | None = None) -> tuple[Tensor, Tensor]:
    """Estimate mean direction and concentration; documented at `VonMisesFisher.fit`."""
    data = as_real_tensor(data, "X", keep=True).detach()
    if data.dim() < 2 or data.shape[-1] < 2 or data.shape[-2] < 1:
        raise ValueError(f"X must have shape (..., n, dim), n at least 1, dim at least 2, got {tuple(data.shape)}")
    check_unit_vectors(data, "X", row=True)
    weights = _checked_weights(weights, data)
    device, data = data.device, data.to(double_device(data.device))
    weights = weights.to(data.device)
    total = weights.sum(-1)
    dim, dtype = data.shape[-1], torch.promote_types(data.dtype, torch.float32)

    # The mean is taken from a row that counts, so that equal rows have exactly that row as their mean.
    heaviest = weights.argmax(-1)[..., None, None].expand(*weights.shape[:-1], 1, dim)
    pivot = torch.nn.functional.normalize(data.gather(-2, heaviest).double(), dim=-1)
    mean = pivot.squeeze(-2).clone()
    for x, w in _blocks(data, weights):
        mean += (w.unsqueeze(-2) @ x.sub_(pivot)).squeeze(-2) / total.unsqueeze(-1)
    length = torch.linalg.vector_norm(mean, dim=-1)
    no_direction = length <= ROUNDING
    first = torch.zeros_like(mean)
    first[..., 0] = 1
    direction = torch.where(no_direction.unsqueeze(-1), first, mean / length.unsqueeze(-1))

    spread = torch.zeros_like(length)
    for x, w in _blocks(data, weights):
        spread += (x.sub_(direction.unsqueeze(-2)).square_().sum(-1) * w).sum(-1) / (2 * total)
    spread = torch.where(spread <= ROUNDING**2, 0.0, spread)
    close = spread < 0.5
    length = torch.where(no_direction, 0.0, torch.where(close, 1 - spread, length))
    kappa = concentration_from_length(length, dim, complement=torch.where(close, spread, 1 - length))
    return direction.to(dtype).to(device), kappa.to(dtype).to(device)


def _blocks(data: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows in float64, of length one to its rounding, with their weights, a block at a time."""
    for x, w in zip(data.split(ROWS, -2), weights.split(ROWS, -1), strict=True):
        yield torch.nn.functional.normalize(x.double(), dim=-1), w


def _checked_weights(weights: Real | None, data: Tensor) -> Tensor:
    """Weights (..., n) in float64, on `double_device`, expanded to the rows; ones when none are given."""
    if weights is None:
        return torch.ones(data.shape[:-1], dtype=torch.float64, device=double_device(data.device))
    weights = as_real_tensor(weights, "weights").detach()
    if weights.device != data.device:
        raise ValueError(f"weights are on {weights.device} and X is on {data.device}; move one with .to(device)")
    try:
        weights = weights.to(double_device(data.device), torch.float64).expand(data.shape[:-1])
    except RuntimeError as error:
        raise ValueError(
            f"weights must have one element for each row of X, shape {tuple(data.shape[:-1])}, "
            f"got {tuple(weights.shape)}"
        ) from error
    valid = (weights >= 0) & torch.isfinite(weights)
    if not bool(valid.all()):
        raise ValueError(f"weights must be finite and not negative, got {first_offender(weights, valid)}")
    largest = weights.amax(-1, keepdim=True)
    if not bool((largest > 0).all()):
        raise ValueError("weights must not all be zero; at least one row must count")
    # By a power of two near the largest: their sum stays in the range, and not a bit of an ordinary weight changes.
    return weights / (largest / (2 * torch.frexp(largest).mantissa))
