"""Multinomial logistic regression for a whole path of penalties and several folds at once.

Each problem minimises, over the training images i of its fold,

    sum_i -log softmax(W x_i + b)[y_i]  +  |W|^2 / (2 C)                                                    (1)

which is scikit-learn's objective (for three classes or more: with two, scikit-learn has one vector for both, and its C
is twice this one). Published settings are readings of it, see `vmflearn.evaluate.few_shot`.

Features are centred if there is an intercept and turned to their principal axes, which changes nothing of (1), and then
each axis is scaled by 1 / sqrt(h v + 1 / (C n)) with v the variance along it and h the mean of p (1 - p) over images
and classes. About so large is the Hessian, so that L-BFGS has nearly round problems, and takes tens of steps where it
takes thousands on raw features. The path goes from strong penalties to weak ones, and each starts where the line
through the last two solutions, over the logarithm of C, leads: a third of the steps from the last solution alone. All
folds share the products with the features; images that are not in a fold's training part count nothing.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vmflearn.evaluate.lbfgs import minimize

TOLERANCE = 1e-8
MAX_STEPS = 1000


class LogisticFit(NamedTuple):
    """A solution for one strength, of every fold.

    Attributes
    ----------
    strength : float
        C of (1).
    coefficients : Tensor, (folds, classes, d)
    intercepts : Tensor, (folds, classes)
        Zeros without intercept.
    objectives : Tensor, (folds,)
        The values of (1).
    steps : int
        Of L-BFGS.
    """

    strength: float
    coefficients: Tensor
    intercepts: Tensor
    objectives: Tensor
    steps: int

    def scores(self, features: Tensor) -> Tensor:
        """W x + b of images (n, d), (folds, n, classes)."""
        features = features.to(self.coefficients)
        return features @ self.coefficients.mT + self.intercepts[:, None]


def logistic_path(
    features: Tensor,
    labels: Tensor,
    strengths: Sequence[float],
    *,
    folds: Tensor | None = None,
    n_classes: int | None = None,
    intercept: bool = False,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Iterator[LogisticFit]:
    """Multinomial logistic regression for every strength C, from the smallest on.

    Minimised is the sum of -log softmax(W x_i + b)[y_i] over the images i of a fold, plus |W|^2 / (2 C).

    Parameters
    ----------
    features : Tensor, (n, d)
        Where they are, there is computed; in their precision, or float32 if that is more.
    labels : Tensor, (n,) integers
        0 to n_classes - 1.
    strengths : sequence of float
        Values of C; positive.
    folds : Tensor, (folds, n) bool, optional
        The training images of each fold; None: one fold of all.
    n_classes : int, optional
        The greatest label plus one if None.
    intercept : bool
    tolerance : float
        Of the minimised values, relative; see `minimize`.
    max_steps : int
        For each strength.

    Yields
    ------
    LogisticFit
        In rising order of C.

    Raises
    ------
    ValueError
        If shapes do not match, features are not finite, labels are out of their range, there are fewer than two
        classes, a fold is empty, or a strength or the tolerance is not positive.
    """
    folds = torch.ones(1, len(labels), dtype=torch.bool) if folds is None else folds
    n_classes = _check(features, labels, strengths, folds, n_classes, tolerance)
    problem = _Problem(features, labels, folds, n_classes, intercept)
    solved: list[tuple[float, Tensor]] = []  # the last two logarithms of C, and their solutions
    for strength in sorted(strengths):
        problem.set_strength(strength, solved[-1][1] if solved else problem.zeros())
        start = problem.best_of(_guesses(solved, math.log(strength)) or [problem.zeros()])
        scaled, values, steps = minimize(problem.evaluate, start, tolerance=tolerance, max_steps=max_steps)
        points = scaled * problem.scale
        solved = [*solved[-1:], (math.log(strength), points)]
        yield LogisticFit(strength, *problem.unturned(points), values * problem.counts, steps)


def _guesses(solved: Sequence[tuple[float, Tensor]], log_strength: float) -> list[Tensor]:
    """Where the next solution may be: at the last one, and where the line through the last two leads."""
    guesses = [points for _, points in solved[-1:]]
    if len(solved) == 2 and solved[1][0] > solved[0][0]:
        (before, old), (last, new) = solved
        guesses.append(new + (log_strength - last) / (last - before) * (new - old))
    return guesses


class _Problem:
    """The objectives of all folds, divided by their numbers of images, in turned and scaled coordinates.

    A point (folds, p) holds weights (axes, classes) of each fold, those of the constant 1 last if there is an
    intercept.
    """

    def __init__(self, features: Tensor, labels: Tensor, folds: Tensor, n_classes: int, intercept: bool) -> None:
        x = features.to(torch.promote_types(features.dtype, torch.float32))
        self.mean = x.mean(dim=0) if intercept else x.new_zeros(x.shape[1])
        x = x - self.mean
        variances, self.axes = torch.linalg.eigh((x.double().mT @ x.double()) / len(x))
        kept = variances > variances[-1] * 1e-14  # images do not reach beyond, and nor do the solutions
        kept[-1] = True
        self.variances, self.axes = variances[kept].to(x), self.axes[:, kept].to(x)
        x = x @ self.axes
        self.x = torch.cat([x, x.new_ones(len(x), 1)], dim=1) if intercept else x
        self.intercept, self.n_classes = intercept, n_classes
        self.labels = labels.to(x.device, torch.int64)[:, None, None].expand(-1, len(folds), 1)
        self.counts = folds.sum(dim=1).to(x)
        self.weights = folds.T.to(x) / self.counts  # (n, folds)
        self.penalty, self.scale = 0.0, x.new_zeros(0)

    def zeros(self) -> Tensor:
        return self.x.new_zeros(len(self.counts), self.x.shape[1] * self.n_classes)

    def set_strength(self, strength: float, points: Tensor) -> None:
        """Take another C, and scale by the curvature that the points have."""
        self.penalty = 1 / strength
        probabilities = self._logits(points).softmax(dim=2)
        spread = (probabilities * (1 - probabilities)).mean(dim=2)  # (n, folds)
        h = (self.weights * spread).sum(dim=0).clamp(min=1e-6)
        own = h[:, None] * self.variances + self.penalty / self.counts[:, None]
        if self.intercept:
            own = torch.cat([own, h[:, None]], dim=1)
        self.scale = own.rsqrt()[:, :, None].expand(-1, -1, self.n_classes).flatten(1)

    def best_of(self, guesses: Sequence[Tensor]) -> Tensor:
        """For each fold the guess with the lowest value, in scaled coordinates."""
        starts = torch.stack([points / self.scale for points in guesses])
        if len(starts) == 1:
            return starts[0]
        chosen = torch.stack([self.evaluate(start)[0] for start in starts]).argmin(dim=0)
        return starts[chosen, torch.arange(len(chosen), device=chosen.device)]

    def _logits(self, points: Tensor) -> Tensor:
        """Of points, (n, folds, classes)."""
        w = points.unflatten(1, (self.x.shape[1], self.n_classes)).transpose(0, 1).flatten(1)  # (axes, folds classes)
        return (self.x @ w).unflatten(1, (-1, self.n_classes))

    def evaluate(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        points = scaled * self.scale
        log_p = self._logits(points).log_softmax(dim=2)
        losses = -(log_p.gather(2, self.labels)[:, :, 0] * self.weights).sum(dim=0)
        errors = log_p.exp_()
        errors.scatter_add_(2, self.labels, errors.new_full((), -1).expand(self.labels.shape))
        errors *= self.weights[:, :, None]
        gradients = (self.x.mT @ errors.flatten(1)).unflatten(1, (-1, self.n_classes)).transpose(0, 1).flatten(1)
        penalised = points[:, : len(self.variances) * self.n_classes]
        factors = self.penalty / self.counts
        values = losses + factors / 2 * (penalised * penalised).sum(dim=1)
        gradients[:, : penalised.shape[1]] += factors[:, None] * penalised
        return values, gradients * self.scale

    def unturned(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (folds, classes, d) and intercepts (folds, classes) of the features as they were given."""
        w = points.unflatten(1, (self.x.shape[1], self.n_classes)).mT  # (folds, classes, axes)
        coefficients = w[:, :, : len(self.variances)] @ self.axes.T
        intercepts = w[:, :, -1] - coefficients @ self.mean if self.intercept else torch.zeros_like(w[:, :, 0])
        return coefficients, intercepts


def _check(
    features: Tensor, labels: Tensor, strengths: Sequence[float], folds: Tensor, n_classes: int | None, tolerance: float
) -> int:
    if features.ndim != 2 or not features.is_floating_point() or features.numel() == 0:
        raise ValueError(f"features must be floating point (n, d), got {features.dtype} {tuple(features.shape)}")
    if not features.isfinite().all():
        raise ValueError("features hold values that are not finite; look at the network that made them")
    if labels.shape != features.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be {len(features)} integers, got {labels.dtype} {tuple(labels.shape)}")
    n_classes = int(labels.max()) + 1 if n_classes is None else n_classes
    if int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        raise ValueError(
            f"labels must be 0 to {n_classes - 1}, got {int(labels.min())} to {int(labels.max())}; -1 marks images "
            "without a class, from which nothing can be learned"
        )
    if n_classes < 2:
        raise ValueError("there is one class: with fewer than two every answer would be right")
    if folds.ndim != 2 or folds.shape[1] != len(labels) or folds.dtype != torch.bool:
        raise ValueError(f"folds must be bool (folds, {len(labels)}), got {folds.dtype} {tuple(folds.shape)}")
    if not bool(folds.any(dim=1).all()):
        raise ValueError("a fold has no training images")
    if not strengths or not all(0 < strength < float("inf") for strength in strengths):
        raise ValueError(f"strengths must be positive numbers, got {list(strengths)}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    return n_classes
