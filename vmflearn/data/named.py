"""Data sets that timm's factory opens by name: torchvision's, and those of the Hugging Face hub.

Only sets with an index are taken, because training reads images in its own order and goes on in mid-epoch. What timm
offers as a stream (``hfids/``, ``tfds/``, ``wds/``) is refused with the way out: local tar files have an index
(`vmflearn.data.shards`).

The factory takes much for granted: a word for a part that it does not know is the test set, a prefix that it does not
know a folder, and a folder without the part asked for is searched as a whole. So words are checked here first.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vmflearn.data.decoding import ImageSource
from vmflearn.data.scanning import is_hidden

STREAMS = ("hfids/", "tfds/", "wds/")

TRAIN = ("train", "training")
VALIDATION = ("validation", "val", "valid", "eval", "evaluation")

TWO_PARTS = {"train": TRAIN, "validation": (*VALIDATION, "test")}

PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": TWO_PARTS,
    "cifar100": TWO_PARTS,
    "mnist": TWO_PARTS,
    "kmnist": TWO_PARTS,
    "fashion_mnist": TWO_PARTS,
    "qmnist": TWO_PARTS,
    "imagenet": {"train": TRAIN, "val": VALIDATION},
    "places365": {
        "train-standard": (*TRAIN, "train-standard"),
        "train-challenge": ("train-challenge",),
        "val": VALIDATION,
    },
    "image_folder": {"train": TRAIN, "validation": VALIDATION, "test": ("test",)},
}
"""What torchvision's sets call their parts, and the words that ask for each."""

FOLDERS = ("image_folder", "folder")


class NamedImages(ImageSource):
    """A data set of timm's factory, see `open_named`."""

    def __init__(self, name: str, split: str, dataset: Any) -> None:
        self._place, self._dataset = Path(name, split), dataset
        self._reader = getattr(dataset, "reader", None)  # Hugging Face sets have one, torchvision's have not
        names, labels = _classes(name, dataset, self._reader)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.notes, without = [], int((self.labels < 0).sum())
        if without:
            self.labels.fill_(-1)
            names = ()
            self.notes.append(
                f"no image has a class, because {without:,} of {len(labels):,} in {self._place} have none"
            )
        self.class_names = tuple(map(str, names))

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
        If the name is not known, the set is a stream or has no such part, or its labels are not one class an image.
    FileNotFoundError
        If the data are not there.
    ModuleNotFoundError
        If the set needs a package that is not installed.
    """
    prefix, _, rest = name.partition("/")
    prefix = prefix.lower()
    options: dict[str, Any] = {"split": split, "download": download}
    if prefix == "torch":
        options["split"] = _part(name, rest.lower(), split)
        if rest.lower() in FOLDERS:
            root = _part_folder(name, root, split)
            options |= {"search_split": False, "is_valid_file": _is_image}
    elif prefix != "hfds" or not rest:
        known = "names are those of timm with an index: torch/cifar10, torch/imagenet, hfds/OWNER/NAME, ..."
        if name.lower().startswith(STREAMS):
            known = "it is a stream, without an index; download it as tar files and open those as shards"
        raise ValueError(f"the data set {name!r} cannot be opened by name: {known}")
    from timm.data import create_dataset

    try:
        dataset = create_dataset(name, root=None if root is None else str(Path(root).expanduser()), **options)
        return NamedImages(name, split, dataset)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the data set {name!r} needs the package {error.name!r}: install it") from None
    except AssertionError as error:  # timm's way to say that a name is unknown
        raise ValueError(f"the data set {name!r} cannot be opened by name: {error}") from None
    except KeyError as error:  # a set of the hub has its own columns
        raise ValueError(f"the data set {name!r} needs the columns image and label, and has no {error}") from None
    except (RuntimeError, OSError) as error:  # torchvision: "Dataset not found or corrupted. You can use download=True"
        raise FileNotFoundError(f"the data set {name!r} cannot be opened in {root}: {error}") from None


def _part(name: str, rest: str, split: str) -> str:
    """What a set of torchvision calls a part; ValueError if it has none of this name."""
    if rest in ("inaturalist", "inat"):
        raise ValueError(
            f"the data set {name!r} does not list its images in a fixed order; unpack its archive and open its folder "
            "of classes with data.source=folder"
        )
    parts = PARTS["image_folder" if rest in FOLDERS else rest] if rest in PARTS or rest in FOLDERS else None
    if parts is None:
        raise ValueError(
            f"the data set {name!r} cannot be opened by name: Unknown torchvision dataset {rest}; known are "
            f"{', '.join(f'torch/{known}' for known in PARTS)}"
        )
    for part, words in parts.items():
        if split in words:
            return part
    words = tuple(word for words in parts.values() for word in words)
    raise ValueError(f"the data set {name!r} has no part {split!r}; its parts are {', '.join(words)}")


def _part_folder(name: str, root: str | Path | None, split: str) -> Path:
    """The sub-folder of a part, by any of its words: timm would search the whole folder where there is none."""
    if root is None:
        raise ValueError(f"the data set {name!r} needs data.root, the folder that holds {split}")
    words = next(words for words in PARTS["image_folder"].values() if split in words)
    for word in (split, *words):
        folder = Path(root).expanduser() / word
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the data set {name!r} has no folder {split} in {root}; give the folder that holds one, or open the folder of "
        "classes itself with data.source=folder"
    )


def _is_image(path: str) -> bool:
    """Whether torchvision is to take a file of a folder."""
    from torchvision.datasets.folder import is_image_file

    return is_image_file(path) and not is_hidden(Path(path).name) and Path(path).is_file()


def _classes(name: str, dataset: Any, reader: Any) -> tuple[Sequence[str | int], Sequence[int]]:
    """Names of the classes and the label of each image, -1 if it has none, without decoding images."""
    if reader is not None:
        order = reader.class_to_idx
        names: Sequence[Any] = sorted(order, key=order.__getitem__)
        labels: Any = list(reader.iter_targets()) or [-1] * len(reader)  # none at all from a set without the column
    else:
        labels = next((getattr(dataset, a) for a in ("targets", "_labels", "labels") if hasattr(dataset, a)), None)
        classes = getattr(dataset, "classes", ())
        names = [each[0] if isinstance(each, tuple) else each for each in classes]  # ImageNet's are tuples of synonyms
    if labels is None:
        raise ValueError(f"the data set {name!r} does not list the classes of its images; save it as a folder")
    try:
        labels = torch.as_tensor([-1 if x is None else x for x in labels] if isinstance(labels, list) else labels)
    except (TypeError, ValueError):
        raise ValueError(
            f"the data set {name!r} has labels that are no class numbers, {labels[0]!r} the first of them"
        ) from None
    if labels.ndim != 1:
        raise ValueError(f"the data set {name!r} has labels of shape {tuple(labels.shape)}, not one class an image")
    if labels.is_floating_point():
        raise ValueError(
            f"the data set {name!r} has labels that are no class numbers, {labels[0].item()!r} the first of them"
        )
    return names or range(int(labels.max()) + 1), labels.tolist()
