"""How many components: one mixture for each number, judged by BIC, by AIC, or by rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from vmflearn import distributed
from vmflearn.sphere.arguments import refuse_masked
from vmflearn.sphere.mixture import VonMisesFisherMixture
from vmflearn.sphere.mixture_checks import check_count, check_same

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

    Notes
    -----
    Several processes each pass their own rows, as to ``fit``; every one gets the choice that one process makes with all
    rows, stacked in the order of the ranks.
    """

    def checked() -> tuple[list[int], int, np.ndarray | None]:
        if criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {CRITERIA}, got {criterion!r}")
        numbers = list(candidates)
        if not numbers:
            raise ValueError("candidates is empty: give numbers of components, for example range(1, 9)")
        for number in numbers:
            check_count("each of candidates", number)
        check_count("n_folds", n_folds, least=2)
        n_rows = _num_samples(X)
        refuse_masked(sample_weight, "sample_weight")
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if weights is not None and weights.shape != (n_rows,):
            raise ValueError(f"sample_weight has shape {weights.shape}: give one weight per row, ({n_rows},)")
        return [int(number) for number in numbers], n_rows, weights

    numbers, n_rows, weights = distributed.all_or_none(checked)
    check_same({"candidates": str(numbers), "criterion": criterion, "n_folds": int(n_folds)})

    def fitted(number: int, rows: Any, weights: np.ndarray | None) -> VonMisesFisherMixture:
        one: VonMisesFisherMixture = clone(mixture).set_params(n_components=number)
        return one.fit(rows, sample_weight=weights)

    if criterion != "held-out":
        fits = [fitted(number, X, weights) for number in numbers]
        totals = _over_processes(np.array([one.total_log_likelihood(X, weights) for one in fits]))
        scores = np.array([getattr(one, f"_{criterion}")(*total) for one, total in zip(fits, totals, strict=True)])
        best = int(scores.argmin())
        return Choice(criterion, numbers, scores, numbers[best], fits[best])
    fold_of = _folds(n_rows, int(n_folds), mixture.random_state)
    totals = np.zeros((len(numbers), 2))  # log-likelihood and number of the rows left out
    for number_of_fold in range(int(n_folds)):
        rest, fold = (np.flatnonzero(chosen) for chosen in (fold_of != number_of_fold, fold_of == number_of_fold))
        own, others = (None if weights is None else weights[part] for part in (fold, rest))
        for place, number in enumerate(numbers):
            one = fitted(number, _safe_indexing(X, rest), others)
            if len(fold):  # there may be none of this process
                totals[place] += one.total_log_likelihood(_safe_indexing(X, fold), own)
    totals = _over_processes(totals)
    scores = -totals[:, 0] / totals[:, 1]
    best = int(scores.argmin())
    return Choice(criterion, numbers, scores, numbers[best], fitted(numbers[best], X, weights))


def _over_processes(totals: np.ndarray) -> np.ndarray:
    """Totals (candidates, 2) over the rows of all processes."""
    return distributed.sum_over_processes(torch.from_numpy(totals)).numpy()


def _folds(n_rows: int, n_folds: int, random_state: Any) -> np.ndarray:
    """The fold of each row of this process, (n_rows,): drawn by the first one for the rows of all."""
    counts = distributed.gather_objects(n_rows)

    def draw() -> np.ndarray:
        fold_of = np.empty(sum(counts), dtype=np.int64)
        folds = KFold(n_folds, shuffle=True, random_state=random_state).split(fold_of)
        for number, (_, fold) in enumerate(folds):
            fold_of[fold] = number
        return fold_of

    before = sum(counts[: distributed.rank()])
    return distributed.on_first(draw)[before : before + n_rows]
