"""Images by the kind of place they are in: a folder (here), tar shards, or a data set that timm knows by name.

A folder is searched by timm's reader, so that the order of files and the numbers of classes are those that timm's own
scripts see.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from vmflearn.data.decoding import ImageSource, UnreadableImage

__all__ = ["FILE_TYPES", "FolderImages", "ImageSource", "UnreadableImage", "open_images", "open_source"]

FILE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")

SourceKind = Literal["folder", "shards", "timm"]


class FolderImages(ImageSource):
    """The images of a folder, see `open_images`.

    Attributes
    ----------
    root : Path
        The folder.
    """

    def __init__(self, root: Path) -> None:
        from timm.data.readers import create_reader

        self.root = root
        reader = create_reader("", root=str(root), input_key=";".join(FILE_TYPES))
        self._files = _Names(name for name, _ in reader.samples)
        names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
        self.class_names = () if "" in names else tuple(names)
        classes = [label if self.class_names else -1 for _, label in reader.samples]
        self.labels = torch.tensor(classes, dtype=torch.int64)
        self.notes = []

    def path(self, index: int) -> Path:
        """Path of an image."""
        return Path(self._files[index])

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
    innermost name counts. If any image lies in the folder itself, no image has a class.

    Parameters
    ----------
    root
        The folder; it is searched through all levels.

    Returns
    -------
    FolderImages
        ``len``, ``read(index)``, ``path(index)``, ``labels``, ``class_names``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image in it.
    """
    root = existing_folder(root, "image folder", "images")
    if not any(path.suffix.lower() in FILE_TYPES for path in root.rglob("*")):
        raise FileNotFoundError(
            f"no images in {root}: looked through all its sub-folders for {', '.join(FILE_TYPES)}; "
            "put images there, in one sub-folder for each class if classes are known, or give another folder"
        )
    return FolderImages(root)


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
        from vmflearn.data.shards import open_shards

        return open_shards(root)
    return open_images(root)


def existing_folder(root: str | Path, what: str, holds: str) -> Path:
    """The path of a folder; FileNotFoundError, with what it should be, if there is none."""
    root = Path(root).expanduser()
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"the {what} {root} {problem}; give a folder that holds {holds}")
    return root
