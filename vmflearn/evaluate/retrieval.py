"""Retrieval: how early in a ranking by similarity the right images come, on the revisited Oxford and Paris benchmarks.

Images are ranked by <x, q> of unit features. Ignored images are taken out of the ranking; with zero-based positions
r_0 < r_1 < ... of the n positives in what is left, average precision is the area under the precision-recall curve,

    AP = 1/n  sum_j (p(j, r_j) + p(j + 1, r_j + 1)) / 2,        p(j, r) = j / r,  p(0, 0) = 1

(Philbin et al., 2007), and what counts as positive or is ignored is Radenovic et al.'s (2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

DIFFICULTIES = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
"""Which judgements of a query are positives, and which are ignored."""

Judgement = Mapping[str, ArrayLike]
"""Of a query: the numbers of its ``easy``, ``hard`` and ``junk`` images, each image in one of them at most."""


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of all queries.

    Attributes
    ----------
    average_precisions : ndarray, (queries,) float64
        NaN for queries without positives, which do not count.
    precisions : dict of ndarray, (queries,) float64
        Precision among the first k, by k; NaN as above.
    """

    average_precisions: NDArray[np.float64]
    precisions: dict[int, NDArray[np.float64]]

    @property
    def mean_average_precision(self) -> float:
        """MAP over the queries that count."""
        return float(np.nanmean(self.average_precisions))

    @property
    def mean_precisions(self) -> dict[int, float]:
        """Mean precision among the first k, over the queries that count."""
        return {k: float(np.nanmean(values)) for k, values in self.precisions.items()}

    @property
    def skipped(self) -> int:
        """How many queries have no positive."""
        return int(np.isnan(self.average_precisions).sum())


def rank_images(query_features: Tensor, features: Tensor) -> NDArray[np.int64]:
    """Order the images by their similarity to each query.

    Parameters
    ----------
    query_features
        (queries, d) floating point; rows need not have unit length.
    features
        (n, d) floating point, of the images that are searched.

    Returns
    -------
    ndarray
        (queries, n): numbers of the images, the most similar first; of equally similar ones the lower number.

    Raises
    ------
    ValueError
        If the shapes do not match, or features are not finite.
    """
    for name, rows in (("query_features", query_features), ("features", features)):
        if rows.ndim != 2 or not rows.is_floating_point() or rows.numel() == 0:
            raise ValueError(f"{name} must be floating point (n, d), not empty, got {rows.dtype} {tuple(rows.shape)}")
        if not rows.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite; look at the network that made them")
    if query_features.shape[1] != features.shape[1]:
        raise ValueError(
            f"queries and images must be equally wide, got {query_features.shape[1]} and {features.shape[1]}"
        )
    dtype = torch.promote_types(features.dtype, torch.float32)
    database = F.normalize(features.to(dtype), dim=1)
    similarity = F.normalize(query_features.to(database), dim=1) @ database.T
    return similarity.argsort(dim=1, descending=True, stable=True).cpu().numpy()


def average_precision(positions: ArrayLike, n_positives: int) -> float:
    """Area under the precision-recall curve of one ranking, by the trapezoidal rule.

    Parameters
    ----------
    positions
        Zero-based, ascending, of the positives that were found.
    n_positives
        How many there are, found or not: at least 1.
    """
    r = np.asarray(positions, dtype=np.int64)
    j = np.arange(len(r))
    before = np.where(r == 0, 1.0, j / np.maximum(r, 1))
    return float((before + (j + 1) / (r + 1)).sum() / 2 / n_positives)


def precision_at(positions: ArrayLike, k: int) -> float:
    """Share of positives among the first k, or up to the last positive where that comes earlier.

    Parameters
    ----------
    positions
        Zero-based, ascending, of all positives: at least one.
    k
        At least 1.
    """
    r = np.asarray(positions, dtype=np.int64)
    cutoff = min(k, int(r[-1]) + 1)
    return int((r < cutoff).sum()) / cutoff


def score_query(
    ranking: NDArray[np.int64], positives: ArrayLike, ignored: ArrayLike = (), ks: Sequence[int] = (1, 5, 10)
) -> tuple[float, dict[int, float]]:
    """Average precision and precisions among the first k of one query.

    Parameters
    ----------
    ranking
        (n,) numbers of all images, the most similar first.
    positives, ignored
        Numbers of images.
    ks
        Each at least 1.

    Returns
    -------
    (float, dict)
        All NaN if there is no positive.
    """
    positives = np.asarray(positives, dtype=np.int64)
    if positives.size == 0:
        return float("nan"), dict.fromkeys(ks, float("nan"))
    left = ranking[~np.isin(ranking, np.asarray(ignored, dtype=np.int64))]
    positions = np.flatnonzero(np.isin(left, positives))
    return average_precision(positions, positives.size), {k: precision_at(positions, k) for k in ks}


def revisited_scores(
    rankings: NDArray[np.int64],
    judgements: Sequence[Judgement],
    difficulty: str = "medium",
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalScores:
    """Scores of rankings by the revisited protocol.

    Parameters
    ----------
    rankings
        (queries, n) of `rank_images`.
    judgements
        Of each query.
    difficulty
        "easy", "medium" or "hard", see `DIFFICULTIES`.
    ks
        Cut-offs of the precisions.

    Raises
    ------
    ValueError
        If a judgement lacks a list, names an image that is not ranked or names one twice, no query has a positive, or
        an argument is out of its range.
    """
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    if rankings.ndim != 2 or len(judgements) != len(rankings):
        raise ValueError(f"{len(judgements)} judgements need as many rankings, got shape {rankings.shape}")
    if not all(k >= 1 for k in ks):
        raise ValueError(f"ks must be 1 or more, got {list(ks)}")
    for query, judgement in enumerate(judgements):
        _check_judgement(judgement, query, rankings.shape[1])
    wanted, unwanted = DIFFICULTIES[difficulty]
    found = [
        score_query(ranking, _joined(judgement, wanted), _joined(judgement, unwanted), ks)
        for ranking, judgement in zip(rankings, judgements, strict=True)
    ]
    scores = RetrievalScores(
        np.array([score for score, _ in found]),
        {k: np.array([precisions[k] for _, precisions in found]) for k in ks},
    )
    if scores.skipped == len(found):
        raise ValueError(f"none of the {len(found)} queries has a positive that is {difficulty}")
    return scores


def _joined(judgement: Judgement, names: Sequence[str]) -> NDArray[np.int64]:
    return np.concatenate([np.asarray(judgement[name], dtype=np.int64).reshape(-1) for name in names])


def _check_judgement(judgement: Judgement, query: int, n_images: int) -> None:
    missing = [name for name in ("easy", "hard", "junk") if name not in judgement]
    if missing:
        raise ValueError(f"the judgement of query {query} lacks {', '.join(missing)}")
    named = _joined(judgement, ("easy", "hard", "junk"))
    outside = named[(named < 0) | (named >= n_images)]
    if outside.size:
        raise ValueError(f"the judgement of query {query} names image {outside[0]}; there are {n_images}, from 0")
    values, counts = np.unique(named, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"the judgement of query {query} names image {values[counts > 1][0]} more than once")
