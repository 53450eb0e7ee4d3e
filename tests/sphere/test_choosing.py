"""Numbers of components, compared."""

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse
from sklearn.model_selection import KFold, cross_val_score

from vmflearn.data.household import load_household
from vmflearn.sphere import VonMisesFisherMixture, choose_components


def test_bic_of_the_household_data_is_movmfs():
    """Hornik and Grün's -169.4291, -200.3364 and -211.5490 are with respect to the uniform distribution."""
    mixture = VonMisesFisherMixture(n_init=4, tol=1e-11, max_iter=2000, random_state=0)
    choice = choose_components(mixture, load_household().X, range(1, 4))
    np.testing.assert_allclose(choice.scores - 80 * np.log(4 * np.pi), [-169.4291, -200.3364, -211.5490], atol=6e-5)
    assert (choice.criterion, choice.n_components, choice.best) == ("bic", [1, 2, 3], 3)
    assert choice.mixture.bic(load_household().X) == choice.scores[2]
    assert mixture.n_components == 2
    assert not hasattr(mixture, "weights_")


def rows(n=60):
    return np.eye(3)[np.arange(n) % 3] + 0.15 * np.random.default_rng(0).normal(size=(n, 3))


@pytest.mark.parametrize(
    "form",
    [np.asarray, torch.from_numpy, sparse.csr_array, lambda X: pandas.DataFrame(X, columns=list("abc")), list],
    ids=["array", "tensor", "sparse", "frame", "list"],
)
def test_rows_left_out_are_scored_as_scikit_learn_does(form):
    """Folds of equal size, so that the mean of their scores is the mean of rows; zeros have no part in it."""
    mixture = VonMisesFisherMixture(random_state=3, tol=1e-3)
    choice = choose_components(mixture, form(rows()), [1, 3, 5], "held-out", n_folds=3)
    folds = KFold(3, shuffle=True, random_state=3)
    expected = [
        -cross_val_score(VonMisesFisherMixture(k, random_state=3, tol=1e-3), rows(), cv=folds).mean() for k in (1, 3, 5)
    ]
    np.testing.assert_allclose(choice.scores, expected, rtol=1e-6)
    assert choice.best == choice.mixture.n_components == 3
    assert choice.mixture.predict(form(rows())).shape == (60,)


def test_weights_count_in_every_criterion():
    X, weights = rows(), np.random.default_rng(1).integers(0, 3, size=60)
    mixture = VonMisesFisherMixture(random_state=3, tol=1e-3)
    for criterion in ("bic", "aic"):
        one = choose_components(mixture, X, [2, 3], criterion, sample_weight=weights)
        two = choose_components(mixture, np.repeat(X, weights, axis=0), [2, 3], criterion)
        np.testing.assert_allclose(one.scores, two.scores, rtol=1e-9)
    found = choose_components(mixture, X, [2], "held-out", sample_weight=weights, n_folds=2).scores[0]
    total = 0.0
    for rest, fold in KFold(2, shuffle=True, random_state=3).split(X):
        fit = VonMisesFisherMixture(2, random_state=3, tol=1e-3).fit(X[rest], sample_weight=weights[rest])
        total += fit.score_samples(np.repeat(X[fold], weights[fold], axis=0)).sum()
    assert found == pytest.approx(-total / weights.sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], "bic"), "candidates is empty"),
        (([1, 0], "bic"), "each of candidates must be an integer >= 1, got 0"),
        (([1], "icl"), r"criterion must be one of \('bic', 'aic', 'held-out'\), got 'icl'"),
        (([7], "bic"), "n_samples=6 rows .* n_components=7"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_components(VonMisesFisherMixture(), rows(6), *arguments)
    with pytest.raises(ValueError, match="n_folds must be an integer >= 2, got 1"):
        choose_components(VonMisesFisherMixture(), rows(6), [1], "held-out", n_folds=1)
    with pytest.raises(ValueError, match=r"sample_weight has shape \(7,\): give one weight per row, \(6,\)"):
        choose_components(VonMisesFisherMixture(), rows(6), [1], "held-out", sample_weight=np.ones(7), n_folds=2)
