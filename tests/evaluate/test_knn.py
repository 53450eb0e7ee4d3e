import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vmflearn.evaluate.knn import knn_accuracy, knn_predict


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
