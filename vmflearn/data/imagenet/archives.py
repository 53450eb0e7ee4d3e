"""The archives as image-net.org gives them out, read in their place: nothing is unpacked twice.

``ILSVRC2012_img_train.tar`` holds 1,000 tar files, "n01440764.tar", one for each class; they may also lie unpacked in a
folder. ``ILSVRC2012_img_val.tar`` holds 50,000 images and no classes.
"""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tqdm import tqdm

from vmflearn.data.imagenet.classes import SYNSET, Classes
from vmflearn.data.imagenet.part import Part
from vmflearn.data.scanning import Skipped, is_hidden, natural_order

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class ArchivePart(Part):
    """Files in plain tar files, by their offsets."""

    def __init__(self, title: str, found: Sequence[tuple[str, Path, int, int]], notes: Sequence[str]) -> None:
        found = sorted(found, key=lambda entry: natural_order(entry[0]))
        super().__init__(title, [entry[0] for entry in found], [entry[3] for entry in found], notes)
        self._places = [(path, offset) for _, path, offset, _ in found]

    def read_bytes(self, index: int) -> bytes:
        """Contents of a file."""
        path, offset = self._places[index]
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(self.sizes[index])
        if len(data) < self.sizes[index]:
            raise ValueError(f"{path} has become shorter while it was read; download it again")
        return data


def train_part(archives: Sequence[Path]) -> ArchivePart:
    """The training images in a tar file of tar files, or in the tar files of the classes themselves.

    Raises
    ------
    ValueError
        If an archive is cut short, is no tar file, or holds no class.
    """
    found: list[tuple[str, Path, int, int]] = []
    skipped = Skipped()
    with tqdm(
        total=sum(path.stat().st_size for path in archives),
        desc="listing train",
        unit="B",
        unit_scale=True,
        disable=None,
    ) as bar:
        for path in archives:
            with path.open("rb") as file:
                if SYNSET.fullmatch(path.stem):
                    _add_class(found, path, path.stem, file, 0, skipped)
                    bar.update(path.stat().st_size)
                    continue
                for member, base in _members(path, path.name, file, 0, path.stat().st_size):
                    stem = member.name.rpartition("/")[2].removesuffix(".tar")
                    if SYNSET.fullmatch(stem) and member.name.endswith(".tar"):
                        _add_class(found, path, stem, file, base, skipped, member.size)
                    else:
                        skipped.add("it is no tar file of a class", member.name)
                    bar.update(member.size)
    if not found:
        raise ValueError(f"{archives[0]} holds no tar files of classes such as n01440764.tar; it is not {TRAIN}")
    return ArchivePart("train", found, skipped.lines())


def _add_class(
    found: list[tuple[str, Path, int, int]],
    path: Path,
    synset: str,
    file: IO[bytes],
    start: int,
    skipped: Skipped,
    size: int | None = None,
) -> None:
    """The images of one class's tar file, which begins at `start` of `file`."""
    size = path.stat().st_size if size is None else size
    for member, offset in _members(path, f"{synset}.tar", file, start, size):
        name = member.name.rpartition("/")[2]
        if name.lower().endswith((".jpeg", ".jpg", ".png")) and not is_hidden(name):
            found.append((f"{synset}/{name}", path, offset, member.size))
        else:
            skipped.add("it is no image", member.name)


def val_part(archive: Path, classes: Classes) -> ArchivePart:
    """The validation images, with the classes that the development kit states.

    Raises
    ------
    ValueError
        If the archive is cut short or is no tar file, or an image's class is not known.
    """
    found, skipped = [], Skipped()
    with archive.open("rb") as file:
        for member, offset in _members(archive, archive.name, file, 0, archive.stat().st_size):
            name = member.name.rpartition("/")[2]
            if name.lower().endswith(".jpeg"):
                found.append((f"{classes.of_validation(name)}/{name}", archive, offset, member.size))
            else:
                skipped.add("it is no image", member.name)
    if not found:
        raise ValueError(f"{archive} holds no images; it is not {VAL}")
    return ArchivePart("val", found, skipped.lines())


def _members(path: Path, name: str, file: IO[bytes], start: int, size: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The files of a tar file that begins at `start` of an open file, and where their bytes begin.

    tarfile ends without a word where a header is damaged or missing, so the end is looked at too.
    """
    where = name if name == path.name else f"{name} in {path}"
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:  # reads on from here: offsets are those of the whole file
            for member in tar:
                if member.offset_data + member.size > start + size:
                    raise ValueError(f"{where} is cut short, within {member.name}; download {path.name} again")
                if member.isfile():
                    yield member, member.offset_data
            file.seek(tar.offset)
            mark = file.read(min(tarfile.BLOCKSIZE, max(start + size - tar.offset, 0)))
    except tarfile.ReadError as error:
        raise ValueError(f"{where} is no plain tar file ({error}); download {path.name} again") from None
    if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
        what = "damaged" if mark else "cut short, without an end mark"
        raise ValueError(f"{where} is {what} at byte {tar.offset - start:,}; download {path.name} again")
