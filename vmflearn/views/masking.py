"""Which patches a network is not shown: iBOT's masks (blocks or single patches) and MSN's dropped patches.

iBOT covers patches of the student's views with a mask token and asks for what the teacher sees there. First it draws
how much to cover: one of the listed ratios r, each moved by a uniform number from [-spread, spread]. Then rectangles
are laid on the grid, one after the other: area uniform between floor(min(H, W)/3)^2 and what is still to be covered,
the logarithm of the aspect uniform between those of 0.3 and 1/0.3, the place uniform. One that covers nothing new, or
more than is still to be covered, is drawn again; after ten in a row the mask is as it is. So a mask never exceeds its
ratio, mostly falls a little short of it, and favours the middle of the image.

MSN leaves patches out instead: the network computes on those that are kept.

All random numbers are named by a key, as those of the crops are (`vmflearn.views.keyed_random`): the mask of a view of
an image does not depend on the batch, the workers or the number of processes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vmflearn.views.keyed_random import keyed_uniforms

ATTEMPTS = 10
"""Rectangles in a row that may fail before a mask is left as it is."""

ASPECTS = (0.3, 1 / 0.3)
"""Least and greatest height / width of a rectangle."""

MASKS, DROPS = 1, 2  # last part of the keys: neither repeats the numbers of a crop, nor of the other


@dataclass(frozen=True)
class MaskSpec:
    """How much of a view is masked, and in which shape.

    Parameters
    ----------
    ratios
        Shares of the patches, each in [0, 1); every view draws one of them, all alike.
    spreads
        A number for each ratio: the share is uniform in ratio +- spread. iBOT's published setting is (0, 0.3) with
        (0, 0.2): half of all views stay whole, the others lose 10 to 50 %.
    shape
        "block" for rectangles, "random" for patches drawn one by one.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    ratios: tuple[float, ...] = (0.0, 0.3)
    spreads: tuple[float, ...] = (0.0, 0.2)
    shape: str = "block"

    def __post_init__(self) -> None:
        if self.shape not in ("block", "random"):
            raise ValueError(f"shape must be 'block' or 'random', got {self.shape!r}")
        if not self.ratios or len(self.ratios) != len(self.spreads):
            raise ValueError(f"ratios and spreads must be equally many, got {self.ratios} and {self.spreads}")
        for ratio, spread in zip(self.ratios, self.spreads, strict=True):
            if not (0 <= ratio < 1 and 0 <= spread <= ratio and ratio + spread < 1):
                raise ValueError(
                    "a mask's share must lie in [0, 1): 0 <= ratio - spread and ratio + spread < 1, "
                    f"got ratio {ratio} with spread {spread}"
                )

    @property
    def most(self) -> float:
        """The largest share that a mask can cover."""
        return max(ratio + spread for ratio, spread in zip(self.ratios, self.spreads, strict=True))

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Refuse a grid on which the rectangles find no room.

        Raises
        ------
        ValueError
            If the grid is smaller than 2 x 2, or so small that a rectangle of the least area is all of it.
        """
        if min(grid) < 2:
            raise ValueError(f"masks need at least 2 x 2 patches, got {grid[0]} x {grid[1]}: smaller patches, or crops")


def draw_masks(
    spec: MaskSpec, grid: tuple[int, int], *, seed: int, epoch: int, indices: ArrayLike, crop: int
) -> Tensor:
    """Draw the masks of one crop of some images.

    Parameters
    ----------
    spec
        How much, and in which shape.
    grid
        Patches in height and width (H, W).
    seed, epoch
        Integers; another epoch draws other masks.
    indices
        (batch,) positions of the images in the data set.
    crop
        Number of the crop among those of an image.

    Returns
    -------
    Tensor
        (batch, H, W) bool, True where a patch is masked, on the CPU.

    Raises
    ------
    ValueError
        If the grid is too small, or `indices` has another shape.
    """
    spec.check_grid(grid)
    indices = np.asarray(indices)
    if indices.ndim != 1:
        raise ValueError(f"indices must have shape (batch,), got {indices.shape}")
    key = (seed, epoch, indices, crop, MASKS)
    first = keyed_uniforms(*key, 0, count=2)
    which = np.floor(first[:, 0] * len(spec.ratios)).astype(np.int64)
    ratios, spreads = np.asarray(spec.ratios)[which], np.asarray(spec.spreads)[which]
    wanted = (ratios + spreads * (2 * first[:, 1] - 1)) * grid[0] * grid[1]
    if spec.shape == "random":
        u = keyed_uniforms(*key, 1, count=grid[0] * grid[1])
        ranks = u.argsort(axis=1).argsort(axis=1)
        masks = (ranks < np.floor(wanted)[:, None]).reshape(-1, *grid)
    else:
        masks = _blocks(key, wanted, grid)
    return torch.from_numpy(masks)


def _blocks(key: tuple[ArrayLike, ...], wanted: NDArray[np.float64], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Rectangles until ``wanted`` patches (n,) are covered: all images take their next attempt together."""
    (height, width), n = grid, len(wanted)
    seed, epoch, indices, crop, kind = key
    masks = np.zeros((n, height, width), dtype=bool)
    covered, failures = np.zeros(n), np.zeros(n, dtype=np.int64)
    least = (min(grid) // 3) ** 2
    rows, columns = np.arange(height), np.arange(width)
    going, attempt = np.flatnonzero(wanted > 0), 0
    u = np.empty((n, 4 * ATTEMPTS))
    while len(going):
        if attempt % ATTEMPTS == 0:  # numbers for the next ten attempts, a block of its own in the key
            u[going] = keyed_uniforms(
                seed, epoch, np.asarray(indices)[going], crop, kind, 1 + attempt // ATTEMPTS, count=4 * ATTEMPTS
            )
        place = attempt % ATTEMPTS
        area, aspect, top, left = u[going, 4 * place : 4 * place + 4].T
        attempt += 1
        room = wanted[going] - covered[going]
        area = least + (room - least) * area  # where the room is the smaller one, between the two all the same
        aspect = np.exp(math.log(ASPECTS[0]) + math.log(ASPECTS[1] / ASPECTS[0]) * aspect)
        h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        top, left = np.floor(top * (height - h + 1)), np.floor(left * (width - w + 1))
        inside = (rows >= top[:, None]) & (rows < (top + h)[:, None])
        across = (columns >= left[:, None]) & (columns < (left + w)[:, None])
        new = inside[:, :, None] & across[:, None, :] & ~masks[going]
        count = new.sum(axis=(1, 2))
        fits = (h < height) & (w < width) & (count > 0) & (count <= room)
        masks[going[fits]] |= new[fits]
        covered[going] += np.where(fits, count, 0)
        failures[going] = np.where(fits, 0, failures[going] + 1)
        going = going[(covered[going] < wanted[going]) & (failures[going] < ATTEMPTS)]
    return masks


def draw_kept(n_patches: int, dropped: float, *key: ArrayLike) -> Tensor:
    """Draw which patches MSN keeps.

    Parameters
    ----------
    n_patches
        Patches N of a view.
    dropped
        Share r of them that is left out, in [0, 1): floor(N (1 - r)) are kept.
    *key
        Integers, for one choice that all images share, as in the published code; or integer arrays that broadcast to
        (batch,), for a choice of each image's own.

    Returns
    -------
    Tensor
        (1, kept) or (batch, kept) int64: positions of the kept patches in random order, on the CPU.

    Raises
    ------
    ValueError
        If the share is out of its range, or no patch would be kept.
    """
    if not 0 <= dropped < 1:
        raise ValueError(f"the share of dropped patches must lie in [0, 1), got {dropped}")
    kept = math.floor(n_patches * (1 - dropped))
    if kept < 1:
        raise ValueError(f"dropping {dropped:g} of {n_patches} patches keeps none: drop less")
    return torch.from_numpy(keyed_uniforms(*key, DROPS, count=n_patches).argsort(axis=1)[:, :kept].copy())
