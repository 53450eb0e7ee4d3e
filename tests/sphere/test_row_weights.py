"""A row of weight two is the row written twice, from every start; and weights have no scale."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from vmflearn.sphere import VonMisesFisherMixture, initialization
from vmflearn.sphere.arguments import as_tensor
from vmflearn.sphere.em import Data
from vmflearn.sphere.rows import dense_rows

INITS = ["merge", "k-means++", "random"]


def rows(n=60, seed=0):
    random = np.random.default_rng(seed)
    return np.eye(4)[np.arange(n) % 3] + 0.4 * random.normal(size=(n, 4))


def fit(X, weight=None, **chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return VonMisesFisherMixture(3, **{"random_state": 7, "max_iter": 25, **chosen}).fit(X, sample_weight=weight)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("concentration", ["free", "tied"])
def test_weights_are_repetitions_in_any_order(init, assignment, concentration):
    """Weight zero is no row. Rows of a sum are added in another order, so that it holds to rounding."""
    X, weight = rows(), np.random.default_rng(1).integers(0, 4, size=60)
    repeated = np.repeat(X, weight, axis=0)
    repeated = repeated[np.random.default_rng(2).permutation(len(repeated))]
    chosen = {"init": init, "assignment": assignment, "concentration": concentration, "n_init": 2}
    one, two = fit(X, weight, **chosen), fit(repeated, **chosen)
    np.testing.assert_allclose(one.log_likelihoods_, two.log_likelihoods_, rtol=1e-11)
    np.testing.assert_allclose(one.weights_, two.weights_, rtol=1e-9)
    np.testing.assert_allclose(one.means_, two.means_, atol=1e-9)
    np.testing.assert_allclose(one.concentrations_, two.concentrations_, rtol=1e-9)


@pytest.mark.parametrize("init", INITS)
def test_a_start_is_the_same_at_any_length_of_the_rows(init):
    """Directions agree to rounding only."""
    X = rows()
    one, two = (fit(each, init=init) for each in (X, X * np.random.default_rng(3).uniform(0.1, 9, size=(60, 1))))
    np.testing.assert_allclose(one.log_likelihoods_, two.log_likelihoods_, rtol=1e-9)


@pytest.mark.parametrize("init", ["merge", "k-means++"])
def test_weights_are_repetitions_where_starts_look_at_a_sample(init, monkeypatch):
    monkeypatch.setattr(initialization, "SEED_ROWS", 20)
    X, weight = rows(200), np.random.default_rng(1).integers(0, 4, size=200)
    one, two = fit(X, weight, init=init), fit(np.repeat(X, weight, axis=0)[::-1], init=init)
    np.testing.assert_allclose(one.log_likelihoods_, two.log_likelihoods_, rtol=1e-11)


def test_rows_are_sampled_by_their_weight():
    """Mean number of draws, 10 w_i / W of ten, within four standard errors; none of rows of no weight."""
    X, weight = rows(40), np.r_[np.zeros(5), np.ones(15), np.full(19, 3.0), 60.0]
    unit, _ = dense_rows(as_tensor(X), torch.device("cpu"), 100)
    data = Data(unit, torch.from_numpy(weight), float(weight.sum()), 35)
    counts = np.zeros(40)
    for seed in range(200):
        found, times = initialization._rows_for_seeding(data, 10, np.random.RandomState(seed))
        assert times.sum() == 10
        place = [int(np.flatnonzero(np.isclose(unit.dense().numpy(), row).all(axis=1))[0]) for row in found.dense()]
        np.add.at(counts, place, times.numpy())
    expected = 10 * weight / weight.sum()
    spread = np.sqrt(np.maximum(expected, 1e-12) * 1.0 / 200)  # no more than of independent draws
    assert (np.abs(counts / 200 - expected) <= 4 * spread).all()


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("assignment", ["soft", "hard"])
@given(
    seed=st.integers(0, 2**31 - 1),
    widest=st.floats(0, 300),
    power=st.integers(-60, 60),
    dtype=st.sampled_from([np.float64, np.float32]),
)
@settings(deadline=None, derandomize=True, max_examples=3)
def test_weights_over_300_orders_of_magnitude(init, assignment, seed, widest, power, dtype):
    """Finite, rising to rounding, and the same to the last bit at another scale."""
    random = np.random.default_rng(seed)
    X, weight = rows(25, seed).astype(dtype), 10.0 ** -random.uniform(0, widest, size=25)
    weight[:4] = 1.0
    chosen = {"init": init, "assignment": assignment, "max_iter": 12, "shrinkage": 0.01}
    one = fit(X, weight, **chosen)
    two = fit(X, weight * 2.0**power, **{**chosen, "shrinkage": 0.01 * 2.0**power})
    for name in ("weights_", "means_", "concentrations_"):
        assert np.isfinite(getattr(one, name)).all()
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert two.log_likelihoods_ == [objective * 2.0**power for objective in one.log_likelihoods_]
    # at the largest concentration the rounding of kappa <mu, x> is that of half a root of eps for each of three degrees
    rounding = 1.5 * np.finfo(dtype).eps ** 0.5 * weight.sum()
    assert np.diff(one.log_likelihoods_).min(initial=0) >= -rounding
