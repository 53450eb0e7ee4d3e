"""Classification by nearest neighbours, as DINO evaluates its features (the k-NN columns of the paper's Table 1).

With features of unit length, the class of a test image x is the one with most votes among its k nearest train images,

    class(x) = argmax_c  sum over neighbours j of class c of exp(<x, x_j> / T),        k = 20, T = 0.07.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    n_classes: int | None = None,
    chunk_size: int = 1024,
) -> Tensor:
    """Predict classes by a weighted vote of the nearest neighbours.

    Parameters
    ----------
    train_features
        (n, d) floating point; rows need not have unit length, only directions are compared.
    train_labels
        (n,) integers, 0 to n_classes - 1.
    test_features
        (m, d) floating point.
    k
        Number of neighbours, 1 to n.
    temperature
        T above: the smaller, the more the nearest neighbour decides.
    n_classes
        Number of classes; the greatest label plus one if None.
    chunk_size
        Test rows at a time: memory is chunk_size x n.

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
    _check(train_features, train_labels, test_features, k, temperature, chunk_size)
    device = train_features.device
    labels = train_labels.to(device, torch.int64)
    if n_classes is None:
        n_classes = int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"train_labels must be 0 to {n_classes - 1}, got {int(labels.min())} to {int(labels.max())}; "
            "-1 marks images without a class, which cannot vote"
        )
    dtype = torch.promote_types(train_features.dtype, torch.float32)  # half precision would confuse near neighbours
    train = F.normalize(train_features.to(dtype), dim=1)
    predictions = []
    for chunk in test_features.split(chunk_size):
        similarity = F.normalize(chunk.to(device, dtype), dim=1) @ train.T
        nearest, neighbours = similarity.topk(k, dim=1)
        # A common factor of all votes changes nothing: the greatest weight is set to 1, and nothing overflows.
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = torch.zeros(len(chunk), n_classes, dtype=dtype, device=device)
        predictions.append(votes.scatter_add_(1, labels[neighbours], weights).argmax(dim=1))
    return torch.cat(predictions)


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
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
    if test_labels.shape != test_features.shape[:1]:
        raise ValueError(f"test_labels must have shape ({len(test_features)},), got {tuple(test_labels.shape)}")
    if not _are_integers(test_labels):
        raise ValueError(f"test_labels must be integers, got {test_labels.dtype}")
    if len(test_labels) and test_labels.min() < 0:
        raise ValueError(
            f"test_labels must be 0 or more, got {int(test_labels.min())}; -1 marks images without a class, which are "
            "neither right nor wrong"
        )
    predicted = knn_predict(train_features, train_labels, test_features, k=k, temperature=temperature)
    return int((predicted == test_labels.to(predicted.device)).sum()) / len(predicted)


def _are_integers(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)


def _check(train: Tensor, labels: Tensor, test: Tensor, k: int, temperature: float, chunk_size: int) -> None:
    for name, features in (("train_features", train), ("test_features", test)):
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(f"{name} must be floating point (n, d), got {features.dtype} {tuple(features.shape)}")
        if features.numel() == 0:
            raise ValueError(f"{name} is empty: {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite; look at the network that made them")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train and test features must be equally wide, got {train.shape[1]} and {test.shape[1]}")
    if labels.shape != train.shape[:1] or not _are_integers(labels):
        raise ValueError(f"train_labels must be {len(train)} integers, got {labels.dtype} {tuple(labels.shape)}")
    if not 1 <= k <= len(train):
        raise ValueError(f"k must be 1 to the number of train images, {len(train)}, got {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, got {chunk_size}")
