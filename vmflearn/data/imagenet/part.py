"""The images of one part of ImageNet as files with a class each, wherever their bytes lie."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

UNKNOWN = -1
"""The size of a file whose size only reading it can tell."""


class Part(ABC):
    """Files "n01440764/n01440764_18.JPEG" in their order; what `vmflearn.data.shard_writing` copies.

    Attributes
    ----------
    title : str
        ``train`` or ``val``.
    names : list of str
        Class folder and file.
    class_names : tuple of str
        In the order of their labels.
    """

    def __init__(self, title: str, names: Sequence[str], sizes: Sequence[int], notes: Sequence[str] = ()) -> None:
        if len(set(names)) < len(names):
            (twice, _), *_ = Counter(names).most_common(1)
            raise ValueError(f"the {title} part holds {twice} twice; download it again")
        self.title, self.names, self.sizes, self.notes = title, list(names), list(sizes), list(notes)
        self.number_classes(sorted({name.partition("/")[0] for name in names}))

    def number_classes(self, class_names: Sequence[str]) -> None:
        """Set the classes, of which the part may lack some, and with them the labels."""
        self.class_names = tuple(class_names)
        numbers = {name: number for number, name in enumerate(class_names)}
        self.labels = torch.tensor([numbers[name.partition("/")[0]] for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Class folder and file."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of a file; `UNKNOWN` where the source does not say."""
        return self.sizes[index]

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """Contents of a file."""

    def path(self, index: int) -> Path | None:
        """The file, if it is one of its own on this disk."""
        return None

    def names_digest(self) -> str:
        """As `FolderImages` would state it of the same files."""
        return hashlib.sha256(os.fsencode("\0".join(self.names))).hexdigest()
