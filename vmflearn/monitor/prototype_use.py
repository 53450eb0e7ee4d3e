"""Which prototypes are used, which are copies of another, and which point away from all data (section 5.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vmflearn.sphere.directions import directions as unit


@dataclass(frozen=True)
class UniquePrototypes:
    """What is left when duplicates are removed.

    Attributes
    ----------
    count : int
        Number of prototypes kept.
    largest : int
        Size of the largest set of duplicates, the kept prototype included.
    leader : Tensor of shape (K,), int64
        The kept prototype that each one duplicates; its own index if it is kept.
    """

    count: int
    largest: int
    leader: Tensor


@torch.no_grad()
def unique_prototypes(directions: Tensor, threshold: float = 0.9, chunk_size: int = 1024) -> UniquePrototypes:
    """Greedy removal of duplicates: keep a prototype, drop all later ones with cosine > threshold to it, go on.

    A block of prototypes is settled on its own first, then what it keeps drops rows of everything behind it. A dropped
    row leaves the computation, and memory is O(K dim + chunk_size^2). Blocks come in order, so the kept prototype that
    drops a row is the first that could: the result is that of the plain double loop. Cosines are float32 products
    (float64 for float64 input); a pair within rounding of the threshold may fall on either side.

    Parameters
    ----------
    directions : Tensor of shape (K, dim)
        Normalised here.
    threshold : float
        In (-1, 1]. The paper uses 0.9 in Table 4, and more in Figs. 6 and 7.
    chunk_size : int
        Prototypes in a block.

    Raises
    ------
    ValueError
        If an argument is out of its range, or a direction is not finite.
    """
    _check_directions(directions)
    if not -1 < threshold <= 1:
        raise ValueError(f"threshold must be a cosine in (-1, 1], got {threshold}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    w = unit(directions.detach().to(torch.promote_types(directions.dtype, torch.float32)))
    leader = torch.full((len(w),), -1, dtype=torch.int64, device=w.device)
    rest = torch.arange(len(w), device=w.device)
    while len(rest):
        block, rest = rest[:chunk_size], rest[chunk_size:]
        kept = block[_keep_in_order(w[block] @ w[block].T > threshold)]
        # The block's own rows meet the block's kept prototypes again, and find their leaders there.
        first = _first_similar(w, block, kept, threshold, chunk_size)
        leader[block] = torch.where(first < len(kept), kept[first.clamp(max=len(kept) - 1)], block)
        leader[kept] = kept
        first = _first_similar(w, rest, kept, threshold, chunk_size)
        dropped = first < len(kept)
        leader[rest[dropped]] = kept[first[dropped]]
        rest = rest[~dropped]
    sizes = torch.bincount(leader, minlength=len(w))
    return UniquePrototypes(int((sizes > 0).sum()), int(sizes.max()), leader)


def _keep_in_order(similar: Tensor) -> Tensor:
    """Greedy on one block: which rows no earlier kept row is similar to."""
    table = similar.cpu().numpy()
    dropped = table[0] & False
    kept = ~dropped
    for i in range(len(table)):
        kept[i] = not dropped[i]
        if kept[i]:
            dropped |= table[i]
    return torch.from_numpy(kept).to(similar.device)


def _first_similar(w: Tensor, rows: Tensor, kept: Tensor, threshold: float, chunk_size: int) -> Tensor:
    """Position in ``kept`` of the first prototype similar to each row; len(kept) where there is none."""
    first = torch.full_like(rows, len(kept))
    columns = w[kept].T.contiguous()
    for start in range(0, len(rows), chunk_size):
        similar = w[rows[start : start + chunk_size]] @ columns > threshold
        hit = similar.any(dim=1).nonzero().squeeze(1)
        first[start + hit] = similar[hit].byte().argmax(dim=1)  # the first of equal maxima
    return first


@torch.no_grad()
def void_prototypes(
    directions: Tensor, mean_direction: Tensor, chosen: Tensor | None = None, tolerance: float = 0.05
) -> Tensor:
    """Prototypes that point away from the data: cosine with the mean of y below -1 + tolerance (section 5.2).

    The loss pushes unused prototypes as far from the data as they can go, where they end as one large duplicate set.

    Parameters
    ----------
    directions : Tensor of shape (K, dim)
    mean_direction : Tensor of shape (dim,)
        Mean of y over the data; of any length but zero.
    chosen : Tensor of shape (K,), bool, optional
        True for a prototype that is the most probable one of an image: such a one is not void.
    tolerance : float
        In [0, 2].

    Returns
    -------
    Tensor of shape (K,), bool

    Raises
    ------
    ValueError
        If a shape or the tolerance is not as stated, or the mean is zero or not finite.
    """
    _check_directions(directions)
    if mean_direction.shape != directions.shape[1:]:
        raise ValueError(
            f"mean_direction must have shape {tuple(directions.shape[1:])}, got {tuple(mean_direction.shape)}"
        )
    if not 0 < float(mean_direction.abs().max()) < float("inf"):  # false for NaN as well
        raise ValueError("mean_direction must be finite and not zero: pass the mean of the bottleneck vectors y")
    if not 0 <= tolerance <= 2:
        raise ValueError(f"tolerance must be in [0, 2], got {tolerance}")
    dtype = torch.promote_types(torch.promote_types(directions.dtype, mean_direction.dtype), torch.float32)
    cosine = unit(directions.detach().to(dtype)) @ unit(mean_direction.to(dtype))
    void = cosine <= -1 + tolerance
    return void if chosen is None else void & ~chosen


def _check_directions(directions: Tensor) -> None:
    if directions.ndim != 2 or directions.numel() == 0:
        raise ValueError(f"directions must have shape (K, dim), none of them zero, got {tuple(directions.shape)}")
    if not bool(directions.isfinite().all()):
        raise ValueError("directions hold NaN or infinity: load a checkpoint from before they appeared")
