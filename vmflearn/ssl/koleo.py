"""Spreading unit vectors apart by the distance of each to its nearest neighbour."""

import torch
from torch import Tensor

from vmflearn.sphere.directions import directions

SMALLEST_DISTANCE = 1e-8  # keeps the logarithm and its gradient finite where rows coincide


def koleo_loss(rows: Tensor, *, block_size: int = 1024) -> Tensor:
    """Kozachenko-Leonenko regulariser: minus the mean log distance of a direction to the nearest other one.

        L = -1/n  sum_i  log min_{j != i} |x_i - x_j|,      x_i = rows_i / |rows_i|

    Up to constants it is the Kozachenko-Leonenko estimate of minus the entropy of the directions, so to minimise it is
    to spread them evenly (Sablayrolles et al. 2019, "Spreading vectors for similarity search"). Applied to the
    student's prototypes it works against partial prototype collapse, where many prototypes share one direction and the
    mixture has fewer components than the last layer has rows.

    Neighbours are searched blockwise and without a gradient: memory is block_size x n numbers and a few copies of the
    rows. The distance enters as sqrt(d^2 + 1e-16), so rows that coincide cost log 1e8 each, exactly coinciding ones
    with gradient zero (they have no direction in which to part).

    Parameters
    ----------
    rows : Tensor, (n, dim)
        Vectors of any length, at least two of them; they are scaled to unit length.
    block_size : int
        Rows at a time in the search.

    Returns
    -------
    Tensor, ()
        float32, under autocast too; float64 if the rows are.

    Raises
    ------
    ValueError
        If rows is not (n, dim) with n >= 2, or block_size is below 1.
    """
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"rows must have shape (n, dim), got {tuple(rows.shape)}: pass one vector a row")
    if len(rows) < 2:
        raise ValueError(f"rows must hold at least 2 vectors, got {len(rows)}: a single one has no nearest other")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    with torch.autocast(rows.device.type, enabled=False):
        x = directions(rows.to(torch.promote_types(rows.dtype, torch.float32)))
        squared = (x - x[_nearest(x.detach(), block_size)]).square().sum(dim=-1)
        return -0.5 * (squared + SMALLEST_DISTANCE**2).log().mean()


@torch.no_grad()
def _nearest(x: Tensor, block_size: int) -> Tensor:
    """Index of the nearest other row: of unit vectors, the one with the largest cosine."""
    found = []
    for start in range(0, len(x), block_size):
        cosines = x[start : start + block_size] @ x.T
        cosines.diagonal(offset=start).fill_(-torch.inf)
        found.append(cosines.argmax(dim=1))
    return torch.cat(found)
