import numpy as np
import pytest
import torch

from vmflearn.evaluate.neighbours import nearest


def vectors(n, seed, d=8):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize(("queries", "rows"), [(1024, 65536), (7, 13), (1, 1), (40, 59)])
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
