import numpy as np
import pytest
import torch

from vmflearn import distributed
from vmflearn.evaluate import parts
from vmflearn.evaluate.parts import read_ahead, rows_in_parts


class Squares:
    """Rows that tell their number, and which were asked for; the first number of `broken` is an error."""

    def __init__(self, broken=None):
        self.asked, self.broken = [], broken

    def __call__(self, numbers):
        if self.broken in numbers:
            raise ValueError("broken")
        self.asked += numbers
        return torch.tensor([[float(i), float(i * i)] for i in numbers])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART", 4)


def test_rows_come_in_their_order_and_are_kept(tmp_path):
    want = torch.tensor([[float(i), float(i * i)] for i in range(10)])
    first = Squares(broken=9)
    with pytest.raises(ValueError, match="broken"):
        rows_in_parts(10, first, what="rows", cache=tmp_path, key={"weights": "a"})
    assert first.asked == list(range(8))
    second = Squares()
    torch.testing.assert_close(rows_in_parts(10, second, what="rows", cache=tmp_path, key={"weights": "a"}), want)
    assert second.asked == [8, 9]
    other = Squares()
    rows_in_parts(10, other, what="rows", cache=tmp_path, key={"weights": "b"})
    assert other.asked == list(range(10))
    torch.testing.assert_close(rows_in_parts(10, Squares(), what="rows"), want)


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_part_is_made_again(tmp_path, content):
    rows = rows_in_parts(6, Squares(), what="rows", cache=tmp_path, key={})
    (path,) = tmp_path.glob("*/00000004.npy")
    if content is None:
        np.save(path, np.full((2, 2), np.nan))
    else:
        path.write_bytes(content)
    again = Squares()
    torch.testing.assert_close(rows_in_parts(6, again, what="rows", cache=tmp_path, key={}), rows)
    assert again.asked == [4, 5]


def test_processes_share_the_parts(monkeypatch):
    """Each of two makes its own, and takes the other's from it."""
    made = {}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(parts, "check_same", lambda own: None)  # the two are played one after the other
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "gather_objects", lambda value, rank=rank: made.setdefault(rank, value) and [])
        work = Squares()
        with pytest.raises(KeyError):  # nobody answers
            rows_in_parts(10, work, what="rows")
        assert work.asked == [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7]][rank]
    monkeypatch.setattr(distributed, "gather_objects", lambda value: [made[0], made[1]])
    assert rows_in_parts(10, Squares(), what="rows")[:, 0].tolist() == list(range(10))


def test_what_is_read_ahead_comes_in_its_order():
    for workers in (0, 3):
        assert list(read_ahead(lambda i: i * i, range(20), workers)) == [i * i for i in range(20)]
