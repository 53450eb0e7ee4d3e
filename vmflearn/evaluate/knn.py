"""Classification by nearest neighbours, as DINO evaluates its features (the k-NN columns of the paper's Table 1).

With features of unit length, the class of a test image x is the one with most votes among its k nearest train images,

    class(x) = argmax_c  sum over neighbours j of class c of exp(<x, x_j> / T),        k = 20, T = 0.07.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vmflearn.evaluate.neighbours import Array, nearest

KS = (10, 20, 100, 200)
"""The numbers of neighbours that DINO tries."""
TEMPERATURE = 0.07


class Votes(NamedTuple):
    """What `knn_votes` finds for one k.

    Attributes
    ----------
    k : int
    predicted : Tensor, (m,) int64
        The class with most votes; of equal ones the first.
    rank : Tensor, (m,) int64
        How many classes come before the true one: 0 where it is predicted; n_classes where it has no vote at all.
    """

    k: int
    predicted: Tensor
    rank: Tensor

    def hits(self, top: int = 1) -> Tensor:
        """Whether the true class (m,) is among the first `top`."""
        return self.rank < top


def knn_votes(
    train_features: Array,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    n_classes: int | None = None,
    chunk_size: int = 1024,
) -> list[Votes]:
    """Classify by the vote of the k nearest, for several k from one search.

    Parameters
    ----------
    train_features : (n, d) floating point
        May be a memory-mapped array, of which a block at a time is read.
    train_labels : Tensor, (n,) integers
        From 0.
    test_features : Tensor, (m, d)
        Where they are, there is computed.
    test_labels : Tensor, (m,) integers
        From 0; a class that no train image has counts as not found.
    ks : sequence of int
        1 to n each.
    temperature, n_classes
        As for `knn_predict`.
    chunk_size : int
        Test rows at a time.

    Returns
    -------
    list of Votes
        In the order of `ks`.

    Raises
    ------
    ValueError
        As `knn_accuracy`.

    Notes
    -----
    DINO's code counts the right class among the first five even where it has no vote, if its number is small enough;
    here a class without a vote is never found.
    """
    _check_test_labels(test_features, test_labels)
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    order = sorted(set(ks))
    parts = _votes(train_features, train_labels, test_features, order, temperature, n_classes, chunk_size)
    truth = test_labels.to(test_features.device, torch.int64).split(chunk_size)
    for index, chunk in enumerate(parts):
        true = truth[index]
        for k, votes in zip(order, chunk, strict=True):
            inside = true < votes.shape[1]
            own = votes.gather(1, true.clamp(max=votes.shape[1] - 1)[:, None])
            before = torch.arange(votes.shape[1], device=votes.device) < true[:, None]
            rank = ((votes > own) | ((votes == own) & before)).sum(dim=1)
            rank[~inside | (own[:, 0] == 0)] = votes.shape[1]
            found.setdefault(k, []).append((votes.argmax(dim=1), rank))
    return [Votes(k, *(torch.cat(tensors) for tensors in zip(*found[k], strict=True))) for k in ks]


def _votes(
    train: Array,
    labels: Tensor,
    test: Tensor,
    ks: Sequence[int],
    temperature: float,
    n_classes: int | None,
    chunk_size: int,
) -> Iterator[list[Tensor]]:
    """Votes (chunk, n_classes) for each k, rising, of one chunk of test rows after the other."""
    if not ks:
        raise ValueError("ks must name at least one number of neighbours")
    _check(train, labels, test, ks, temperature, chunk_size)
    labels = labels.to(test.device, torch.int64)
    if n_classes is None:
        n_classes = int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"train_labels must be 0 to {n_classes - 1}, got {int(labels.min())} to {int(labels.max())}; "
            "-1 marks images without a class, which cannot vote"
        )
    similarities, neighbours = nearest(train, test, max(ks), queries=chunk_size)
    for similarity, indices in zip(similarities.split(chunk_size), neighbours.split(chunk_size), strict=True):
        # A common factor of all votes changes nothing: the greatest weight is set to 1, and nothing overflows.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(similarity), n_classes, dtype=weights.dtype, device=test.device)
        chunk, done = [], 0
        for k in ks:
            votes = votes.scatter_add(1, labels[indices[:, done:k]], weights[:, done:k])
            chunk.append(votes)
            done = k
        yield chunk


def knn_predict(
    train_features: Array,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    k: int = 20,
    temperature: float = TEMPERATURE,
    n_classes: int | None = None,
    chunk_size: int = 1024,
) -> Tensor:
    """Predict classes by a weighted vote of the nearest neighbours.

    Parameters
    ----------
    train_features
        (n, d) floating point, a tensor or a memory-mapped array; rows need not have unit length, only directions are
        compared.
    train_labels
        (n,) integers, 0 to n_classes - 1.
    test_features
        (m, d) floating point.
    k
        Number of neighbours, 1 to n.
    temperature
        T of a vote, exp(cosine / T): the smaller, the more the nearest neighbour decides.
    n_classes
        Number of classes; the greatest label plus one if None.
    chunk_size
        Test rows at a time: memory is chunk_size x 16,384, or x n if that is less.

    Returns
    -------
    Tensor
        (m,) int64, on the device of `train_features`. Of classes with equal votes the first is taken.

    Raises
    ------
    ValueError
        If shapes do not match, there is nothing to compare, features are not finite, `k` is out of its range, labels
        are negative or not below `n_classes`, or `temperature` or `chunk_size` is not positive.
    """
    if isinstance(train_features, Tensor) and train_features.device != test_features.device:
        test_features = test_features.to(train_features.device)
    parts = _votes(train_features, train_labels, test_features, [k], temperature, n_classes, chunk_size)
    return torch.cat([votes.argmax(dim=1) for (votes,) in parts])


def knn_accuracy(
    train_features: Array,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of test images whose class `knn_predict` finds.

    Parameters
    ----------
    train_features, train_labels, test_features, k, temperature
        See `knn_predict`.
    test_labels
        (m,) integers, not negative; a class that no train image has counts as not found.

    Returns
    -------
    float
        Top-1 accuracy, 0 to 1: the number of hits over m, rounded once, to double precision.

    Raises
    ------
    ValueError
        As `knn_predict`, or if `test_labels` are not m integers from 0.
    """
    _check_test_labels(test_features, test_labels)
    predicted = knn_predict(train_features, train_labels, test_features, k=k, temperature=temperature)
    return int((predicted == test_labels.to(predicted.device)).sum()) / len(predicted)


def _check_test_labels(test_features: Tensor, test_labels: Tensor) -> None:
    if test_labels.shape != test_features.shape[:1]:
        raise ValueError(f"test_labels must have shape ({len(test_features)},), got {tuple(test_labels.shape)}")
    if not _are_integers(test_labels):
        raise ValueError(f"test_labels must be integers, got {test_labels.dtype}")
    if len(test_labels) and test_labels.min() < 0:
        raise ValueError(
            f"test_labels must be 0 or more, got {int(test_labels.min())}; -1 marks images without a class, which are "
            "neither right nor wrong"
        )


def _are_integers(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)


def _check(train: Array, labels: Tensor, test: Tensor, ks: Sequence[int], temperature: float, chunk_size: int) -> None:
    for name, features in (("train_features", train), ("test_features", test)):
        floating = features.is_floating_point() if isinstance(features, Tensor) else features.dtype.kind == "f"
        if features.ndim != 2 or not floating:
            raise ValueError(f"{name} must be floating point (n, d), got {features.dtype} {tuple(features.shape)}")
        if 0 in features.shape:
            raise ValueError(f"{name} is empty: {tuple(features.shape)}")
    if not test.isfinite().all():  # those of train are looked at where they are read
        raise ValueError("test_features holds values that are not finite; look at the network that made them")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train and test features must be equally wide, got {train.shape[1]} and {test.shape[1]}")
    if labels.shape != tuple(train.shape[:1]) or not _are_integers(labels):
        raise ValueError(f"train_labels must be {len(train)} integers, got {labels.dtype} {tuple(labels.shape)}")
    for k in ks:
        if not 1 <= k <= len(train):
            raise ValueError(f"k must be 1 to the number of train images, {len(train)}, got {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, got {chunk_size}")
