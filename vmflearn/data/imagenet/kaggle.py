"""ImageNet as Kaggle gives it out, as a zip file or unpacked.

ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_18.JPEG
ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG      without class folders
LOC_val_solution.csv                                      their classes
LOC_synset_mapping.txt                                    names of the classes
"""

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vmflearn.data.imagenet.classes import SYNSET, Classes, read_kaggle
from vmflearn.data.imagenet.part import Part
from vmflearn.data.scanning import Skipped, is_hidden, natural_order

ZIP = "imagenet-object-localization-challenge.zip"
IMAGES = "ILSVRC/Data/CLS-LOC"
SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


class _Tree(ABC):
    """Files by their paths, in a folder or in a zip file."""

    place: Path

    @abstractmethod
    def sizes(self, below: str) -> dict[str, int]:
        """Sizes of the files below a folder, by their paths from the top."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Contents of a file; KeyError or FileNotFoundError if there is none."""

    def path(self, name: str) -> Path | None:
        """The file on this disk."""
        return None

    def text(self, name: str) -> str | None:
        """A file as text; None if there is none."""
        try:
            return self.read(name).decode()
        except (KeyError, FileNotFoundError):
            return None


class _Folder(_Tree):
    def __init__(self, place: Path) -> None:
        self.place = place

    def sizes(self, below: str) -> dict[str, int]:
        found = {}
        with tqdm(desc=f"listing {below.rpartition('/')[2]}", unit=" images", disable=None) as bar:
            for folder, _, names in os.walk(self.place / below, followlinks=True):
                inside = Path(folder).relative_to(self.place).as_posix()
                found.update({f"{inside}/{name}": os.stat(os.path.join(folder, name)).st_size for name in names})
                bar.update(len(names))
        return found

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def path(self, name: str) -> Path | None:
        return self.place / name


class _Zip(_Tree):
    def __init__(self, place: Path) -> None:
        self.place = place
        try:
            self._zip = zipfile.ZipFile(place)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{place} is no zip file, or is cut short ({error}); download it again") from None

    def sizes(self, below: str) -> dict[str, int]:
        return {
            entry.filename: entry.file_size
            for entry in self._zip.infolist()
            if entry.filename.startswith(f"{below}/") and not entry.is_dir()
        }

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{name} in {self.place} is damaged ({error}); download it again") from None


class KagglePart(Part):
    """Files of one part of Kaggle's layout."""

    def __init__(self, title: str, tree: _Tree, found: Sequence[tuple[str, str, int]], notes: Sequence[str]) -> None:
        found = sorted(found, key=lambda entry: natural_order(entry[0]))
        super().__init__(title, [entry[0] for entry in found], [entry[2] for entry in found], notes)
        self._tree, self._inside = tree, [entry[1] for entry in found]

    def read_bytes(self, index: int) -> bytes:
        """Contents of a file."""
        return self._tree.read(self._inside[index])

    def path(self, index: int) -> Path | None:
        """The file, if the layout is unpacked."""
        return self._tree.path(self._inside[index])


def kaggle_parts(place: Path) -> tuple[list[Part], Classes]:
    """The parts that are there, of a zip file or of the folder that holds ``ILSVRC``.

    Raises
    ------
    ValueError
        If the zip file is damaged, or validation images have no known class.
    """
    tree = _Zip(place) if place.is_file() else _Folder(place)
    classes = read_kaggle(tree.text(SOLUTION), tree.text(MAPPING))
    parts: list[Part] = []
    for title in ("train", "val"):
        found, skipped = [], Skipped()
        for inside, size in tree.sizes(f"{IMAGES}/{title}").items():
            name = inside.removeprefix(f"{IMAGES}/{title}/")
            if not name.lower().endswith(".jpeg") or is_hidden(name.rpartition("/")[2]):
                skipped.add("it is no image", name)
            elif title == "train" and not SYNSET.fullmatch(name.partition("/")[0]):
                skipped.add("it lies in no folder of a class", name)
            elif title == "val" and not classes.validation:
                raise ValueError(
                    f"{place} holds validation images and no {SOLUTION}, which says their classes; it is part of "
                    f"Kaggle's download: put it beside ILSVRC"
                )
            else:
                # A validation image may have been sorted into its class already.
                key = name if title == "train" else f"{classes.of_validation(name)}/{name.rpartition('/')[2]}"
                found.append((key, inside, size))
        if found:
            parts.append(KagglePart(title, tree, found, skipped.lines()))
    if not parts:
        raise ValueError(f"{place} holds no images in {IMAGES}/train or {IMAGES}/val")
    return parts, classes
