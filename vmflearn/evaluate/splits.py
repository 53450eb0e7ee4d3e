"""Training and test images by the way people name them: a folder of parts, two folders, a set known by name."""

from collections.abc import Sequence
from pathlib import Path

from vmflearn.data.decoding import ImageSource
from vmflearn.data.photo_source import PhotoImages
from vmflearn.data.scanning import is_hidden, printable, scan_folder
from vmflearn.data.sources import open_source

NAMED = ("torch/", "hfds/")
TEST_FOLDERS = ("val", "test", "validation")


def open_splits(
    data: str, *, test_data: str | None = None, root: str | None = None, parts: Sequence[str] = ("train", "validation")
) -> tuple[ImageSource, ImageSource]:
    """Open labelled training and test images of the same classes.

    Parameters
    ----------
    data : str
        ``photos``; a set that timm knows by name, ``torch/cifar10`` say; a folder that holds ``train`` and ``val`` (or
        ``test``), each with a sub-folder for each class or with shards; or, with `test_data`, the training part itself.
    test_data : str, optional
        The test part, where it lies elsewhere.
    root : str, optional
        Where a set known by name lies.
    parts : (str, str)
        The two parts of a set known by name.

    Raises
    ------
    FileNotFoundError, ValueError
        If a part cannot be opened, has no classes, or has others than the other part: the error names which.
    """
    if data == "photos":
        return PhotoImages("train"), PhotoImages("test")
    if data.startswith(NAMED):
        first, second = (open_source("timm", root, name=data, split=part) for part in parts)
        check_classes(first, f"{data} ({parts[0]})", second, f"{data} ({parts[1]})")
        return first, second
    train, test = (Path(data), Path(test_data)) if test_data is not None else _parts_of(Path(data))
    sources = open_images_or_shards(train), open_images_or_shards(test)
    check_classes(sources[0], str(train), sources[1], str(test))
    return sources


def open_images_or_shards(folder: Path) -> ImageSource:
    """A folder of images, or one of shards if it holds tar files; ValueError if it holds both."""
    archives = sorted(path.name for path in folder.glob("*.tar") if not is_hidden(path.name))
    if not archives:
        return open_source("folder", folder)
    images, _ = scan_folder(folder)
    if images:
        raise ValueError(
            f"{folder} holds tar files beside images, {printable(archives[0])} and {printable(images[0])} among them: "
            "take one kind out, or give a folder of the other alone"
        )
    return open_source("shards", folder)


def _parts_of(folder: Path) -> tuple[Path, Path]:
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if not (folder / "train").is_dir() or test is None:
        lacks = "train" if test is not None else f"{' or '.join(TEST_FOLDERS)}"
        raise FileNotFoundError(
            f"--data {folder} has no folder {lacks}: give a folder that holds train and val, or the training images "
            "with --data and the test images with --test-data"
        )
    return folder / "train", test


def check_classes(train: ImageSource, train_place: str, test: ImageSource, test_place: str) -> None:
    """Refuse two parts that have no classes, fewer than two, or not the same.

    Raises
    ------
    ValueError
        Which names which classes are missing where.
    """
    for source, place in ((train, train_place), (test, test_place)):
        if not source.class_names:
            raise ValueError(
                f"the images in {place} have no classes: put each into a sub-folder of its class"
                + "".join(f"; {note}" for note in source.notes)
            )
    if len(train.class_names) < 2:
        raise ValueError(f"{train_place} has one class, {train.class_names[0]}: every answer would be right")
    unlike = unlike_classes(train.class_names, test.class_names)
    if unlike:
        raise ValueError(
            f"the test images in {test_place} must have the classes of {train_place}, in their order: {unlike}"
        )


def unlike_classes(train: Sequence[str], test: Sequence[str]) -> str:
    """Which classes of one part the other lacks, for a message about the test part; "" if all are the same."""
    if tuple(train) == tuple(test):
        return ""
    known, seen = set(train), set(test)
    lacking = [name for name in train if name not in seen]
    foreign = [name for name in test if name not in known]
    told = [f"it lacks {_some(lacking)}"] if lacking else []
    told += [f"it has {_some(foreign)} besides"] if foreign else []
    return " and ".join(told) or "the order is another"


def _some(names: Sequence[str], shown: int = 4) -> str:
    """A few of some names, and how many there are."""
    few = ", ".join(names[:shown])
    return few if len(names) <= shown else f"{few} and {len(names) - shown:,} more"
