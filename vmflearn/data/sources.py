"""Images by the kind of place they are in: a folder (here), tar shards, or a data set that timm knows by name.

The order of a folder's files and the numbers of its classes are those that timm's own scripts see.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from vmflearn.data.decoding import ImageSource, UnreadableImage
from vmflearn.data.scanning import FILE_TYPES, existing_folder, is_hidden, natural_order, printable, scan_folder
from vmflearn.data.shards import open_shards

__all__ = ["FILE_TYPES", "FolderImages", "ImageSource", "UnreadableImage", "open_images", "open_source"]

SourceKind = Literal["folder", "shards", "timm"]


class FolderImages(ImageSource):
    """The images of a folder, see `open_images`.

    Attributes
    ----------
    root : Path
        The folder.
    """

    def __init__(self, root: Path, paths: Sequence[str], notes: Sequence[str] = ()) -> None:
        self.root, self._files = root, _Names(paths)
        self._digest = hashlib.sha256(os.fsencode("\0".join(paths))).hexdigest()
        folders = [path.rpartition("/")[0] for path in paths]
        homes = defaultdict(list)  # the folders of each class
        for folder in dict.fromkeys(folders):
            homes[folder.rpartition("/")[2]].append(folder)
        names = () if "" in homes else tuple(sorted(homes, key=natural_order))
        numbers = {name: number for number, name in enumerate(names)}
        self.class_names = names
        self.labels = torch.tensor([numbers.get(folder.rpartition("/")[2], -1) for folder in folders])
        self.notes = [*notes, *_lost_classes(paths, homes)]

    def path(self, index: int) -> Path:
        """Path of an image."""
        return self.root / self._files[index]

    def name(self, index: int) -> str:
        """Path of an image below the folder."""
        return self._files[index]

    def size(self, index: int) -> int:
        """Bytes of an image's file."""
        return self.path(index).stat().st_size

    def read_bytes(self, index: int) -> bytes:
        """Contents of an image's file."""
        return self.path(index).read_bytes()

    def names_digest(self) -> str:
        """Of the paths below the folder, see `ImageSource`."""
        return self._digest

    def _open(self, index: int) -> Image.Image:
        return Image.open(self.path(index))


class _Names:
    """Names of files, in two tensors: processes share these, where a list is copied for each worker of a loader."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._characters = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8)
        self._ends = torch.tensor([0, *map(len, encoded)]).cumsum(0)

    def __getitem__(self, index: int) -> str:
        index = range(len(self._ends) - 1)[index]
        return os.fsdecode(self._characters[self._ends[index] : self._ends[index + 1]].numpy().tobytes())


def open_images(root: str | Path) -> FolderImages:
    """Open a folder of images.

    Sub-folders that hold images are classes, numbered in natural order (class 2 before class 10); of nested ones the
    innermost name counts. If any image lies in the folder itself, no image has a class. Sub-folders may be links; names
    that begin with a dot are passed over.

    Parameters
    ----------
    root
        The folder; it is searched through all levels.

    Returns
    -------
    FolderImages
        ``len``, ``read(index)``, ``path(index)``, ``labels``, ``class_names``; ``notes`` say what was passed over, and
        where folders did not become classes of their own.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image in it.
    ValueError
        If it holds the parts of a data set, ``train`` and ``val`` say, beside each other.
    OSError
        If a sub-folder cannot be read.
    """
    root = existing_folder(root, "image folder", "images")
    paths, notes = scan_folder(root)
    if not paths:
        raise FileNotFoundError(
            f"no images in {root}: looked through all its sub-folders for {', '.join(FILE_TYPES)}; {_way_out(root)}"
            + "".join(f"; {note}" for note in notes)
        )
    return FolderImages(root, paths, notes)


def _way_out(root: Path) -> str:
    """What to do about a folder without images."""
    kinds = (".tar", ".zip", ".parquet")
    archives = sorted(path.name for path in root.iterdir() if path.suffix in kinds and not is_hidden(path.name))
    if archives:
        return (
            f"{archives[0]} is an archive: unpack each into a folder of its class (scripts/prepare_imagenet.py does so "
            "for ImageNet as downloaded), or read tar files of images with data.source=shards"
        )
    return "put images there, in one sub-folder for each class if classes are known, or give another folder"


def _lost_classes(paths: Sequence[str], homes: dict[str, list[str]]) -> list[str]:
    """Lines on folders that did not become classes of their own."""
    if "" in homes:
        loose = [path for path in paths if "/" not in path]
        others = "" if len(loose) == 1 else f" and {len(loose) - 1:,} more lie"
        return (
            [f"no image has a class, because {printable(loose[0])}{others or ' lies'} in no class folder"]
            if len(homes) > 1
            else []
        )
    shared = {name: folders for name, folders in homes.items() if len(folders) > 1}
    if not shared:
        return []
    name, folders = min(shared.items())
    more = f", and so are {len(shared) - 1:,} more classes" if len(shared) > 1 else ""
    return [
        f"the class {printable(name)} is made of {len(folders):,} folders, {printable(folders[0])} and "
        f"{printable(folders[1])} among them{more}: of nested folders the innermost name counts"
    ]


def open_source(
    kind: SourceKind, root: str | Path | None, *, name: str = "", split: str = "train", download: bool = False
) -> ImageSource:
    """Open images of any kind.

    Parameters
    ----------
    kind
        "folder" (`open_images`), "shards" (`vmflearn.data.shards.open_shards`) or "timm"
        (`vmflearn.data.named.open_named`).
    root
        The folder.
    name, split, download
        For "timm" alone.

    Raises
    ------
    FileNotFoundError, ValueError
        If it cannot be opened; the message says what to do.
    """
    if kind == "timm":
        from vmflearn.data.named import open_named

        return open_named(name, root, split=split, download=download)
    if root is None:
        raise ValueError(f"a source of kind {kind!r} needs its folder")
    if kind == "shards":
        return open_shards(root)
    return open_images(root)
