"""Starts: merged groups, k-means++ seeds, given directions, random responsibilities."""

import numpy as np
import pytest
import torch

from vmflearn.sphere import VonMisesFisherMixture, initialization
from vmflearn.sphere.arguments import as_tensor
from vmflearn.sphere.em import Data, Model
from vmflearn.sphere.initialization import (
    first_parameters,
    merged_directions,
    parameters_from_directions,
    plus_plus_seeds,
)
from vmflearn.sphere.row_numbers import bits_of, random_multipliers, uniform_numbers
from vmflearn.sphere.rows import dense_rows


def data_from(X, weights=None):
    rows, _ = dense_rows(as_tensor(np.asarray(X, dtype=float)), torch.device("cpu"), 100)
    weights = torch.ones(len(X), dtype=torch.float64) if weights is None else torch.tensor(weights)
    return Data(rows, weights, float(weights.sum()), int((weights > 0).sum()))


def test_seeds_are_distinct_rows_of_positive_weight():
    X = np.repeat(np.eye(5), 3, axis=0)
    weights = np.ones(15)
    weights[:3] = 0.0
    for seed in range(5):
        seeds = plus_plus_seeds(data_from(X, weights), 4, np.random.RandomState(seed)).numpy()
        assert sorted(seeds.argmax(axis=1)) == [1, 2, 3, 4]
        assert set(seeds.ravel()) == {0.0, 1.0}


def test_first_seed_is_drawn_by_weight():
    """Three directions of weights 1, 2, 5: frequencies within four standard errors."""
    weights = np.array([1.0, 2, 5])
    random = np.random.RandomState(0)
    drawn = [int(plus_plus_seeds(data_from(np.eye(3), weights), 1, random)[0].argmax()) for _ in range(800)]
    frequency = np.bincount(drawn) / 800
    expected = weights / 8
    assert (np.abs(frequency - expected) < 4 * np.sqrt(expected * (1 - expected) / 800)).all()


def test_further_seeds_are_drawn_by_weight_and_distance():
    """From (1, 0): odds 1 - cos times weight are 1 x 4 for (0, 1) and 2 x 1 for (-1, 0), in a draw."""
    X, weights = np.array([[1.0, 0], [0, 1], [-1, 0]]), np.array([1e9, 4.0, 1.0])
    random = np.random.RandomState(0)
    seconds = []
    for _ in range(600):
        seeds = plus_plus_seeds(data_from(X, weights), 2, random)
        seconds.append(float(seeds[1, 0]) == -1.0)
    # the better of two draws leaves the least weighted distance: (0, 1) unless both draws are (-1, 0)
    expected = (2 / 6) ** 2
    assert abs(np.mean(seconds) - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)


def test_many_rows_are_sampled_with_equal_probability(monkeypatch):
    """With a limit of 8 of 20 rows every row is a first seed equally often."""
    monkeypatch.setattr(initialization, "SEED_ROWS", 8)
    angles = np.linspace(0, 6, 20)
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    weights = np.r_[np.ones(20), 0.0]
    data = data_from(np.vstack([X, [[0.6, -0.8]]]), weights)
    sampled = np.zeros(20)
    for seed in range(400):
        rows, sample_weights = initialization._rows_for_seeding(data, 8, np.random.RandomState(seed))
        place = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in rows.dense().numpy()]
        assert len(set(place)) == len(place) == 8
        assert (sample_weights == 1).all()
        sampled[place] += 1
    assert np.abs(sampled / 400 - 0.4).max() < 4 * np.sqrt(0.4 * 0.6 / 400)
    assert plus_plus_seeds(data, 4, np.random.RandomState(0)).shape == (4, 2)


def test_common_concentration_of_given_directions():
    """Rows at 0.6 rad to either side of two directions at dim 3: A(kappa) = cos(0.6), coth(kappa) - 1/kappa."""
    c, s = np.cos(0.6), np.sin(0.6)
    X = np.array([[c, 0, s], [c, 0, -s], [0, c, s], [0, c, -s]])
    directions = torch.eye(3, dtype=torch.float64)[:2]
    weights, means, kappa = parameters_from_directions(data_from(X), directions, 1e-8, 3)
    np.testing.assert_allclose(1 / np.tanh(kappa.numpy()) - 1 / kappa.numpy(), c, rtol=1e-12)
    assert weights.tolist() == [0.5, 0.5]
    assert torch.equal(means, directions)


def test_random_responsibilities_add_up():
    X = np.random.default_rng(0).normal(size=(11, 3))
    data = data_from(X, np.arange(11.0))
    statistics = initialization.random_statistics(data, 4, 3, np.random.RandomState(0))
    assert float(statistics.masses.sum()) == pytest.approx(55.0)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(statistics.resultants.sum(dim=0), np.arange(11.0) @ unit, rtol=1e-12)
    multipliers = random_multipliers(3, np.random.RandomState(0))
    r = np.array([uniform_numbers(bits_of(row[None]) @ multipliers, 4)[0] for row in unit])
    r /= r.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(statistics.masses, np.arange(11.0) @ r, rtol=1e-12)
    model = Model("free", "soft", 0.0, 1e-8)
    parameters = first_parameters(data, "random", 4, model, 3, np.random.RandomState(0))
    np.testing.assert_allclose(parameters.weights, np.arange(11.0) @ r / 55, rtol=1e-12)


def test_directions_may_be_a_tensor():
    X = np.random.default_rng(0).normal(size=(30, 3))
    one = VonMisesFisherMixture(2, init=X[:2], tol=1e-2).fit(X)
    two = VonMisesFisherMixture(2, init=torch.from_numpy(X[:2]), tol=1e-2).fit(X)
    np.testing.assert_array_equal(one.means_, two.means_)


def test_merged_groups_find_components_that_single_rows_miss():
    """Twelve directions in 128 dimensions, two rows of one having a cosine of 0.25: each start is near all twelve."""
    rng = np.random.default_rng(0)
    means = np.linalg.qr(rng.normal(size=(128, 12)))[0].T
    X = means[np.arange(1200) % 12] + rng.normal(size=(1200, 128)) * (3 / 128) ** 0.5
    for seed in range(3):
        found = merged_directions(data_from(X), 12, np.random.RandomState(seed)).numpy()
        assert ((means @ found.T).max(axis=1) > 0.9).all()
    single = plus_plus_seeds(data_from(X), 12, np.random.RandomState(0)).numpy()
    assert (means @ single.T).max(axis=1).min() < 0.4


def test_merged_groups_count_a_weight_of_two_as_two_rows_in_any_order():
    rng = np.random.default_rng(2)
    X, weights = rng.normal(size=(40, 3)), np.r_[np.full(20, 2.0), np.ones(20)]
    twice = np.vstack([X[:20], X])[rng.permutation(60)]
    one = merged_directions(data_from(X, weights), 4, np.random.RandomState(5))
    two = merged_directions(data_from(twice), 4, np.random.RandomState(5))
    np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-14)


def test_merged_groups_of_few_distinct_rows_are_those_rows():
    X = np.repeat(np.eye(3), [5, 1, 2], axis=0)
    found = merged_directions(data_from(X), 3, np.random.RandomState(0)).numpy()
    assert sorted(map(tuple, found)) == sorted(map(tuple, np.eye(3)))
    assert merged_directions(data_from(X), 5, np.random.RandomState(0)).shape == (5, 3)
