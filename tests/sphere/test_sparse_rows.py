"""Sparse rows give what the same rows give as an array, and are never made dense."""

import tracemalloc

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse

from vmflearn.sphere import VonMisesFisherMixture
from vmflearn.sphere.sparse_rows import SparseRows, sparse_rows


def random_rows(n=80, dim=7, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, dim)) * (rng.random((n, dim)) < 0.4)
    X[X.any(axis=1) == 0, 0] = 1.0
    return X


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "bsr"])
@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_sparse_equals_dense(form, assignment, init):
    X = random_rows()
    X[4] = 0
    weight = np.random.default_rng(1).random(80)
    settings = {"assignment": assignment, "init": init, "random_state": 0, "chunk_size": 33, "empty": "reseed"}
    settings |= {"tol": 1e-3}
    found, expected = VonMisesFisherMixture(3, **settings), VonMisesFisherMixture(3, **settings)
    with pytest.warns(UserWarning, match=r"1 rows of zeros, first \[4\]"):
        found.fit(sparse.csr_array(X).asformat(form), sample_weight=weight)
    with pytest.warns(UserWarning, match="zeros"):
        expected.fit(X, sample_weight=weight)
    np.testing.assert_allclose(found.log_likelihoods_, expected.log_likelihoods_, rtol=1e-10)
    np.testing.assert_allclose(found.means_, expected.means_, atol=1e-9)
    np.testing.assert_allclose(found.concentrations_, expected.concentrations_, rtol=1e-8)
    rows = sparse.csr_array(X).asformat(form)
    np.testing.assert_allclose(found.predict_proba(rows), expected.predict_proba(X), atol=1e-9)
    np.testing.assert_allclose(found.score_samples(rows), expected.score_samples(X), rtol=1e-8, atol=1e-9)
    assert found.bic(rows) == pytest.approx(expected.bic(X))
    for mixture, batch in ((found, rows), (expected, X)):
        with pytest.warns(UserWarning, match="zeros"):
            mixture.partial_fit(batch)
    np.testing.assert_allclose(found.means_, expected.means_, atol=1e-9)


def test_a_frame_of_sparse_columns_is_a_sparse_matrix_with_names():
    X = random_rows()
    names = [f"word {i}" for i in range(7)]
    frame = pandas.DataFrame(X, columns=names).astype(pandas.SparseDtype(float, 0.0))
    found = VonMisesFisherMixture(2, random_state=0, tol=1e-3).fit(frame)
    expected = VonMisesFisherMixture(2, random_state=0, tol=1e-3).fit(sparse.csr_array(X))
    np.testing.assert_array_equal(found.means_, expected.means_)
    np.testing.assert_array_equal(found.predict_proba(frame), expected.predict_proba(sparse.csr_array(X)))
    assert list(found.feature_names_in_) == names
    mixed = frame.astype({"word 0": float})  # scikit-learn makes it dense, and says so
    with pytest.warns(UserWarning, match="sparse columns found"):
        np.testing.assert_allclose(found.score_samples(mixed), expected.score_samples(X), rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="fill value must be 0"):
        found.fit(pandas.DataFrame(X).astype(pandas.SparseDtype(float, np.nan)))


def test_float32_stays_float32():
    X = random_rows().astype(np.float32)
    mixture = VonMisesFisherMixture(2, random_state=0, tol=1e-3).fit(sparse.csr_array(X))
    assert mixture.predict_proba(sparse.csr_array(X)).dtype == np.float32
    np.testing.assert_allclose(
        mixture.concentrations_, VonMisesFisherMixture(2, random_state=0, tol=1e-3).fit(X).concentrations_, rtol=1e-3
    )


def test_the_matrix_given_is_not_changed():
    """Duplicate entries are added up in a copy; lengths of 1e-200 and 1e200 are scaled."""
    data, rows, columns = [1e-200, 2e-200, 1e200, 1.0, 1.0], [0, 0, 1, 2, 2], [0, 1, 1, 0, 0]
    indptr = np.searchsorted(rows, np.arange(4))
    matrix = sparse.csr_array((np.array(data), np.array(columns), indptr), shape=(3, 2))
    before = matrix.data.copy(), matrix.indices.copy()
    unit, is_zero = sparse_rows(matrix)
    np.testing.assert_allclose(unit.dense(), [[0.2**0.5, 0.8**0.5], [0, 1], [1, 0]], rtol=1e-15)
    np.testing.assert_array_equal(matrix.data, before[0])
    np.testing.assert_array_equal(matrix.indices, before[1])
    assert not is_zero.any()


def test_memory_is_that_of_the_stored_values():
    """30 stored values in each of 4,000 rows of 20,000: dense would be 640 MB."""
    rng = np.random.default_rng(0)
    n, dim, per_row = 4000, 20000, 30
    indices = np.concatenate([rng.choice(dim, per_row, replace=False) for _ in range(n)])
    X = sparse.csr_array((rng.random(n * per_row), indices, np.arange(n + 1) * per_row), shape=(n, dim))
    tracemalloc.start()
    mixture = VonMisesFisherMixture(3, random_state=0, max_iter=9, tol=1.0, chunk_size=500).fit(X)
    mixture.predict(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_products_equal_those_of_the_array():
    matrix = sparse.csr_array(random_rows(5, 4))
    rows = SparseRows(matrix)
    directions, offsets = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    (where, chunk), *rest = rows.chunks(3)
    assert (where, len(rest)) == (slice(0, 3), 1)
    x = torch.from_numpy(matrix.toarray()[:3])
    np.testing.assert_allclose(chunk.products(directions, offsets), directions @ x.T + offsets, rtol=1e-14)
    coefficients = torch.randn(2, 3, dtype=torch.float64)
    np.testing.assert_allclose(chunk.weighted_sum(coefficients), coefficients @ x, rtol=1e-12, atol=1e-15)


def test_bad_sparse_rows():
    X = random_rows(6, 3)
    X[[1, 4], 0] = np.nan
    with pytest.raises(ValueError, match=r"X contains NaN or infinity in 2 rows, first \[1, 4\]"):
        VonMisesFisherMixture(1).fit(sparse.csr_array(X))
    X[[1, 4], 0] = 1.0
    with pytest.raises(ValueError, match="X has 6 rows whose length differs from 1"):
        VonMisesFisherMixture(normalize=False).fit(sparse.csr_array(3 + X))
    with pytest.raises(ValueError, match="X is sparse and device is meta"):
        VonMisesFisherMixture(device="meta").fit(sparse.csr_array(X))
