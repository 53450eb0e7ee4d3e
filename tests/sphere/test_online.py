"""Online expectation-maximisation: closed forms, a stream, and going on after fit."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from vmflearn.sphere import VonMisesFisherMixture
from vmflearn.sphere.em import Statistics
from vmflearn.sphere.online import blend, step_size


def test_step_sizes():
    assert step_size(1, 0.7, 10.0) == 1.0
    assert step_size(2, 1.0, 0.0) == 0.5
    assert step_size(5, 0.6, 3.0) == pytest.approx(8**-0.6)


def test_blend():
    one = Statistics(torch.tensor([0.25, 0.75]), torch.ones(2, 3))
    two = Statistics(torch.tensor([0.5, 0.5]), torch.zeros(2, 3))
    masses, resultants = blend(one, two, 0.25)
    assert masses.tolist() == [0.3125, 0.6875]
    assert (resultants == 0.75).all()


@pytest.mark.parametrize("concentration", ["free", "tied"])
def test_one_component_with_decay_one_is_the_running_mean(concentration):
    """K = 1, gamma_t = 1 / t, equal batches: the same mean direction and concentration as all rows at once."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)) + np.array([2.0, 0, 0, 0])
    settings = {"n_components": 1, "concentration": concentration, "shrinkage": 3.0}
    online = VonMisesFisherMixture(learning_decay=1.0, learning_offset=0.0, **settings)
    for t, batch in enumerate(np.split(X, 6), start=1):
        online.partial_fit(batch)
        whole = VonMisesFisherMixture(**settings).fit(X[: 10 * t])
        np.testing.assert_allclose(online.means_, whole.means_, rtol=1e-12)
        np.testing.assert_allclose(online.concentrations_, whole.concentrations_, rtol=1e-11)
        assert online.n_steps_ == t


def test_weights_within_a_batch_are_repetitions():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 3))
    weight = rng.integers(1, 4, size=30)
    one, two = (VonMisesFisherMixture(2, init=X[:2]) for _ in range(2))
    for half in (slice(0, 15), slice(15, 30)):
        one.partial_fit(X[half], sample_weight=weight[half])
        two.partial_fit(np.repeat(X[half], weight[half], axis=0))
    np.testing.assert_allclose(one.means_, two.means_, rtol=1e-11)
    np.testing.assert_allclose(one.concentrations_, two.concentrations_, rtol=1e-10)


@pytest.mark.parametrize("power", [-1060, 1010])
def test_weights_of_a_stream_count_beside_each_other_and_shrinkage_alone(power):
    """A(kappa) = |R| / (1 + m / weight of all rows seen), R the running mean of the batches' means; one component."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, 3)) + np.array([2.0, 0, 0])
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    weight, unit = np.r_[np.full(10, 1.0), np.full(10, 16.0)], 2.0**power
    for scale in (1.0, unit):
        mixture = VonMisesFisherMixture(1, shrinkage=34 * scale, learning_decay=1.0, learning_offset=0.0)
        for half in (slice(0, 10), slice(10, 20)):
            mixture.partial_fit(X[half], sample_weight=weight[half] * scale)
        length = np.linalg.norm((X[:10].mean(axis=0) + X[10:].mean(axis=0)) / 2) / (1 + 34 / 170)
        kappa = mixture.concentrations_[0]
        assert 1 / np.tanh(kappa) - 1 / kappa == pytest.approx(length, rel=1e-12)


def test_two_components_by_hand():
    """Hard assignment on the circle: masses and resultants blended with gamma_2 = (2 + 1)^-1."""
    first = np.array([[1.0, 0], [0.8, 0.6], [0, 1.0]])
    second = np.array([[0.6, 0.8], [0, 1.0]])
    mixture = VonMisesFisherMixture(
        2, assignment="hard", concentration="tied", init=np.eye(2), learning_decay=1.0, learning_offset=1.0
    )
    mixture.partial_fit(first)
    np.testing.assert_allclose(mixture.weights_, [2 / 3, 1 / 3], rtol=1e-12)
    mixture.partial_fit(second)  # cosines of (0.6, 0.8) are 0.82 with (1.8, 0.6) / |.|, the heavier one, and 0.8
    labels = [0, 1]
    s = np.zeros((2, 3))
    for x, k in zip(first, [0, 0, 1], strict=True):
        s[k] += np.array([1, *x]) * (2 / 3) / 3
    for x, k in zip(second, labels, strict=True):
        s[k] += np.array([1, *x]) * (1 / 3) / 2
    np.testing.assert_allclose(mixture.weights_, s[:, 0], rtol=1e-12)
    np.testing.assert_allclose(mixture.means_, s[:, 1:] / np.linalg.norm(s[:, 1:], axis=1, keepdims=True), rtol=1e-12)


def test_a_stream_is_followed_to_the_batch_fit(planted):
    X, _, _ = planted([0.3, 0.7], [[1, 0, 0], [0, 1, 1]], [20.0, 8.0], 12000)
    whole = VonMisesFisherMixture(2, random_state=0).fit(X)
    stream = VonMisesFisherMixture(2, random_state=0)
    for batch in np.split(X, 120):
        stream.partial_fit(batch)
    order = (stream.means_ @ whole.means_.T).argmax(axis=0)
    assert sorted(order) == [0, 1]
    assert np.arccos(np.clip((stream.means_[order] * whole.means_).sum(axis=1), -1, 1)).max() < 0.03
    np.testing.assert_allclose(stream.weights_[order], whole.weights_, atol=0.02)
    np.testing.assert_allclose(stream.concentrations_[order], whole.concentrations_, rtol=0.06)
    assert stream.n_steps_ == 120
    assert stream.score(X) == pytest.approx(whole.score(X), abs=2e-3)


def test_going_on_after_fit(planted):
    """The fit is the first step: its statistics are kept with 1 - gamma_2; the same rows again change nothing."""
    X, _, _ = planted([0.3, 0.7], [[1, 0, 0], [0, 1, 1]], [20.0, 8.0], 500)
    fitted = VonMisesFisherMixture(2, random_state=0, tol=1e-14, max_iter=2000).fit(X)
    assert fitted.n_steps_ == 1
    before = fitted.means_.copy(), fitted.concentrations_.copy()
    again = pickle.loads(pickle.dumps(fitted)).partial_fit(X)
    assert again.n_steps_ == 2
    np.testing.assert_allclose(again.means_, before[0], atol=1e-6)
    np.testing.assert_allclose(again.concentrations_, before[1], rtol=1e-6)

    away = fitted.partial_fit(-X)
    gamma = 12**-0.7
    expected = (1 - gamma) * X.mean(axis=0) - gamma * X.mean(axis=0)  # summed over components, whatever the labels
    total = sum(resultant.numpy() for resultant in away._statistics.resultants)
    np.testing.assert_allclose(total, expected, atol=1e-10)
    assert away.fit(X).n_steps_ == 1


def test_first_batch_needs_a_row_for_each_component():
    X = np.random.default_rng(0).normal(size=(6, 3))
    mixture = VonMisesFisherMixture(4)
    with pytest.raises(ValueError, match=r"n_samples=3 rows .* n_components=4"):
        mixture.partial_fit(X[:3])
    mixture.partial_fit(X).partial_fit(X[:1])
    with pytest.raises(ValueError, match="n_samples=0 rows"), pytest.warns(UserWarning, match="zeros"):
        mixture.partial_fit(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="n_components=2, but the mixture has 4"):
        mixture.set_params(n_components=2).partial_fit(X)
    with pytest.raises(ValueError, match="2 features, but VonMisesFisherMixture is expecting 3"):
        mixture.set_params(n_components=4).partial_fit(X[:, :2])
    assert mixture.n_steps_ == 2


def test_a_component_without_rows_may_move():
    X = np.array([[1, 0.1], [1, -0.1], [-1, 0.1], [-1, -0.1]])
    init = np.array([[1.0, 0], [0.7, 0.7], [-1, 0]])
    settings = {"assignment": "hard", "init": init, "shrinkage": 0.1}
    for empty, n_used in (("keep", 2), ("reseed", 3)):
        mixture = VonMisesFisherMixture(3, empty=empty, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.partial_fit(X)
        assert (mixture.weights_ > 0).sum() == n_used
