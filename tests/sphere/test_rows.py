"""Rows of every kind become unit rows, chunk by chunk; the estimator sees no difference between kinds."""

import numpy as np
import pytest
import torch

from vmflearn.sphere import VonMisesFisherMixture
from vmflearn.sphere.arguments import as_tensor
from vmflearn.sphere.rows import dense_rows

CPU = torch.device("cpu")


def unit(X):
    X = np.asarray(X, dtype=np.longdouble)
    return X / np.sqrt((X**2).sum(axis=1, keepdims=True))


def stacked(rows, chunk_size=3):
    return torch.cat([chunk.x for _, chunk in rows.chunks(chunk_size)])


@pytest.mark.parametrize(
    ("dtype", "working"),
    [
        (np.float64, torch.float64),
        (np.float32, torch.float32),
        (np.float16, torch.float32),
        (np.int64, torch.float64),
        (np.uint8, torch.float64),
        (np.uint16, torch.float64),
        (bool, torch.float64),
        (np.longdouble, torch.float64),
        (">f4", torch.float32),
        (">f8", torch.float64),
    ],
)
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "read-only"])
def test_every_type_and_layout(dtype, working, layout):
    X = (np.random.default_rng(0).normal(size=(16, 6)) * 5 + 10).astype(dtype)
    X = {
        "C": X,
        "F": np.asfortranarray(X),
        "strided": X[::2, ::3],
        "reversed": X[::-1, ::-1],
        "read-only": np.broadcast_to(X[:1], X.shape),
    }[layout]
    rows, is_zero = dense_rows(as_tensor(X), CPU, 5)
    found = stacked(rows)
    assert found.dtype == rows.dtype == working
    assert (len(rows), rows.dim) == X.shape
    np.testing.assert_allclose(found, unit(X).astype(float), rtol=4 * torch.finfo(working).eps)
    assert not is_zero.any()
    np.testing.assert_array_equal(rows.dense(), found.double())
    np.testing.assert_array_equal(rows.take(torch.tensor([7, 2])).dense(), found[[7, 2]].double())
    directions = torch.randn(3, rows.dim)
    np.testing.assert_allclose(rows.products(directions), directions.double() @ found.double().T, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lengths_over_the_whole_range(dtype):
    """Down to denormal and up to the largest numbers, and zeros, in one array."""
    X = np.random.default_rng(0).normal(size=(13, 4)).astype(dtype)
    X /= np.abs(X).max(axis=1, keepdims=True)
    info = np.finfo(dtype)
    low, high = np.log10(float(info.tiny)), np.log10(float(info.max))
    lengths = np.array([*(10.0 ** np.linspace(low, high - 0.01, 11)), 0.0, 2.0])
    scaled = (X * lengths[:, None].astype(dtype)).astype(dtype)
    rows, is_zero = dense_rows(as_tensor(scaled), CPU, 4)
    assert is_zero.nonzero()[0].tolist() == [11]
    found = stacked(rows).double().numpy()
    assert (found[11] == 0).all()
    keep = np.arange(13) != 11
    np.testing.assert_allclose(found[keep], unit(scaled[keep]).astype(float), rtol=4 * info.eps, atol=4 * info.eps)


def test_unit_rows_are_used_as_they_are():
    X = unit(np.random.default_rng(0).normal(size=(9, 50))).astype(float)
    rows, _ = dense_rows(as_tensor(X), CPU, 4)
    assert next(rows.chunks(4))[1].x.data_ptr() == X.ctypes.data
    rows, _ = dense_rows(as_tensor(2 * X), CPU, 4)
    np.testing.assert_allclose(stacked(rows), X, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_refusing_rows_that_are_not_unit(dtype):
    X = unit(np.random.default_rng(0).normal(size=(8, 30))).astype(dtype)
    mixture = VonMisesFisherMixture(2, normalize=False, random_state=0, tol=1e-3).fit(X)
    X[3] *= dtype(1 + 16 * 30**0.5 * np.finfo(dtype).eps)  # twice the tolerance
    X[5] *= dtype(0.5)
    for verb in (mixture.fit, mixture.predict_proba, mixture.score_samples, mixture.partial_fit):
        with pytest.raises(
            ValueError, match=r"X has 2 rows whose length .* first \[3, 5\] with lengths \[1.0.*, 0.5\]"
        ):
            verb(X)
    X[[3, 5]] = 0
    with pytest.raises(ValueError, match=r"first \[3, 5\] with lengths \[0.0, 0.0\]"):
        mixture.fit(X)
    VonMisesFisherMixture(1, normalize=False, init=[[3.0, 0]]).fit(np.eye(2, dtype=int))  # init is always scaled


def test_memory_map_is_not_copied(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    settings = {"random_state": 0, "chunk_size": 64, "tol": 1e-4}
    expected = VonMisesFisherMixture(3, **settings).fit(X)
    seen = []
    norm = torch.linalg.vector_norm

    def spy(x, *arguments, **settings):
        if x.dtype == torch.float32:  # those are the rows
            seen.append(x)
        return norm(x, *arguments, **settings)

    monkeypatch.setattr(torch.linalg, "vector_norm", spy)
    mixture = VonMisesFisherMixture(3, **settings).fit(mapped)
    start, end = mapped.ctypes.data, mapped.ctypes.data + mapped.nbytes
    assert len(seen) == 8
    assert all(start <= x.data_ptr() < end for x in seen)  # chunks are views into the map
    np.testing.assert_array_equal(mixture.means_, expected.means_)
    np.testing.assert_array_equal(mixture.predict_proba(mapped), expected.predict_proba(X))


def test_float32_rows_stay_float32_and_agree(planted):
    X, _, _ = planted([0.4, 0.6], np.random.default_rng(0).normal(size=(2, 20)), [40.0, 60.0], 500)
    double = VonMisesFisherMixture(2, random_state=0, tol=1e-5).fit(X)
    single = VonMisesFisherMixture(2, random_state=0, tol=1e-5).fit(X.astype(np.float32))
    np.testing.assert_allclose(single.concentrations_, double.concentrations_, rtol=1e-3)
    np.testing.assert_allclose(single.means_, double.means_, atol=1e-4)
    assert single.predict_proba(X.astype(np.float32)).dtype == np.float32
    assert single.means_.dtype == np.float64
    np.testing.assert_allclose(
        single.score_samples(X.astype(np.float32)), double.score_samples(X), rtol=1e-3, atol=1e-3
    )


def test_torch_tensors_are_accepted(planted):
    X, _, _ = planted([0.4, 0.6], [[1, 0, 0], [0, 1, 1]], [20.0, 5.0], 50)
    one = VonMisesFisherMixture(2, random_state=0).fit(X)
    two = VonMisesFisherMixture(2, random_state=0).fit(torch.from_numpy(X).requires_grad_())
    np.testing.assert_array_equal(one.means_, two.means_)
    assert isinstance(two.predict_proba(torch.from_numpy(X)), np.ndarray)
    assert two.predict_proba(torch.from_numpy(X).bfloat16()).dtype == np.float32


def test_input_is_not_changed():
    X = np.random.default_rng(0).normal(size=(20, 3))
    sample_weight = np.ones(20)
    X[3] = 0
    before = X.copy()
    with pytest.warns(UserWarning, match="rows of zeros"):
        VonMisesFisherMixture(2, random_state=0).fit(X, sample_weight=sample_weight)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(sample_weight, 1.0)


def test_integer_rows_are_those_of_their_numbers():
    X = np.random.default_rng(0).integers(-5, 6, size=(40, 3))
    one, two = (VonMisesFisherMixture(2, random_state=0, tol=1e-3).fit(rows) for rows in (X, X.astype(float)))
    np.testing.assert_array_equal(one.means_, two.means_)
    assert VonMisesFisherMixture(1).fit(np.eye(3, dtype=bool)).means_ == pytest.approx(np.full((1, 3), 3**-0.5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gpu_agrees_with_the_cpu(planted, assignment, dtype):
    X = planted([0.4, 0.6], np.random.default_rng(0).normal(size=(2, 20)), [40.0, 60.0], 3000)[0].astype(dtype)
    X[:3] *= dtype(1e-35)  # scaled in two steps
    settings = {"assignment": assignment, "empty": "reseed", "random_state": 0, "chunk_size": 1000, "tol": 1e-5}
    host = VonMisesFisherMixture(2, **settings).fit(X)
    tensor = torch.from_numpy(X).cuda()
    for device, rows in (("cuda", X), (None, tensor)):
        found = VonMisesFisherMixture(2, device=device, **settings).fit(rows).partial_fit(rows)
        expected = VonMisesFisherMixture(2, **settings).fit(X).partial_fit(X)
        rtol = 1e-9 if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(found.concentrations_, expected.concentrations_, rtol=rtol)
        np.testing.assert_allclose(found.score_samples(rows), expected.score_samples(X), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(found.predict_proba(rows), expected.predict_proba(X), atol=1e-3)
    assert isinstance(host.predict(tensor), np.ndarray)
