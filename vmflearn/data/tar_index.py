"""Which members of a tar file are its images, and of which class: WebDataset's pairs, read off the headers alone.

An image is ``KEY.jpg`` (or another type), its class ``KEY.cls``, where KEY is the path up to the last dot of the name:
``cats/0001`` and ``dogs/0001`` are two, and so are ``img_v1.0_001`` and ``img_v1.0_002``. WebDataset itself ends a key
at the first dot, and a key can then have many pictures. Such a name, ``000001.seg.png``, belongs to the shorter key if
that has a member of its own: beside ``000001.jpg`` it is no image; with ``000001.cls`` alone it is of that class.
"""

import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vmflearn.data.scanning import FILE_TYPES, OTHER_TYPES, Skipped, is_hidden, printable

NO_CHECKSUM = -1

ENTRY = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i8"), ("crc32", "<i8")])
"""A row of the index. ``shard`` counts in the order of the manifest; ``crc32`` is `NO_CHECKSUM` if none was taken."""

MOST_DIGITS = 18
"""Digits of a class number: what has more does not fit 64 bits."""


class TarIndex(NamedTuple):
    """What `index_tar` returns."""

    entries: NDArray[np.void]  # of ENTRY, a row for each image, in their order; label -1 where there is none
    problem: str  # what ended the file before its end, or ""
    unlabelled: str  # the first image without a class, or ""


class _Member(NamedTuple):
    name: str
    offset: int
    length: int


def index_tar(path: Path, skipped: Skipped, *, checksums: bool = False) -> TarIndex:
    """Index one tar file by its headers.

    Parameters
    ----------
    path
    skipped
        Told of members that look like images or classes and are not taken.
    checksums
        Whether to read the images too, for their checksums.

    Returns
    -------
    TarIndex
        With ``shard`` 0 throughout.

    Raises
    ------
    ValueError
        If it is not an uncompressed tar file, a class is not a number, or a key has two images or two classes.
    """
    members, problem = _members(path, skipped)
    pictures: list[tuple[str, _Member]] = []  # with their stems, the names without the last ending
    numbers: list[tuple[str, _Member]] = []
    for member in members:
        stem, suffix = posixpath.splitext(member.name)
        if suffix.lower() in FILE_TYPES:
            pictures.append((stem, member))
        elif suffix.lower() == ".cls":
            numbers.append((stem, member))
    keys = _keys({stem for stem, _ in pictures}, {stem for stem, _ in numbers})
    for stem, member in pictures:
        if stem not in keys:
            skipped.add("its key has a picture of a shorter name (KEY.seg.png beside KEY.jpg)", member.name)
    images = _unique(path, "image", [(keys[stem], member) for stem, member in pictures if stem in keys])
    with path.open("rb") as raw:
        classes = {key: _class_number(raw, member, path) for key, member in _unique(path, "class", numbers).items()}
        for key in classes.keys() - images.keys():
            skipped.add("a class has no image in its shard", f"{key}.cls")
        rows = [
            (0, m.offset, m.length, classes.get(key, -1), zlib.crc32(_read(raw, m)) if checksums else NO_CHECKSUM)
            for key, m in images.items()
        ]
    if problem:
        problem = f"{path} {problem}; {len(rows)} images before that can be read"
    unlabelled = next((member.name for key, member in images.items() if key not in classes), "")
    return TarIndex(np.array(rows, dtype=ENTRY), problem, unlabelled)


def inner_archives(path: Path) -> list[str]:
    """Tar files inside of a tar file, as ImageNet's archive has them."""
    return [member.name for member in _members(path, Skipped())[0] if member.name.endswith((".tar", ".tar.gz", ".tgz"))]


def _members(path: Path, skipped: Skipped) -> tuple[list[_Member], str]:
    """The files in a tar file, in their order, links among them as what they lead to; and what ended it too early."""
    found: list[tarfile.TarInfo] = []
    problem, size = "", path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as raw:
            try:
                for member in tar:  # the last one may be cut off, which the next step says
                    if member.offset_data + member.size <= size or member.islnk() or member.sparse is not None:
                        found.append(member)
                problem = _end(raw, tar.offset, size)
            except tarfile.ReadError as error:
                problem = f"is truncated ({error})"
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is not a plain tar file ({error}); unpack it if it is compressed") from None
    return list(_files(found, skipped)), problem


def _end(raw: BinaryIO, offset: int, size: int) -> str:
    """What is wrong with the end of a tar file, whose last member ends at `offset`; "" if nothing."""
    raw.seek(offset)
    mark = raw.read(tarfile.BLOCKSIZE)
    if mark.strip(b"\0"):
        return f"is damaged at byte {offset:,} of {size:,}"
    if len(mark) < tarfile.BLOCKSIZE:
        return "is truncated (it has no end mark)"
    while block := raw.read(2**20):
        if block.strip(b"\0"):
            return f"holds more after its end mark at byte {offset:,}: tar files put one behind the other are not read"
    return ""


def _files(found: list[tarfile.TarInfo], skipped: Skipped) -> Iterator[_Member]:
    """Members that are files with a name of the user's own, in their order."""
    by_name = {posixpath.normpath(member.name): member for member in found}
    for member in found:
        name = posixpath.normpath(member.name)
        suffix = posixpath.splitext(name)[1].lower()
        target: tarfile.TarInfo | None = member
        for _ in range(40):  # links to links, as many as an operating system follows
            if target is None or not (target.islnk() or target.issym()):
                break
            # A hard link names a member, a symbolic one a place seen from its own folder.
            beside = "" if target.islnk() else posixpath.dirname(target.name)
            target = by_name.get(posixpath.normpath(posixpath.join(beside, target.linkname)))
        if member.isdir() or suffix not in (*FILE_TYPES, *OTHER_TYPES, ".cls", ".tar", ".gz", ".tgz"):
            continue
        if any(is_hidden(part) and part != ".." for part in name.split("/")):
            skipped.add("the name begins with a dot", name)
        elif suffix in OTHER_TYPES:
            skipped.add(f"files that end in {suffix} are not read (convert them, to .png say)", name)
        elif target is None or not target.isfile():
            skipped.add("it is no file, or a link to none in its tar file", name)
        elif target.sparse is not None:
            skipped.add("it is stored with holes (tar --sparse), which are not read", name)
        else:
            yield _Member(name, target.offset_data, target.size)


def _keys(stems: set[str], classes: set[str]) -> dict[str, str]:
    """The key of each picture's stem; those are left out whose key has a picture of its own already."""
    keys = {}
    for stem in stems:
        folder, shorter = posixpath.split(stem)
        keys[stem] = stem
        while stem not in classes and "." in shorter:
            shorter = shorter.rpartition(".")[0]
            owner = posixpath.join(folder, shorter)
            if owner in stems:
                del keys[stem]
                break
            if owner in classes:
                keys[stem] = owner
                break
    return keys


def _unique(path: Path, what: str, members: list[tuple[str, _Member]]) -> dict[str, _Member]:
    """Members by their keys, in their order; ValueError if two have one key."""
    found: dict[str, _Member] = {}
    for key, member in members:
        if key in found:
            raise ValueError(
                f"{path} has two members {printable(found[key].name)} and {printable(member.name)}, and a key has one "
                f"{what}: which is meant cannot be told; unpack it, take out what is not wanted, and pack it again"
            )
        found[key] = member
    return found


def _read(raw: BinaryIO, member: _Member) -> bytes:
    raw.seek(member.offset)
    return raw.read(member.length)


def _class_number(raw: BinaryIO, member: _Member, path: Path) -> int:
    text = _read(raw, member._replace(length=min(member.length, 100)))
    if not text.strip().isdigit():
        raise ValueError(f"{path / member.name} must hold a class as a number, not {text[:20]!r}")
    if len(text.strip()) > MOST_DIGITS:
        raise ValueError(
            f"{path / member.name} must hold a class as a number of at most {MOST_DIGITS} digits, not {text[:20]!r}..."
        )
    return int(text)
