"""Strides between the steps of expectation-maximisation."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from vmflearn.sphere import VonMisesFisherMixture
from vmflearn.sphere.acceleration import Strides
from vmflearn.sphere.em import Model, Parameters


def overlapping(n=1500, dim=6, n_components=5, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_components, dim))
    return centers[rng.integers(n_components, size=n)] + rng.normal(size=(n, dim))


def test_a_geometric_sequence_is_summed_at_once():
    """Where each step is half the last, in the coordinates of the strides, the limit is two steps from the start."""
    limit = np.array([0.5, 1.0])

    def mixture(k):
        logarithms = np.log(limit) + 0.5**k * np.array([0.2, -0.4])
        return Parameters(
            torch.full((2,), 0.5, dtype=torch.float64),
            torch.eye(2, dtype=torch.float64),
            torch.from_numpy(np.exp(logarithms)),
        )

    strides = Strides(Model("free", "soft", 0.0, 1e-8), 2)
    found = strides.propose(mixture(0), mixture(1), mixture(2))
    assert strides.length == pytest.approx(2.0)
    np.testing.assert_allclose(found.concentrations, limit, rtol=1e-12)
    np.testing.assert_allclose(found.weights, 0.5, rtol=1e-15)
    torch.testing.assert_close(found.means, torch.eye(2, dtype=torch.float64))


def test_components_without_rows_stay_without():
    points = [
        Parameters(
            torch.tensor([1.0, 0.0], dtype=torch.float64),
            torch.eye(2, dtype=torch.float64),
            torch.tensor([2.0 + 0.5**k, 0.0], dtype=torch.float64),
        )
        for k in range(3)
    ]
    found = Strides(Model("free", "soft", 0.0, 1e-8), 2).propose(*points)
    assert found.weights.tolist() == [1.0, 0.0]
    assert float(found.concentrations[1]) == 0.0
    assert torch.isfinite(found.means).all()


@pytest.mark.parametrize("concentration", ["free", "tied"])
def test_fewer_steps_to_a_likelihood_no_lower(concentration):
    X = overlapping()
    settings = {"concentration": concentration, "init": X[:5], "max_iter": 3000, "tol": 1e-8}
    plain = VonMisesFisherMixture(5, accelerated=False, **settings).fit(X)
    fast = VonMisesFisherMixture(5, **settings).fit(X)
    assert plain.converged_
    assert fast.converged_
    assert fast.n_iter_ < 0.6 * plain.n_iter_
    assert fast.log_likelihoods_[-1] > plain.log_likelihoods_[-1] - 1e-3
    assert len(fast.log_likelihoods_) == fast.n_iter_ + 1
    if concentration == "tied":
        assert len(set(fast.concentrations_)) == 1


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["free", "tied"]),
    st.sampled_from(["merge", "k-means++", "random"]),
    st.integers(-150, 150),
    st.sampled_from([0.0, 0.3]),
)
def test_the_objective_never_falls(seed, concentration, init, power, shrinkage):
    """Any start, weights over 300 orders of magnitude, with strides."""
    X = overlapping(60, 3, 3, seed)
    weights = 10.0 ** np.random.default_rng(seed).uniform(min(power, 0), max(power, 0), size=60)
    mixture = VonMisesFisherMixture(
        4, concentration=concentration, init=init, shrinkage=shrinkage, max_iter=40, tol=0.0, random_state=seed
    )
    objectives = np.array(mixture.fit(X, sample_weight=weights).log_likelihoods_)
    # A row's log-density is, for the most part, w kappa <mu, x>. Its error, in halves of an eps, is that of the inner
    # product (one for each dimension), of the product with kappa and of the normaliser; a fall is a difference of two.
    rounding = (X.shape[1] + 2) * np.finfo(float).eps * weights.sum() * mixture.concentrations_.max()
    assert (np.diff(objectives) >= -1e-12 * np.abs(objectives).max() - rounding).all()


def test_the_last_step_is_no_stride():
    """What a stream goes on from are the statistics that gave the parameters, which a stride has not."""
    X = overlapping(300)
    for max_iter in (1, 2, 3, 4):
        mixture = VonMisesFisherMixture(3, init=X[:3], max_iter=max_iter, tol=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(X)
        assert mixture.n_iter_ == max_iter
        np.testing.assert_allclose(mixture.weights_, mixture._statistics.masses, rtol=1e-12)
