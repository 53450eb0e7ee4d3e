import numpy as np
import pytest
import torch

from vmflearn.evaluate.neighbours import greatest, nearest


def vectors(n, seed, d=8):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize(("queries", "rows"), [(1024, 16384), (7, 13), (1, 1), (40, 59)])
def test_blocks_give_what_sorting_all_cosines_gives(k, queries, rows):
    train, test = vectors(60, 0), vectors(40, 1)
    cosines = np.array([[float(a @ b / (a.norm() * b.norm())) for b in train] for a in test])
    similarities, indices = nearest(train, test, k, queries=queries, rows=rows)
    want = np.argsort(-cosines, axis=1)[:, :k]
    assert indices.tolist() == want.tolist()
    np.testing.assert_allclose(similarities, np.take_along_axis(cosines, want, axis=1), atol=1e-13)


def test_a_memory_mapped_array_is_read_a_block_at_a_time(tmp_path):
    train, test = vectors(60, 2).float(), vectors(9, 3).float()
    np.save(tmp_path / "train.npy", train.numpy())
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    for got, want in zip(nearest(mapped, test, 7, rows=20), nearest(train, test, 7, rows=20), strict=True):
        assert torch.equal(got, want)


def test_what_is_not_finite_is_named_in_whatever_block_it_is():
    train = vectors(60, 4)
    train[47, 3] = torch.inf
    with pytest.raises(ValueError, match="train_features holds values that are not finite"):
        nearest(train, vectors(3, 5), 2, rows=20)


@pytest.mark.parametrize("n", [5, 160, 641, 656, 1000, 4096])
@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("levels", [7, 10**6])
def test_the_greatest_are_those_of_a_sorted_row(n, k, levels):
    k = min(k, n)
    rng = np.random.default_rng(n + k)
    products = rng.integers(levels, size=(9, n)).astype(np.float32)  # seven levels: most are equal to many
    products[0], products[1] = np.sort(products[0]), np.sort(products[1])[::-1]  # all the greatest side by side
    values, places = (x.numpy() for x in greatest(torch.from_numpy(products), k))
    np.testing.assert_array_equal(values, -np.sort(-products, axis=1)[:, :k])
    np.testing.assert_array_equal(values, np.take_along_axis(products, places, axis=1))
    assert all(len(set(row)) == k for row in places.tolist())


def test_gradients_are_not_asked_for():
    train, test = vectors(50, 4).requires_grad_(), vectors(3, 4).requires_grad_()
    assert not nearest(train, test, 2)[0].requires_grad
