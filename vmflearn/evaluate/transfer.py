"""Logistic regression on the features of another data set, its strength chosen by validation (the paper's Table 5).

45 penalties w = 10^-6 ... 10^5, evenly spaced in logarithm, with C = 1 / w of `vmflearn.evaluate.logistic`, an
intercept, and features as the network gives them. The paper chooses by five-fold cross-validation; Ericsson et al.
(2021) by one validation part: the official one, or a fifth of the training images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vmflearn.evaluate.logistic import logistic_path

PENALTIES = tuple(float(w) for w in np.logspace(-6, 5, 45))
TOLERANCE = 1e-6
"""Of the objective, relative. A stricter one moves accuracies of a few penalties, of the strongest most."""
MAX_STEPS = 100
"""For each penalty, as in Ericsson et al.; each starts near its solution."""


class Transfer(NamedTuple):
    """What `transfer` finds.

    Attributes
    ----------
    penalty : float
        The chosen w.
    validation : dict of float
        Accuracy of validation by penalty.
    predicted : Tensor, (m,) int64
    """

    penalty: float
    validation: dict[float, float]
    predicted: Tensor


def transfer(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    folds: Tensor,
    penalties: Sequence[float] = PENALTIES,
    n_classes: int | None = None,
) -> Transfer:
    """Choose a penalty, fit all training images with it, and classify the test images.

    Parameters
    ----------
    train_features, test_features : Tensor, (n, d) and (m, d)
    train_labels : Tensor, (n,) integers
        From 0.
    folds : Tensor, (folds, n) bool
        Which images each fold is trained on; it is validated on the others. See `cross_validation`.
    penalties : sequence of float
        Of equally good ones the largest is taken.
    n_classes : int, optional
        The greatest training label plus one if None.

    Returns
    -------
    Transfer

    Raises
    ------
    ValueError
        As `logistic_path`, or if a fold has nothing to validate on.
    """
    if bool(folds.all(dim=1).any()):
        raise ValueError("a fold has no images to validate on")
    validation: dict[float, float] = {}
    labels, held = train_labels.to(train_features.device), ~folds.to(train_features.device)
    strengths = [1 / penalty for penalty in sorted(penalties, reverse=True)]
    settings = {"n_classes": n_classes, "intercept": True, "tolerance": TOLERANCE, "max_steps": MAX_STEPS}
    for penalty, fit in zip(
        sorted(penalties, reverse=True),
        logistic_path(train_features, labels, strengths, folds=folds, **settings),  # type: ignore[arg-type]
        strict=True,
    ):
        right = fit.scores(train_features).argmax(dim=2) == labels
        validation[penalty] = float(((right & held).sum(dim=1).double() / held.sum(dim=1)).mean())
    # The order in which the same accuracies of folds are added must not decide.
    best = max(validation, key=lambda penalty: (round(validation[penalty], 12), penalty))
    stronger = [strength for strength in strengths if strength <= 1 / best]
    *_, last = logistic_path(train_features, labels, stronger, **settings)  # type: ignore[arg-type]
    return Transfer(best, validation, last.scores(test_features.to(train_features.device))[0].argmax(dim=1))


def cross_validation(labels: Tensor, n_folds: int = 5, seed: int = 0) -> Tensor:
    """Folds (n_folds, n) bool for `transfer`: each class is dealt out evenly.

    Raises
    ------
    ValueError
        If there are fewer than two folds, or fewer images than folds.
    """
    if not 2 <= n_folds <= len(labels):
        raise ValueError(f"n_folds must be 2 to the number of images, {len(labels)}, got {n_folds}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels.cpu()[order].argsort(stable=True)]  # by classes, at random within them
    fold = torch.empty(len(labels), dtype=torch.int64)
    fold[order] = torch.arange(len(labels)) % n_folds
    return fold != torch.arange(n_folds)[:, None]


def validation_part(n: int, share: float = 0.2, seed: int = 0) -> Tensor:
    """A single fold (1, n) bool that holds a random share back, as Ericsson et al. do without an official part."""
    held = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: round(share * n)]
    folds = torch.ones(1, n, dtype=torch.bool)
    folds[0, held] = False
    return folds
