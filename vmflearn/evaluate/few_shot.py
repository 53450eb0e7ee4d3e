"""Logistic regression on the features of a few images a class, as MSN and DINO measure it (the paper's Table 3).

Both minimise a mean loss with a penalty, without intercept, and read their setting lambda in two ways:

    MSN     mean_i loss_i + (lambda / n) |W|^2 / 2    divided by the number n of training images: C = 1 / lambda
    DINO    mean_i loss_i + lambda |W|^2 / 2          as it stands: C = 1 / (lambda n)

with C of `vmflearn.evaluate.logistic`. MSN's features are those before the final norm, less their own mean and of
unit length; DINO's are of unit length. The paper says 0.075 "as in MSN"; MSN's own example says 0.0025, and its code
0.00025.
"""

from collections import Counter
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vmflearn.data.decoding import ImageSource
from vmflearn.evaluate.logistic import logistic_path

Reading = Literal["msn", "dino"]
LAMBDAS = {"msn": (0.075, 0.0025), "dino": (0.01, 0.1, 1.0)}
"""The paper's and MSN's; those that DINO tries."""


def prepare(features: Tensor, reading: Reading) -> Tensor:
    """Rows (n, d) as the solver of each sees them, in double precision."""
    features = features.double()
    if reading == "msn":
        features = features - features.mean(dim=1, keepdim=True)
    return F.normalize(features, dim=1)


def strength_of(penalty: float, n: int, reading: Reading) -> float:
    """C of a setting lambda with n training images.

    Raises
    ------
    ValueError
        If the setting is not positive, or the reading unknown.
    """
    if not penalty > 0:
        raise ValueError(f"lambda must be positive, got {penalty}")
    if reading not in LAMBDAS:
        raise ValueError(f"reading must be one of {', '.join(LAMBDAS)}, got {reading!r}")
    return 1 / penalty if reading == "msn" else 1 / (penalty * n)


def few_shot_hits(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    penalty: float,
    reading: Reading = "msn",
    n_classes: int | None = None,
) -> Tensor:
    """Which test images are classified rightly.

    Parameters
    ----------
    train_features, test_features : Tensor, (n, d) and (m, d)
        As the network gives them, see `prepare`.
    train_labels, test_labels : Tensor, (n,) and (m,) integers
        From 0.
    penalty : float
        The setting lambda; positive.
    reading : {"msn", "dino"}
        What the penalty and the features mean.
    n_classes : int, optional
        The greatest training label plus one if None.

    Returns
    -------
    Tensor, (m,) bool

    Raises
    ------
    ValueError
        As `logistic_path`; or if the penalty is not positive, or a test label is negative.
    """
    if len(test_labels) == 0 or int(test_labels.min()) < 0:
        raise ValueError(
            "test_labels must be 0 or more, at least one: -1 marks images that are neither right nor wrong"
        )
    strength = strength_of(penalty, len(train_labels), reading)
    (fit,) = logistic_path(prepare(train_features, reading), train_labels, [strength], n_classes=n_classes)
    predicted = fit.scores(prepare(test_features.to(train_features.device), reading))[0].argmax(dim=1)
    return predicted.cpu() == test_labels.cpu()


def draw_per_class(labels: Tensor, count: int, seed: int, n_classes: int = 0) -> Tensor:
    """Rows of `count` images of each class, drawn without replacement, in rising order.

    Classes are those up to the largest label, and `n_classes` at least: the last of them may have no image.

    Raises
    ------
    ValueError
        If `count` is less than 1, or a class has fewer images.
    """
    if count < 1:
        raise ValueError(f"there must be 1 image or more of each class, got {count}")
    counts = torch.bincount(labels, minlength=n_classes)
    if int(counts.min()) < count:
        raise ValueError(
            f"{count} images of each class were asked for, and class {int(counts.argmin())} has {counts.min()}"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == c][:count] for c in range(len(counts))]
    return torch.cat(chosen).sort().values


def rows_named(source: ImageSource, file: Path) -> Tensor:
    """Rows of the images that a published list names, one a line: ``n01440764_10026.JPEG``, MSN's splits and the 1 %.

    Raises
    ------
    ValueError
        If the list is no text or empty, or names images that the source has not, or has several of: some are told.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # editors of Windows put a mark in front
    except UnicodeDecodeError:
        raise ValueError(f"the list {file} is no text: it must name images, one a line") from None
    wanted = [line.strip() for line in lines if line.strip()]
    names = [source.path(row).name for row in range(len(source))]
    numbers = {name: row for row, name in enumerate(names)}
    counts = Counter(names) if len(numbers) < len(names) else {}
    if several := [name for name in wanted if counts.get(name, 0) > 1]:
        raise ValueError(
            f"the list {file} names {several[0]}, and {counts[several[0]]} images have that name: it cannot tell which"
        )
    absent = [name for name in wanted if name not in numbers]
    if absent or not wanted:
        told = f"names {len(absent):,} images that are not there, {absent[0]} the first" if absent else "names no image"
        raise ValueError(f"the list {file} {told}")
    return torch.tensor(sorted(numbers[name] for name in wanted))
