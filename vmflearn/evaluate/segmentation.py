"""How well masks of objects agree: region similarity J and boundary accuracy F, as DAVIS defines them.

J is intersection over union of the two masks. F is the harmonic mean of precision and recall of their boundaries,
where a boundary pixel is right if one of the other mask's lies within ceil(0.008 x diagonal) pixels (Perazzi et al.,
2016), which is what dilating the other's boundary by a disk says. Both are 1 where both masks are empty.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

TOLERANCE = 0.008
"""Of a boundary, as a share of the image's diagonal."""


def region_similarity(truth: ArrayLike, mask: ArrayLike) -> float:
    """J: intersection over union of two masks (height, width) of bool; 1 if both are empty."""
    a, b = _two_masks(truth, mask)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def boundary(mask: ArrayLike) -> NDArray[np.bool_]:
    """Boundary pixels of a mask: those that differ from their right, lower or lower right neighbour.

    It lies half a pixel towards the origin of the true boundary. The lowest row has right neighbours alone, the last
    column lower ones, and the last pixel is no boundary.

    Parameters
    ----------
    mask
        (height, width) bool.

    Returns
    -------
    ndarray
        (height, width) bool.
    """
    m = np.asarray(mask, dtype=bool)
    edges = np.zeros_like(m)
    edges[:, :-1] |= m[:, :-1] != m[:, 1:]
    edges[:-1] |= m[:-1] != m[1:]
    edges[:-1, :-1] |= m[:-1, :-1] != m[1:, 1:]
    return edges


def boundary_accuracy(truth: ArrayLike, mask: ArrayLike) -> float:
    """F: how well the boundaries of two masks (height, width) of bool agree; 1 if neither has one.

    It is the harmonic mean of precision and recall of boundary pixels. One is right if one of the other mask's lies
    within ceil(0.008 x diagonal) pixels.
    """
    a, b = _two_masks(truth, mask)
    radius = math.ceil(TOLERANCE * math.hypot(*a.shape))
    true, found = (np.argwhere(boundary(m)) for m in (a, b))
    if not len(true) or not len(found):
        return 1.0 if len(true) == len(found) else 0.0
    precision, recall = _share_near(found, true, radius), _share_near(true, found, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_near(points: NDArray[np.int64], others: NDArray[np.int64], radius: int) -> float:
    """Share of points that have one of the others within a distance."""
    distances, _ = KDTree(others).query(points, distance_upper_bound=radius + 0.5)  # infinite beyond: of whole pixels
    return float((distances <= radius).mean())


def _two_masks(truth: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(truth, dtype=bool), np.asarray(mask, dtype=bool)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"two masks must have one shape (height, width), got {a.shape} and {b.shape}")
    return a, b


@dataclass(frozen=True)
class ObjectScores:
    """J and F of one object in the frames of a sequence that count.

    Attributes
    ----------
    regions, boundaries : ndarray, (frames,) float64
    """

    regions: NDArray[np.float64]
    boundaries: NDArray[np.float64]

    def statistics(self) -> dict[str, float]:
        """Mean, recall and decay of both, see `curve_statistics`, and ``JF_mean``, the mean of the two means."""
        j, f = curve_statistics(self.regions), curve_statistics(self.boundaries)
        named = {f"{name}_{key}": value for name, found in (("J", j), ("F", f)) for key, value in found.items()}
        return {"JF_mean": (j["mean"] + f["mean"]) / 2, **named}


def curve_statistics(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean of a measure over frames, its recall (share above 0.5) and its decay (first quarter less the last).

    Quarters share their end frames, which are rounded as in DAVIS's code.
    """
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[: ends[1] + 1], values[ends[3] :]
    return {
        "mean": float(values.mean()),
        "recall": float((values > 0.5).mean()),
        "decay": float(first.mean() - last.mean()),
    }


def sequence_scores(truths: NDArray[np.integer], masks: NDArray[np.integer]) -> list[ObjectScores]:
    """Score the masks of a sequence, object by object.

    Parameters
    ----------
    truths, masks
        (frames, height, width) number of the object that each pixel belongs to, 0 for none. The objects are those up to
        the greatest number in the first true frame; the first frame, which was given, and the last do not count.

    Returns
    -------
    list of ObjectScores
        Of objects 1, 2, ...

    Raises
    ------
    ValueError
        If the shapes differ, no frame counts, the first frame shows no object, or a later one or a mask holds an object
        that it does not have.
    """
    if truths.ndim != 3 or truths.shape != masks.shape:
        raise ValueError(
            f"masks must have the truth's shape (frames, height, width), got {truths.shape}, {masks.shape}"
        )
    if len(truths) < 3:
        raise ValueError(
            f"a sequence needs three frames, of which the first and the last do not count; got {len(truths)}"
        )
    n_objects = int(truths[0].max())
    if n_objects < 1:
        raise ValueError("the first frame shows no object")
    for name, found in (("the true masks", truths), ("the masks", masks)):
        check_objects(found, n_objects, name)
    return [
        ObjectScores(
            np.array([region_similarity(a == number, b == number) for a, b in _scored(truths, masks)]),
            np.array([boundary_accuracy(a == number, b == number) for a, b in _scored(truths, masks)]),
        )
        for number in range(1, n_objects + 1)
    ]


def check_objects(mask: NDArray[np.integer], n_objects: int, name: str) -> None:
    """ValueError if a mask holds an object above the number of objects."""
    if int(mask.max()) > n_objects or int(mask.min()) < 0:
        unknown = mask[(mask > n_objects) | (mask < 0)].flat[0]
        raise ValueError(f"{name} hold object {unknown}; the first frame shows objects up to {n_objects}")


def _scored(truths: NDArray[np.integer], masks: NDArray[np.integer]) -> zip:
    return zip(truths[1:-1], masks[1:-1], strict=True)


def mean_over_objects(scores: list[ObjectScores]) -> dict[str, float]:
    """Mean of each statistic over objects, of any number of sequences: every object weighs the same."""
    found = [score.statistics() for score in scores]
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}
