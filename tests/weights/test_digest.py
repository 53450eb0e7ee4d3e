import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vmflearn.weights.digest import digest

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(NESTED)
def test_a_state_read_back_has_the_digest_it_was_saved_with(state):
    state = {"state": state, "tensor": torch.arange(6.0).reshape(2, 3).T, "half": torch.ones((), dtype=torch.bfloat16)}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert digest(torch.load(file, weights_only=True)) == digest(state)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0]), "b": (1, "x")},
        {"a": torch.tensor([1.0, -0.0], dtype=torch.float64), "b": (1, "x")},
        {"a": torch.tensor([[1.0, 0.0]]), "b": (1, "x")},
        {"a": torch.tensor([1.0, 0.0]).view(torch.int32), "b": (1, "x")},
        {"a": torch.tensor([1.0, -0.0]), "b": (1, "x")},
        {"a": torch.tensor([1.0, 0.0]), "b": [1, "x"]},
        {"a": torch.tensor([1.0, 0.0]), "b": (1, "y")},
        {"a": torch.tensor([1.0, 0.0]), "b": (True, "x")},
        {"a": torch.tensor([1.0, 0.0]), "b": (1, "x"), "c": None},
        {"c": torch.tensor([1.0, 0.0]), "b": (1, "x")},
    ],
)
def test_whatever_differs_shows(other):
    assert digest(other) != digest({"a": torch.tensor([1.0, 0.0]), "b": (1, "x")})


def test_the_order_of_keys_does_not_count():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_value_written_out():
    """What `printf 'int 1\\n5' | sha256sum` prints."""
    assert digest(5) == "58e63b236ce85056b1edae9a1007942b6c25435c49c7bf5c1715aadfef42944e"
