"""Starts, convergence, reseeding and warnings."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from vmflearn.data.household import load_household
from vmflearn.sphere import VonMisesFisherMixture
from vmflearn.sphere.em import Data, Model, Parameters, Statistics
from vmflearn.sphere.fitting import reseed
from vmflearn.sphere.rows import dense_rows


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_more_starts_keep_the_best():
    X = load_household().X
    parameters = {"n_components": 4, "max_iter": 4}
    random_state = np.random.RandomState(0)
    finals = [
        VonMisesFisherMixture(**parameters, init=init, random_state=random_state).fit(X).log_likelihoods_[-1]
        for init in ("merge", "k-means++", "k-means++", "k-means++")
    ]
    many = VonMisesFisherMixture(**parameters, n_init=4, random_state=np.random.RandomState(0)).fit(X)
    assert many.log_likelihoods_[-1] == max(finals)
    assert finals.index(max(finals)) not in (0, 3)  # neither the first nor the last start would do


def test_progress_bar_only_when_asked(capsys):
    X = load_household().X
    VonMisesFisherMixture(2, random_state=0).fit(X)
    assert capsys.readouterr().err == ""
    mixture = VonMisesFisherMixture(2, n_init=2, random_state=0, verbose=1).fit(X)
    bar = capsys.readouterr().err
    assert "EM, start 1 of 2" in bar
    assert "EM, start 2 of 2" in bar
    assert bar.count("\n") == 1  # one bar for both
    assert "log_likelihood=" in bar
    assert "change=" in bar
    assert mixture.n_iter_ > 1


def corners(*angles, spread=8.0, n=10):
    """Rows on the circle, ``n`` evenly within ``spread`` degrees to either side of each angle."""
    around = np.deg2rad(np.add.outer(np.array(angles), np.linspace(-spread, spread, n)).ravel())
    return np.stack([np.cos(around), np.sin(around)], axis=1)


INIT = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.8, 0.8]])


@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("concentration", ["free", "tied"])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_a_lost_component_moves_to_the_worst_explained_rows(assignment, concentration, make):
    """Three components sit on three of four clusters, the last one on none and ends in the fourth."""
    X = corners(0, 90, 180, 275)
    settings = {"concentration": concentration, "assignment": assignment, "init": INIT}
    moved = VonMisesFisherMixture(4, empty="reseed", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        moved.fit(make(X))
    labels = moved.predict(X).reshape(4, 10)
    assert moved.converged_
    assert sorted(labels[:, 0]) == [0, 1, 2, 3]
    assert (labels == labels[:, :1]).all()
    if assignment == "hard":
        with pytest.warns(ConvergenceWarning, match="1 of 4 components lost all their rows"):
            kept = VonMisesFisherMixture(4, **settings).fit(make(X))
        assert moved.log_likelihoods_[-1] > kept.log_likelihoods_[-1] + 5


def test_the_moved_component_in_closed_form():
    """One M-step after a move: weight 1 / (K + 1), the worst row's direction, the pooled concentration."""
    X = corners(0, 90, 180, 275, n=3)
    with pytest.warns(ConvergenceWarning):
        once = VonMisesFisherMixture(4, assignment="hard", empty="reseed", init=INIT, max_iter=1).fit(X)
    # all start with one concentration: rows go to the nearest direction, and the farthest is that at 267 degrees
    np.testing.assert_allclose(once.means_[3], X[9], atol=1e-12)
    np.testing.assert_allclose(
        once.weights_, np.array([6 / 12, 3 / 12, 3 / 12 + 0, 1 / 4]) * 4 / 5 - [4 / 60, 0, -4 / 60, 0]
    )
    groups = [X[[0, 1, 2, 10, 11]], X[3:6], X[[6, 7, 8, 9]]]
    length = sum(np.linalg.norm(rows.sum(axis=0)) for rows in groups) / 12
    pair = np.array([[length, np.sqrt(1 - length**2)], [length, -np.sqrt(1 - length**2)]])  # of that mean length
    assert once.concentrations_[3] == pytest.approx(VonMisesFisherMixture(1).fit(pair).concentrations_[0], rel=1e-9)


def test_a_step_that_moves_a_component_is_not_the_last():
    X = corners(0, 90, 180, 275)
    for empty, n_iter in (("keep", 1), ("reseed", 2)):
        mixture = VonMisesFisherMixture(4, assignment="hard", empty=empty, init=INIT, tol=1e6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            assert mixture.fit(X).n_iter_ == n_iter


def test_reseeding_ends_with_fewer_distinct_rows_than_components():
    X = np.repeat(np.eye(3), 4, axis=0)
    for assignment in ("soft", "hard"):
        mixture = VonMisesFisherMixture(6, assignment=assignment, empty="reseed", random_state=0, shrinkage=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(X)
        assert mixture.converged_
        assert len(set(mixture.predict(X[::4]))) == 3
        assert np.isfinite(mixture.log_likelihoods_).all()


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_lost_is_a_mass_below_a_hundred_millionth_of_a_row(scale):
    """Whatever the unit of the statistics; after a move they add up to what they did."""
    X = corners(0, 90, n=5)
    rows, _ = dense_rows(torch.from_numpy(X), torch.device("cpu"), 100)
    data = Data(rows, torch.ones(10, dtype=torch.float64), 10.0, 10)
    parameters = Parameters(torch.full((2,), 0.5).double(), torch.eye(2).double(), torch.ones(2).double())
    for mass, expected in ((0.9e-8, True), (1.1e-8, False)):
        masses = scale * torch.tensor([10 - mass, mass], dtype=torch.float64)
        statistics = Statistics(masses, masses[:, None] * torch.eye(2))
        after, moved = reseed(data, statistics, parameters, Model("free", "soft", 0.0, 1e-8), 100)
        assert moved is expected
        assert after.masses.sum().item() == pytest.approx(10 * scale, rel=1e-8)  # but for what was lost
        assert after.masses[1].item() == pytest.approx(scale * (10 / 3 if moved else mass), rel=1e-7)


def test_rows_without_weight_attract_no_component():
    X = np.vstack([corners(0, 90, 130, n=3), [[0.0, -1.0]]])
    weight = np.r_[np.ones(9), 0.0]
    init = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.8]])
    mixture = VonMisesFisherMixture(3, assignment="hard", empty="reseed", init=init, max_iter=1)
    with pytest.warns(ConvergenceWarning):
        mixture.fit(X, sample_weight=weight)
    np.testing.assert_allclose(mixture.means_[2], X[8], atol=1e-12)  # not at the last row


def test_a_component_of_one_row_is_reported():
    X = np.vstack([corners(0, 150), [[0.0, -1.0]]])
    init = np.array([[1.0, 0.0], [-0.9, 0.5], [0.0, -1.0]])
    with pytest.warns(ConvergenceWarning, match=r"1 of 3 components hold one row each .* shrinkage=1"):
        VonMisesFisherMixture(3, assignment="hard", init=init).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        mixture = VonMisesFisherMixture(3, assignment="hard", init=init, shrinkage=0.1).fit(X)
        VonMisesFisherMixture(1).fit(X[:1])  # there is nothing else to be fitted to one row
        VonMisesFisherMixture(1).fit(np.repeat(X[:1], 3, axis=0))
    assert mixture.weights_[2] == pytest.approx(1 / 21)
    assert 1 < mixture.concentrations_[2] < 20


def test_warnings_point_at_the_call_of_fit():
    X = corners(0, 90, 180, 275)
    with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
        VonMisesFisherMixture(2, max_iter=1, tol=0, random_state=0).fit(X)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="1 rows of zeros") as caught:
        VonMisesFisherMixture(1).fit(np.vstack([X, [[0, 0]]]))
    assert caught[0].filename == __file__
