"""How many components: one mixture for each number, judged by BIC, by AIC, or by rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from vmflearn.sphere.mixture import VonMisesFisherMixture
from vmflearn.sphere.mixture_checks import check_count

CRITERIA = ("bic", "aic", "held-out")


class Choice(NamedTuple):
    """What `choose_components` found; scores are the better the smaller they are."""

    criterion: str
    n_components: list[int]
    scores: np.ndarray  # one for each number of components
    best: int  # number of components of the smallest score, the first of equal ones
    mixture: VonMisesFisherMixture  # of that number, fitted to all rows


def choose_components(
    mixture: VonMisesFisherMixture,
    X: ArrayLike,
    candidates: Sequence[int],
    criterion: str = "bic",
    *,
    sample_weight: ArrayLike | None = None,
    n_folds: int = 5,
) -> Choice:
    """Fit one mixture for each number of components and compare them.

    Parameters
    ----------
    mixture : VonMisesFisherMixture
        Settings of the fits; it is not changed.
    X : array, tensor, data frame or sparse matrix (n, dim)
        Rows.
    candidates : sequence of int
        Numbers of components, ``range(1, 9)`` say.
    criterion : {"bic", "aic", "held-out"}, default="bic"
        The first two as `VonMisesFisherMixture.bic` and ``aic`` have them. "held-out" is minus the mean log-density, in
        nats a row, of rows that the fit has not seen: each is left out once, with its fold.
    sample_weight : array (n,), optional
        Weights of the rows, which count them again. In folds copies of a row may part, and a weighted row does not.
    n_folds : int, default=5
        Folds of "held-out", drawn by the mixture's ``random_state``, the same for all candidates.

    Returns
    -------
    Choice
        Scores, the best number, and its mixture; `vmflearn.plots.component_scores` draws it.

    Raises
    ------
    ValueError
        No candidates, or one that is not an integer of at least one; an unknown criterion; fewer than two folds; what
        `VonMisesFisherMixture.fit` refuses.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {CRITERIA}, got {criterion!r}")
    numbers = list(candidates)
    if not numbers:
        raise ValueError("candidates is empty: give numbers of components, for example range(1, 9)")
    for number in numbers:
        check_count("each of candidates", number)
    check_count("n_folds", n_folds, least=2)
    n_rows = _num_samples(X)
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights is not None and weights.shape != (n_rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}: give one weight per row, ({n_rows},)")

    def fitted(number: int, rows: Any, weights: np.ndarray | None) -> VonMisesFisherMixture:
        one: VonMisesFisherMixture = clone(mixture).set_params(n_components=number)
        return one.fit(rows, sample_weight=weights)

    if criterion != "held-out":
        fits = [fitted(number, X, weights) for number in numbers]
        scores = np.array([getattr(one, criterion)(X, sample_weight=weights) for one in fits])
        best = int(scores.argmin())
        return Choice(criterion, numbers, scores, numbers[best], fits[best])
    folds = list(KFold(n_folds, shuffle=True, random_state=mixture.random_state).split(np.empty(n_rows)))
    totals = np.zeros((len(numbers), 2))  # log-likelihood and number of the rows left out
    for rest, fold in folds:
        own, others = (None if weights is None else weights[part] for part in (fold, rest))
        for place, number in enumerate(numbers):
            one = fitted(number, _safe_indexing(X, rest), others)
            totals[place] += one.total_log_likelihood(_safe_indexing(X, fold), own)
    scores = -totals[:, 0] / totals[:, 1]
    best = int(scores.argmin())
    return Choice(criterion, numbers, scores, numbers[best], fitted(numbers[best], X, weights))
