import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vmflearn.evaluate.knn import knn_accuracy, knn_predict, knn_votes


def clusters(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Five overlapping clouds in 8 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 5, (n,), generator=generator)
    return centres[labels] + 1.2 * torch.randn(n, 8, generator=generator), labels


def longhand(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int, temperature: float) -> list[int]:
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    predictions = []
    for row in test:
        similarity = train @ (row / np.linalg.norm(row))
        votes = np.zeros(labels.max() + 1)
        for j in np.argsort(-similarity)[:k]:
            votes[labels[j]] += math.exp(similarity[j] / temperature)
        predictions.append(int(votes.argmax()))
    return predictions


@pytest.mark.parametrize("k", [1, 3, 20, 90])
@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
def test_it_is_the_vote_written_out(k, temperature):
    (train, labels), (test, _) = clusters(90, 0), clusters(60, 1)
    want = longhand(train.double().numpy(), labels.numpy(), test.double().numpy(), k, temperature)
    for chunk_size in (7, 1024):
        got = knn_predict(train.double(), labels, test.double(), k=k, temperature=temperature, chunk_size=chunk_size)
        assert got.dtype == torch.int64
        assert got.tolist() == want


@pytest.mark.parametrize("k", [5, 20])
def test_it_is_scikit_learn_with_the_same_weights(k):
    (train, labels), (test, truth) = clusters(200, 2), clusters(150, 3)
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    theirs.fit(train.numpy(), labels.numpy())
    got = knn_predict(train, labels, test, k=k)
    assert got.tolist() == theirs.predict(test.numpy()).tolist()
    accuracy = knn_accuracy(train, labels, test, truth, k=k)
    assert accuracy == pytest.approx(theirs.score(test.numpy(), truth.numpy()))
    assert 0.3 < accuracy < 0.95


def test_a_small_temperature_does_not_overflow():
    (train, labels), (test, _) = clusters(50, 0), clusters(20, 1)
    nearest = knn_predict(train, labels, test, k=1)
    assert torch.equal(knn_predict(train, labels, test, k=20, temperature=1e-4), nearest)


def test_half_precision_and_lengths_change_nothing():
    (train, labels), (test, _) = clusters(50, 0), clusters(20, 1)
    train, test = train.half(), test.half()
    want = knn_predict(train.double(), labels, test.double())
    assert torch.equal(knn_predict(train, labels, test), want)
    assert torch.equal(knn_predict(3 * train.double(), labels, 0.1 * test.double()), want)


def test_more_classes_than_labels():
    (train, labels), (test, _) = clusters(50, 0), clusters(20, 1)
    assert torch.equal(knn_predict(train, labels, test, n_classes=9), knn_predict(train, labels, test))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 11}, "k must be 1 to the number of train images, 10, got 11"),
        ({"k": 0}, "k must be 1 to .* got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": math.nan}, "temperature must be positive, got nan"),
        ({"chunk_size": 0}, "chunk_size must be positive, got 0"),
        ({"n_classes": 2}, "train_labels must be 0 to 1, got 0 to 2"),
        ({"train_labels": torch.full((10,), -1)}, "-1 marks images without a class"),
        (
            {"train_labels": torch.zeros(9, dtype=torch.int64)},
            r"train_labels must be 10 integers, got torch.int64 \(9,\)",
        ),
        ({"train_labels": torch.zeros(10)}, "must be 10 integers, got torch.float32"),
        ({"test_features": torch.zeros(4, 3)}, "equally wide, got 2 and 3"),
        ({"test_features": torch.zeros(0, 2)}, r"test_features is empty: \(0, 2\)"),
        ({"train_features": torch.zeros(0, 2)}, r"train_features is empty: \(0, 2\)"),
        ({"train_features": torch.zeros(10)}, r"train_features must be floating point \(n, d\)"),
        ({"test_features": torch.zeros(4, 2, dtype=torch.int64)}, "test_features must be floating point"),
        ({"test_features": torch.full((4, 2), math.nan)}, "test_features holds values that are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    arguments = {
        "train_features": torch.eye(10)[:, :2],
        "train_labels": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]),
        "test_features": torch.ones(4, 2),
        "k": 3,
    }
    with pytest.raises(ValueError, match=message):
        knn_predict(**(arguments | change))


def test_test_labels_must_match():
    with pytest.raises(ValueError, match=r"test_labels must have shape \(4,\), got \(3,\)"):
        knn_accuracy(torch.eye(2), torch.arange(2), torch.ones(4, 2), torch.zeros(3, dtype=torch.int64), k=1)


def test_the_accuracy_depends_on_the_temperature():
    """Two far neighbours of class 1 outvote a near one of class 0 at T = 1, and not at T = 0.07."""
    angles = torch.tensor([0.1, 0.5, 0.6], dtype=torch.float64)
    train, labels = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 1, 1])
    test, truth = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    votes = [math.exp(math.cos(0.1) / 0.07), math.exp(math.cos(0.5) / 0.07) + math.exp(math.cos(0.6) / 0.07)]
    assert votes[0] > votes[1]
    assert knn_accuracy(train, labels, test, truth, k=3) == 1
    assert knn_accuracy(train, labels, test, truth, k=3, temperature=0.07) == 1
    assert knn_accuracy(train, labels, test, truth, k=3, temperature=1.0) == 0


def test_the_accuracy_looks_at_k_neighbours():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.02], [1.0, 0.03], *[[-1.0, 0.0]] * 20])
    labels = torch.tensor([0, 1, 1, *[2] * 20])
    for k, found in ((1, 1), (3, 0)):
        assert knn_accuracy(train, labels, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), k=k) == found


def test_an_image_is_its_own_neighbour_where_it_is_among_the_train_images():
    """Nobody is left out: for train images as test images k = 1 finds their own classes."""
    train, labels = clusters(30, 0)
    assert knn_accuracy(train, labels, train, labels, k=1) == 1


def test_of_classes_with_equal_votes_the_first_is_taken():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert knn_predict(train, torch.tensor([2, 1, 0]), torch.tensor([[1.0, 0.0]]), k=2).tolist() == [1]


@pytest.mark.parametrize("right", [1, 3, 4, 5])
def test_the_accuracy_is_a_count_over_a_count(right):
    truth = torch.tensor([0] * right + [1] * (5 - right))
    assert knn_accuracy(torch.eye(2), torch.arange(2), torch.tensor([[1.0, 0.0]] * 5), truth, k=1) == right / 5


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, -1]), "test_labels must be 0 or more, got -1; -1 marks images without a class"),
        (torch.tensor([0.0, 1.0]), "test_labels must be integers, got torch.float32"),
        (torch.tensor([True, False]), "test_labels must be integers, got torch.bool"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        knn_accuracy(torch.eye(2), torch.arange(2), torch.eye(2), labels, k=1)
    with pytest.raises(ValueError, match=r"train_labels must be 2 integers, got torch\.bool"):
        knn_predict(torch.eye(2), torch.tensor([True, False]), torch.eye(2), k=1)


def test_a_class_that_no_train_image_has_is_not_found():
    assert (
        knn_accuracy(torch.eye(2), torch.arange(2), torch.eye(2), torch.tensor([0, 7], dtype=torch.uint8), k=1) == 0.5
    )


def test_several_k_from_one_search_are_each_k_alone():
    (train, labels), (test, truth) = clusters(90, 0), clusters(60, 1)
    ks = [20, 1, 3, 90]
    for chunk_size in (7, 1024):
        votes = knn_votes(train, labels, test, truth, ks=ks, chunk_size=chunk_size)
        assert [v.k for v in votes] == ks
        for v in votes:
            assert torch.equal(v.predicted, knn_predict(train, labels, test, k=v.k))
            assert torch.equal(v.hits(), v.predicted == truth)


def test_ranks_are_those_of_the_votes_written_out():
    (train, labels), (test, truth) = clusters(40, 4), clusters(50, 5)
    truth[:4] = torch.tensor([7, 5, 4, 0])  # 5 and 7: of no train image
    (votes,) = knn_votes(train.double(), labels, test.double(), truth, ks=[6], temperature=0.3)
    units, t = train.double() / train.double().norm(dim=1, keepdim=True), test.double()
    for row, true, rank in zip(t, truth.tolist(), votes.rank.tolist(), strict=True):
        cosines = (units @ (row / row.norm())).tolist()
        sums = {}
        for j in sorted(range(40), key=lambda j: -cosines[j])[:6]:
            sums[int(labels[j])] = sums.get(int(labels[j]), 0) + math.exp(cosines[j] / 0.3)
        order = sorted(sums, key=lambda c: (-sums[c], c))
        assert rank == (order.index(true) if true in order else 5)
    assert votes.hits(5).sum() == (votes.rank < 5).sum() > votes.hits(1).sum()


def test_of_classes_with_equal_votes_the_lower_number_comes_first():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    (votes,) = knn_votes(train, torch.tensor([2, 1, 4, 0]), torch.ones(5, 2), torch.arange(5), ks=[3])
    assert votes.predicted.tolist() == [1] * 5
    assert votes.rank.tolist() == [5, 0, 1, 5, 2]  # without a vote, neither 0 nor 3 is found


def test_votes_refuse_what_cannot_be_asked():
    (train, labels), (test, truth) = clusters(9, 0), clusters(4, 1)
    for changes, message in (
        ({"ks": [5, 10]}, "k must be 1 to the number of train images, 9, got 10"),
        ({"ks": []}, "ks must name at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            knn_votes(train, labels, test, truth, **changes)
    with pytest.raises(ValueError, match="test_labels must be 0 or more, got -1"):
        knn_votes(train, labels, test, -torch.ones_like(truth))
