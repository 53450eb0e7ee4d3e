"""Data sets that timm's factory opens by name: torchvision's, and those of the Hugging Face hub.

Only sets with an index are taken, because training reads images in its own order and goes on in mid-epoch. What timm
offers as a stream (``hfids/``, ``tfds/``, ``wds/``) is refused with the way out: local tar files have an index
(`vmflearn.data.shards`).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vmflearn.data.decoding import ImageSource

STREAMS = ("hfids/", "tfds/", "wds/")


class NamedImages(ImageSource):
    """A data set of timm's factory, see `open_named`."""

    def __init__(self, name: str, split: str, dataset: Any) -> None:
        self.notes = []
        self._place, self._dataset = Path(name, split), dataset
        self._reader = getattr(dataset, "reader", None)  # Hugging Face sets have one, torchvision's have not
        names, labels = _classes(dataset, self._reader)
        self.class_names = tuple(map(str, names))
        self.labels = torch.as_tensor(labels, dtype=torch.int64)

    def path(self, index: int) -> Path:
        """Name, split and number of an image: such a set need not have files."""
        return self._place / str(index)

    def names_digest(self) -> str:
        """Of name, split and count, see `ImageSource`: the images of such a set have no names."""
        return hashlib.sha256(f"{self._place.as_posix()}\0{len(self)}".encode()).hexdigest()

    def _open(self, index: int) -> Image.Image:
        if self._reader is not None:
            return Image.open(self._reader[index][0])
        return self._dataset[index][0]


def open_named(
    name: str, root: str | Path | None = None, *, split: str = "train", download: bool = False
) -> NamedImages:
    """Open a data set by the name that timm gives it.

    Parameters
    ----------
    name
        ``torch/cifar10``, ``torch/imagenet``, ``hfds/owner/name``, ... as for ``timm.data.create_dataset``.
    root
        Folder of the data (torchvision) or of the cache (Hugging Face).
    split
        ``train``, ``validation``, or what the set calls its parts.
    download
        Whether torchvision may download what is missing.

    Raises
    ------
    ValueError
        If the name is not known, the set is a stream, or its labels are not one class an image.
    FileNotFoundError
        If the data are not there.
    ModuleNotFoundError
        If the set needs a package that is not installed.
    """
    if "/" not in name or name.lower().startswith(STREAMS):
        known = "names are those of timm with an index: torch/cifar10, torch/imagenet, hfds/OWNER/NAME, ..."
        if "/" in name:
            known = "it is a stream, without an index; download it as tar files and open those as shards"
        raise ValueError(f"the data set {name!r} cannot be opened by name: {known}")
    from timm.data import create_dataset

    try:
        dataset = create_dataset(name, root=None if root is None else str(root), split=split, download=download)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the data set {name!r} needs the package {error.name!r}: install it") from None
    except AssertionError as error:  # timm's way to say that a name is unknown
        raise ValueError(f"the data set {name!r} cannot be opened by name: {error}") from None
    except (RuntimeError, OSError) as error:  # torchvision: "Dataset not found or corrupted. You can use download=True"
        raise FileNotFoundError(f"the data set {name!r} cannot be opened in {root}: {error}") from None
    return NamedImages(name, split, dataset)


def _classes(dataset: Any, reader: Any) -> tuple[Sequence[str], Sequence[int]]:
    """Names of the classes and the label of each image, without decoding images."""
    if reader is not None:
        order = reader.class_to_idx
        return sorted(order, key=order.__getitem__), list(reader.iter_targets())
    labels = next((getattr(dataset, a) for a in ("targets", "_labels", "labels") if hasattr(dataset, a)), None)
    if labels is None:
        raise ValueError(f"{type(dataset).__name__} does not list the classes of its images; save it as a folder")
    labels = torch.as_tensor(labels).to(torch.int64)
    if labels.ndim != 1:
        raise ValueError(f"{type(dataset).__name__} has labels of shape {tuple(labels.shape)}, not one class an image")
    names = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
    names = [name[0] if isinstance(name, tuple) else name for name in names]  # ImageNet's are tuples of synonyms
    return names, labels.tolist()
