"""Groups of rows, joined two at a time."""

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from vmflearn.sphere.merging import merge


def longhand(resultants, n_groups):
    """The pair that loses the least, searched among all pairs each time."""
    groups = [r.copy() for r in resultants]
    while len(groups) > n_groups:
        lost = {
            (a, b): np.linalg.norm(groups[a]) + np.linalg.norm(groups[b]) - np.linalg.norm(groups[a] + groups[b])
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        }
        a, b = min(lost, key=lost.get)
        groups[a] = groups[a] + groups.pop(b)
    return np.array([g / np.linalg.norm(g) for g in groups])


def test_the_pair_that_loses_least_is_joined():
    for seed in range(8):
        resultants = np.random.default_rng(seed).normal(size=(14, 3)) * np.arange(1, 15)[:, None]
        found = merge(torch.from_numpy(resultants), 4).numpy()
        expected = longhand(resultants, 4)
        np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], rtol=1e-12)


def test_narrow_groups_are_joined_as_by_ward_in_the_plane():
    """Around one pole the sphere is flat, and what is lost is half of Ward's increase of the squared distances."""
    offsets = np.random.default_rng(1).normal(size=(12, 2)) * 1e-3
    rows = np.column_stack([offsets, np.ones(12)])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = fcluster(linkage(offsets, "ward"), 3, "maxclust")
    expected = np.array([rows[labels == k].sum(axis=0) for k in (1, 2, 3)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = merge(torch.from_numpy(rows), 3).numpy()
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], expected[np.argsort(expected[:, 0])], atol=1e-9)


def test_rows_that_cancel_keep_the_direction_of_one():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert merge(opposite, 1).tolist() == [[1.0, 0.0]]
    assert torch.equal(merge(opposite, 2), opposite)
