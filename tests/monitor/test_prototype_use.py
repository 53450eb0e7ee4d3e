import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vmflearn.ssl import unique_prototypes, void_prototypes


def naive(directions, threshold):
    """The double loop of section 5.2, in plain Python over float64 cosines."""
    w = directions / directions.norm(dim=-1, keepdim=True)
    leader = [-1] * len(w)
    for i in range(len(w)):
        if leader[i] >= 0:
            continue
        leader[i] = i
        cosine = (w @ w[i]).tolist()
        for j in range(i + 1, len(w)):
            if leader[j] < 0 and cosine[j] > threshold:
                leader[j] = i
    return leader


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(2, 5),
    st.sampled_from([0.3, 0.9, 0.95, 0.99]),
    st.integers(1, 70),
)
def test_equals_the_double_loop(seed, n, dim, threshold, chunk):
    torch.manual_seed(seed)
    w = torch.randn(n, dim, dtype=torch.float64)
    copies = torch.randint(n, (n,))
    w = torch.where(torch.rand(n, 1) < 0.5, w[copies] + 0.2 * torch.rand(n, 1) * torch.randn(n, dim), w)
    found = unique_prototypes(w, threshold, chunk_size=chunk)
    expected = naive(w, threshold)
    assert found.leader.tolist() == expected
    assert found.count == len(set(expected))
    assert found.largest == max(expected.count(i) for i in expected)


def test_the_order_decides():
    """b is near a and c, which are far apart: a drops b, so c stays; b first drops both."""
    angles = torch.tensor([0.0, 0.4, 0.8])
    w = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert unique_prototypes(w, 0.9).leader.tolist() == [0, 0, 2]
    assert unique_prototypes(w[[1, 0, 2]], 0.9).leader.tolist() == [0, 0, 0]


def test_void_prototypes():
    mean = torch.tensor([3.0, 0.0])
    w = torch.tensor([[-1.0, 0.0], [-2.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    assert void_prototypes(w, mean).tolist() == [True, True, False, False]
    assert void_prototypes(w, mean, chosen=torch.tensor([True, False, False, False])).tolist()[:2] == [False, True]
    assert void_prototypes(w, mean, tolerance=1e-4).tolist() == [True, False, False, False]


@pytest.mark.parametrize("scale", [1e-30, 1e-13, 1e30])
def test_lengths_do_not_matter(scale):
    mean = torch.tensor([3.0, 0.0])
    w = torch.tensor([[-1.0, 0.0], [-1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    assert void_prototypes(w, scale * mean).tolist() == [True, True, False, False]
    assert void_prototypes(scale * w, mean).tolist() == [True, True, False, False]
    assert unique_prototypes(scale * w, 0.9).leader.tolist() == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: unique_prototypes(torch.ones(3)), "directions"),
        (lambda: unique_prototypes(torch.full((2, 2), torch.nan)), "directions"),
        (lambda: unique_prototypes(torch.eye(2), 1.1), "threshold"),
        (lambda: unique_prototypes(torch.eye(2), chunk_size=0), "chunk_size"),
        (lambda: void_prototypes(torch.eye(2), torch.zeros(2)), "mean_direction"),
        (lambda: void_prototypes(torch.eye(2), torch.ones(3)), "mean_direction"),
        (lambda: void_prototypes(torch.eye(2), torch.ones(2), tolerance=-1), "tolerance"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=name):
        call()
