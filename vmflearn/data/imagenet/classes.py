"""Which class each image of the validation set has: the development kit's files, and Kaggle's.

The archive of validation images has no class folders. Line i of ``ILSVRC2012_validation_ground_truth.txt`` is the
class of the image that ends in i, as an ILSVRC2012_ID, which ``meta.mat`` translates into a synset id.
"""

import csv
import io
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

DEVKIT = "ILSVRC2012_devkit_t12"
META, GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
SYNSET = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"_(\d{8})\.")


@dataclass(frozen=True)
class Classes:
    """What is known of the classes, by synset id, and of the validation images.

    Attributes
    ----------
    words : Mapping
        Names for people.
    ids : Mapping
        The development kit's numbers, from 1.
    train_images : Mapping
        How many training images there should be.
    validation : Mapping
        Synset id of each validation image, by the image's number from 1.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    train_images: Mapping[str, int] = field(default_factory=dict)
    validation: Mapping[int, str] = field(default_factory=dict)

    def of_validation(self, name: str) -> str:
        """Synset id of a validation image by its file's name; ValueError if it is not known."""
        found = _NUMBER.search(name)
        synset = self.validation.get(int(found[1])) if found else None
        if synset is None:
            raise ValueError(
                f"the validation image {name} is none of the {len(self.validation):,} whose class is known"
            )
        return synset


def read_devkit(path: Path) -> Classes:
    """Read ``ILSVRC2012_devkit_t12.tar.gz``, or the folder that it unpacks into.

    Raises
    ------
    ValueError
        If a file of it is missing or cannot be read, or the ground truth names a class that ``meta.mat`` lacks.
    """
    try:
        meta, truth = (_devkit_file(path, name) for name in (META, GROUND_TRUTH))
        numbers = [int(line) for line in truth.split()]
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
        raise ValueError(f"the development kit {path} cannot be read: {error}; download it again") from None
    rows = [row for row in _synsets(path, meta) if int(row["num_children"]) == 0]
    leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    if unknown := sorted(set(numbers) - leaves.keys()):
        raise ValueError(f"the ground truth of {path} names class {unknown[0]}, which its meta.mat does not have")
    return Classes(
        words={str(row["WNID"]): str(row["words"]) for row in rows},
        ids={synset: number for number, synset in leaves.items()},
        train_images={str(row["WNID"]): int(row["num_train_images"]) for row in rows},
        validation={i: leaves[number] for i, number in enumerate(numbers, start=1)},
    )


def _devkit_file(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (path / name).read_bytes()
    with tarfile.open(path, "r:gz") as tar:
        file = tar.extractfile(f"{DEVKIT}/{name}")
        if file is None:
            raise ValueError(f"{name} in it is no file")
        return file.read()


def _synsets(path: Path, meta: bytes) -> np.ndarray:
    """The rows of meta.mat, one for each synset, inner nodes of the hierarchy among them."""
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        synsets[["ILSVRC2012_ID", "WNID", "words", "num_children", "num_train_images"]]
    except Exception as error:  # a damaged file fails in SciPy's reader in any way whatever
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{META} of the development kit {path} cannot be read ({reason}); download it again") from None
    return synsets


def read_kaggle(solution: str | None, mapping: str | None) -> Classes:
    """What the texts of ``LOC_val_solution.csv`` and ``LOC_synset_mapping.txt`` say.

    Raises
    ------
    ValueError
        If a line of the solution does not begin with a synset id.
    """
    validation = {}
    for row in csv.DictReader(io.StringIO(solution or "")):
        image, synset = str(row.get("ImageId")), str(row.get("PredictionString"))[:9]
        found = _NUMBER.search(f"{image}.")
        if not found or not SYNSET.fullmatch(synset):
            raise ValueError(f"LOC_val_solution.csv has a line that names no image and class: {list(row.values())}")
        validation[int(found[1])] = synset
    lines = (line.partition(" ") for line in (mapping or "").splitlines())
    return Classes(words={synset: words for synset, _, words in lines}, validation=validation)


def class_table(names: Iterable[str], classes: Classes) -> str:
    """The classes in the order of their labels, as tab-separated text."""
    lines = ["label\tsynset\tILSVRC2012_ID\twords"]
    for label, name in enumerate(names):
        lines.append(f"{label}\t{name}\t{classes.ids.get(name, '')}\t{classes.words.get(name, '')}")
    return "\n".join(lines) + "\n"
