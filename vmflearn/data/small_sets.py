"""The nine small data sets of the paper's transfer table, as torchvision reads their published folders.

Caltech101 and SUN397 have no published parts in torchvision: 30 images of each class of Caltech101 and 50 of SUN397 are
drawn for training, and the others (of SUN397 50) are for testing, as in their papers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vmflearn.data.decoding import ImageSource
from vmflearn.data.named import NamedImages


class SmallSet(NamedTuple):
    """Parts of a set.

    Attributes
    ----------
    train, validation, test : ImageSource or None
        No `validation` where there is no official one.
    per_class : bool
        Whether its accuracy is published as the mean of those of the classes.
    """

    train: ImageSource
    validation: ImageSource | None
    test: ImageSource
    per_class: bool


class _Rows(ImageSource):
    """Some rows of another source."""

    def __init__(self, source: ImageSource, rows: Tensor, word: str) -> None:
        self._source, self._rows, self._word = source, rows, word
        self.labels, self.class_names, self.notes = source.labels[rows], source.class_names, source.notes

    def path(self, index: int) -> Path:
        return self._source.path(int(self._rows[index]))

    def names_digest(self) -> str:
        return f"{self._source.names_digest()} {self._word}"

    def _open(self, index: int) -> Any:
        return self._source._open(int(self._rows[index]))


PER_CLASS = ("aircraft", "caltech101", "flowers", "pets")
SIZES = {"caltech101": (30, None), "sun397": (50, 50)}
SETS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "aircraft": ("FGVCAircraft", {part: {"split": part} for part in ("train", "val", "test")}),
    "caltech101": ("Caltech101", {"all": {}}),
    "cifar10": ("CIFAR10", {"train": {"train": True}, "test": {"train": False}}),
    "cifar100": ("CIFAR100", {"train": {"train": True}, "test": {"train": False}}),
    "dtd": ("DTD", {part: {"split": part} for part in ("train", "val", "test")}),
    "flowers": ("Flowers102", {part: {"split": part} for part in ("train", "val", "test")}),
    "food": ("Food101", {"train": {"split": "train"}, "test": {"split": "test"}}),
    "pets": ("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "sun397": ("SUN397", {"all": {}}),
}
"""torchvision's class, and its options for each part."""


def open_small_set(name: str, root: str | Path, *, seed: int = 0) -> SmallSet:
    """Open one of `SETS`; nothing is downloaded.

    Parameters
    ----------
    name : str
    root : path
        The folder that torchvision is given: it holds ``dtd/dtd/images``, ``food-101``, ``cifar-10-batches-py``, ...
    seed : int
        For sets without published parts.

    Raises
    ------
    ValueError
        If the name is not known.
    FileNotFoundError
        If the set is not there.
    """
    if name not in SETS:
        raise ValueError(f"the small set {name!r} is not known; known are {', '.join(SETS)}")
    from torchvision import datasets

    kind, options = SETS[name]
    make: Callable[..., Any] = getattr(datasets, kind)
    parts = {}
    for part, chosen in options.items():
        try:
            parts[part] = _named(name, part, make(str(Path(root).expanduser()), download=False, **chosen))
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"the data set {name} is not in {root} as torchvision expects it: {error}"
            ) from None
    if "all" in parts:
        parts |= _drawn(parts["all"], *SIZES[name], seed)
    return SmallSet(parts["train"], parts.get("val"), parts["test"], name in PER_CLASS)


def _named(name: str, part: str, dataset: Any) -> ImageSource:
    """With the classes where `NamedImages` looks for them."""
    if not hasattr(dataset, "classes"):
        dataset.classes = dataset.categories  # Caltech101's
        dataset.targets = dataset.y
    return NamedImages(name, part, dataset)


def _drawn(source: ImageSource, train: int, test: int | None, seed: int) -> dict[str, ImageSource]:
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    members = [order[source.labels[order] == c] for c in range(len(source.class_names))]
    stop = None if test is None else train + test
    found = {
        "train": torch.cat([rows[:train] for rows in members]),
        "test": torch.cat([rows[train:stop] for rows in members]),
    }
    return {part: _Rows(source, rows, f"{part} {train} {test} {seed}") for part, rows in found.items()}
