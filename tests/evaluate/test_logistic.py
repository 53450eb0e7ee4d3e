"""Coefficients against scikit-learn's newton-cg, whatever the folds, scales and penalties."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vmflearn.evaluate.logistic import logistic_path


def clusters(n: int = 200, d: int = 12, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping clouds whose columns have scales from 0.03 to 3 and are far from 0."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    y = torch.arange(n) % classes
    x = centres[y] + 1.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * torch.logspace(-1.5, 0.5, d, dtype=torch.float64) + 2, y


def theirs(x: Tensor, y: Tensor, strength: float, intercept: bool) -> LogisticRegression:
    solver = LogisticRegression(C=strength, fit_intercept=intercept, solver="newton-cg", tol=1e-10, max_iter=10000)
    return solver.fit(x.numpy(), y.numpy())


def objective(x: Tensor, y: Tensor, coefficients: Tensor, intercepts: Tensor, strength: float) -> float:
    scores = x @ coefficients.T + intercepts
    losses = torch.logsumexp(scores, dim=1) - scores[torch.arange(len(y)), y]
    return float(losses.sum() + (coefficients**2).sum() / (2 * strength))


@pytest.mark.parametrize("intercept", [False, True])
def test_a_path_of_folds_is_scikit_learn_one_by_one(intercept):
    x, y = clusters()
    folds = torch.arange(200)[None] % 3 != torch.arange(3)[:, None]
    strengths = [30.0, 1e-3, 0.1, 1.0]
    fits = list(logistic_path(x, y, strengths, folds=folds, intercept=intercept, tolerance=1e-15))
    assert [fit.strength for fit in fits] == sorted(strengths)
    for fit in fits:
        for fold, kept in enumerate(folds):
            want = theirs(x[kept], y[kept], fit.strength, intercept)
            coefficients = fit.coefficients[fold]
            np.testing.assert_allclose(coefficients, want.coef_, atol=1e-5 * np.abs(want.coef_).max())
            scores = fit.scores(x)[fold]
            np.testing.assert_allclose(scores.softmax(1), want.predict_proba(x.numpy()), atol=1e-5)
            own = objective(x[kept], y[kept], coefficients, fit.intercepts[fold], fit.strength)
            assert float(fit.objectives[fold]) == pytest.approx(own, rel=1e-12)


def test_more_features_than_images():
    x, y = clusters(n=15, d=40)
    (fit,) = logistic_path(x, y, [2.0], tolerance=1e-15)
    want = theirs(x, y, 2.0, False)
    np.testing.assert_allclose(fit.coefficients[0], want.coef_, atol=1e-5 * np.abs(want.coef_).max())


def test_two_classes_have_twice_the_strength_of_scikit_learns_single_vector():
    x, y = clusters(classes=2)
    (fit,) = logistic_path(x, y, [0.5], tolerance=1e-15, intercept=True)
    want = theirs(x, y, 1.0, True)
    np.testing.assert_allclose(fit.coefficients[0, 1] - fit.coefficients[0, 0], want.coef_[0], atol=1e-5)


def test_in_single_precision_the_objective_is_as_low_up_to_a_millionth():
    x, y = clusters(n=600, d=30, classes=10)
    strengths = np.logspace(-4, 3, 12).tolist()
    for exact, fit in zip(
        logistic_path(x, y, strengths, tolerance=1e-14),
        logistic_path(x.float(), y, strengths),
        strict=True,
    ):
        own = objective(x, y, fit.coefficients[0].double(), fit.intercepts[0].double(), fit.strength)
        assert own == pytest.approx(float(exact.objectives[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.zeros(6, dtype=torch.int64)}, "there is one class"),
        ({"labels": torch.tensor([0, 1, 2, -1, 0, 1])}, "labels must be 0 to 2, got -1 to 2; -1 marks"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels must be 6 integers"),
        ({"features": torch.full((6, 2), torch.nan)}, "not finite"),
        ({"features": torch.zeros(0, 2)}, r"got torch.float32 \(0, 2\)"),
        ({"strengths": [1.0, 0.0]}, r"strengths must be positive numbers, got \[1.0, 0.0\]"),
        ({"strengths": []}, "strengths must be positive"),
        ({"folds": torch.zeros(2, 6, dtype=torch.bool)}, "a fold has no training images"),
        ({"folds": torch.ones(2, 5, dtype=torch.bool)}, r"folds must be bool \(folds, 6\)"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
    ],
)
def test_what_cannot_be_fitted(changes, message):
    given = {"features": torch.zeros(6, 2), "labels": torch.arange(6) % 2, "strengths": [1.0]} | changes
    with pytest.raises(ValueError, match=message):
        list(logistic_path(**given))
