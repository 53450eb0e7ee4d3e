"""Given weights and concentrations, no step at all, and going on from the fit before."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from vmflearn.sphere import VonMisesFisherMixture

MEANS = np.array([[1.0, 0, 0], [0.6, 0.8, 0]])
WEIGHTS, KAPPAS = np.array([0.25, 0.75]), np.array([3.0, 40.0])


def rows(n=50, seed=0):
    X = MEANS[np.arange(n) % 2] + 0.4 * np.random.default_rng(seed).normal(size=(n, 3))
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def log_joint(X):
    """In three dimensions C = kappa / (4 pi sinh kappa)."""
    return np.log(WEIGHTS * KAPPAS / (4 * np.pi * np.sinh(KAPPAS))) + KAPPAS * (X @ MEANS.T)


def quietly(mixture, X, verb="fit"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return getattr(mixture, verb)(X)


def test_without_a_step_the_start_is_the_model():
    X = rows()
    given = {"init": MEANS, "weights_init": WEIGHTS * 4, "concentrations_init": KAPPAS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture = VonMisesFisherMixture(2, max_iter=0, **given).fit(X)
    assert (mixture.n_iter_, mixture.converged_) == (0, False)
    for found, expected in (
        (mixture.weights_, WEIGHTS),
        (mixture.means_, MEANS),
        (mixture.concentrations_, KAPPAS),
    ):
        np.testing.assert_array_equal(found, expected)
        assert not np.shares_memory(found, expected)
    joint = log_joint(X)
    np.testing.assert_allclose(mixture.score_samples(X), logsumexp(joint, axis=1), rtol=1e-12)
    np.testing.assert_allclose(mixture.log_likelihoods_, [logsumexp(joint, axis=1).sum()], rtol=1e-12)
    expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(mixture.predict_proba(X), expected, rtol=1e-10)
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    np.testing.assert_array_equal(
        VonMisesFisherMixture(2, max_iter=0, **tensors).fit(X).predict_proba(X), mixture.predict_proba(X)
    )


@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_one_step_from_given_weights_and_concentrations_equals_longhand(verb):
    X = rows()
    r = np.exp(log_joint(X) - logsumexp(log_joint(X), axis=1, keepdims=True))
    given = {"init": MEANS, "weights_init": WEIGHTS, "concentrations_init": KAPPAS}
    mixture = quietly(VonMisesFisherMixture(2, max_iter=1, **given), X, verb)
    resultants = r.T @ X
    lengths = np.linalg.norm(resultants, axis=1)
    np.testing.assert_allclose(mixture.weights_, r.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(mixture.means_, resultants / lengths[:, None], rtol=1e-12, atol=1e-14)
    kappa = mixture.concentrations_
    np.testing.assert_allclose(1 / np.tanh(kappa) - 1 / kappa, lengths / r.sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("init", ["merge", "k-means++", "random"])
def test_each_may_be_given_beside_drawn_directions(init):
    X = rows()
    plain = VonMisesFisherMixture(2, init=init, max_iter=0, random_state=0).fit(X)
    weighted = VonMisesFisherMixture(2, init=init, max_iter=0, random_state=0, weights_init=[1, 3]).fit(X)
    narrow = VonMisesFisherMixture(2, init=init, max_iter=0, random_state=0, concentrations_init=77).fit(X)
    assert weighted.weights_.tolist() == [0.25, 0.75]
    np.testing.assert_array_equal(weighted.concentrations_, plain.concentrations_)
    np.testing.assert_array_equal(narrow.weights_, plain.weights_)
    assert narrow.concentrations_.tolist() == [77, 77]
    for other in (weighted, narrow):
        np.testing.assert_array_equal(other.means_, plain.means_)


def test_of_several_starts_without_a_step_the_best_is_the_model():
    X = rows()
    one = [VonMisesFisherMixture(2, init="random", max_iter=0, random_state=seed) for seed in range(6)]
    random = np.random.RandomState(3)
    drawn = [VonMisesFisherMixture(2, init="random", max_iter=0, random_state=random).fit(X) for _ in range(4)]
    best = VonMisesFisherMixture(2, init="random", max_iter=0, n_init=4, random_state=3).fit(X)
    assert best.log_likelihoods_[0] == max(mixture.log_likelihoods_[0] for mixture in drawn)
    assert len({mixture.fit(X).log_likelihoods_[0] for mixture in one}) > 1


def test_a_stream_goes_on_from_a_model_without_a_step():
    """Its responsibilities are the first step, so that the same rows again give the M-step of them."""
    X = rows()
    given = {"init": MEANS, "weights_init": WEIGHTS, "concentrations_init": KAPPAS}
    stream = VonMisesFisherMixture(2, max_iter=0, **given).fit(X).partial_fit(X)
    step = quietly(VonMisesFisherMixture(2, max_iter=1, **given), X)
    np.testing.assert_allclose(stream.means_, step.means_, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(stream.concentrations_, step.concentrations_, rtol=1e-12)


@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("concentration", ["free", "tied"])
def test_steps_in_two_fits_are_those_of_one(assignment, concentration):
    """To the last bit; strides learn how far to go, and begin anew."""
    X = rows()
    settings = {"assignment": assignment, "concentration": concentration, "tol": 0, "accelerated": False}
    whole = quietly(VonMisesFisherMixture(2, max_iter=7, random_state=0, **settings), X)
    parts = quietly(VonMisesFisherMixture(2, max_iter=3, random_state=0, warm_start=True, **settings), X)
    quietly(parts.set_params(max_iter=4, n_init=5), X)  # one start only
    for name in ("weights_", "means_", "concentrations_"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.log_likelihoods_ == whole.log_likelihoods_[-len(parts.log_likelihoods_) :]
    assert parts.n_steps_ == 1


def test_a_warm_start_takes_few_rows_and_those_of_another_type():
    X = rows()
    mixture = VonMisesFisherMixture(3, init=X[:3], max_iter=0, concentrations_init=6e7, warm_start=True).fit(X)
    mixture.fit(X[:2].astype(np.float32))
    assert mixture.concentrations_.tolist() == pytest.approx([2.0**11.5] * 3, rel=1e-3)
    with pytest.raises(ValueError, match=r"n_samples=2 rows .* n_components=3"):
        mixture.set_params(warm_start=False).fit(X[:2])


def test_bad_warm_starts():
    X = rows()
    mixture = quietly(VonMisesFisherMixture(2, random_state=0, warm_start=True), X)
    with pytest.raises(
        ValueError, match=r"n_components=3, but the mixture has 2 components: fit anew .warm_start=False."
    ):
        mixture.set_params(n_components=3).fit(X)
    with pytest.raises(ValueError, match="2 features, but VonMisesFisherMixture is expecting 3"):
        mixture.set_params(n_components=2).fit(X[:, :2])
    with pytest.raises(ValueError, match="a concentration for each component and concentration='tied'"):
        mixture.set_params(concentration="tied").fit(X)
    before = mixture.means_.copy()
    assert quietly(mixture.set_params(concentration="free", max_iter=0), X[::-1]).means_.tolist() == before.tolist()
    assert quietly(mixture.set_params(warm_start=False, n_components=3), X).means_.shape == (3, 3)


def test_a_component_given_weight_zero_stays_away_unless_it_may_move():
    X = rows()
    settings = {"init": np.eye(3), "weights_init": [1, 1, 0], "concentrations_init": 9, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match="1 of 3 components lost"):
        assert VonMisesFisherMixture(3, **settings).fit(X).weights_[2] == 0
    assert quietly(VonMisesFisherMixture(3, empty="reseed", **settings), X).weights_[2] > 0
