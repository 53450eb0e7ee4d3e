"""Ends of the range of what starts a mixture, and of what moves a component that lost its rows."""

import numpy as np
import pytest
import torch

from vmflearn.sphere.arguments import as_tensor
from vmflearn.sphere.em import Data, Model, Statistics, complement_floor, m_step
from vmflearn.sphere.fitting import reseed
from vmflearn.sphere.initialization import parameters_from_directions
from vmflearn.sphere.rows import dense_rows


def data_of(X):
    rows, _ = dense_rows(as_tensor(np.asarray(X, dtype=float)), torch.device("cpu"), 100)
    return Data(rows, torch.ones(len(X), dtype=torch.float64), float(len(X)), len(X))


def test_directions_that_point_away_from_all_rows_start_at_concentration_one():
    """At zero all components would be the same, and stay so."""
    start = parameters_from_directions(
        data_of([[1.0, 0.1], [1.0, -0.1]]), -torch.eye(2, dtype=torch.float64), 1e-8, 100
    )
    assert start.concentrations.tolist() == [1.0, 1.0]


def test_a_moved_component_takes_its_weight_from_the_others():
    """Shrinkage and a stream set the masses against the weight of the rows, which a move does not change."""
    data = data_of([[1.0, 0.1], [1.0, -0.1], [0.2, 1.0], [-0.9, 0.5]])
    model = Model("free", "soft", 1.0, complement_floor(torch.float64))
    statistics = Statistics(
        torch.tensor([3.0, 1.0, 0.0]).double(), torch.tensor([[2.9, 0.1], [0.1, 0.8], [0, 0]]).double()
    )
    parameters = m_step(statistics, torch.eye(3, 2, dtype=torch.float64), model)
    moved, did = reseed(data, statistics, parameters, model, 100)
    assert did
    assert float(moved.masses.sum()) == pytest.approx(4.0)
    assert moved.masses.tolist() == pytest.approx([9 / 4, 3 / 4, 1.0])
