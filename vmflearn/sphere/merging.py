r"""From many groups of rows to few: the two groups whose union loses the least are joined, again and again.

A group with resultant R, the sum of its rows, has :math:`\sum_i\mu^\top x_i = |R|` along its own direction
:math:`\mu = R/|R|`: the sum of cosines that spherical k-means maximises. Joining two groups loses

.. math:: |R_a| + |R_b| - |R_a + R_b| \ge 0

of it (Ward's criterion, Journal of the American Statistical Association 58, 1963, on the sphere).
"""

import torch
from torch import Tensor


def merge(resultants: Tensor, n_groups: int) -> Tensor:
    """Join groups until ``n_groups`` are left.

    Parameters
    ----------
    resultants : Tensor (m, dim), float64
        Resultants of m groups, m at least ``n_groups``.
    n_groups : int
        How many to leave.

    Returns
    -------
    Tensor (n_groups, dim)
        Their unit directions; where a group's rows cancel, that of one of its parts.
    """
    sums = resultants.clone()
    lengths = sums.norm(dim=1)
    directions = sums / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)[:, None]
    alive = torch.ones(len(sums), dtype=torch.bool)
    loss = torch.stack([_losses(sums, lengths, a, alive) for a in range(len(sums))])
    least, partner = loss.min(dim=1)
    for _ in range(len(sums) - n_groups):
        a = int(least.argmin())
        b = int(partner[a])
        sums[a] += sums[b]
        lengths[a] = sums[a].norm()
        if lengths[a] > 0:
            directions[a] = sums[a] / lengths[a]
        alive[b] = False
        loss[a] = loss[:, a] = _losses(sums, lengths, a, alive)
        loss[b] = loss[:, b] = torch.inf
        # All minima may have changed that were at a or at b; the others only if they lie nearer to the new group.
        nearer = loss[a] < least
        least[nearer], partner[nearer] = loss[a][nearer], a
        stale = (partner == a) | (partner == b)
        stale[a] = True
        least[stale], partner[stale] = loss[stale].min(dim=1)
    return directions[alive]


def _losses(sums: Tensor, lengths: Tensor, a: int, alive: Tensor) -> Tensor:
    """What joining group a with each other loses, (m,); inf for itself and for groups that are gone."""
    losses = lengths + lengths[a] - (sums + sums[a]).norm(dim=1)
    return torch.where(alive, losses, torch.inf).index_fill(0, torch.tensor([a]), torch.inf)
