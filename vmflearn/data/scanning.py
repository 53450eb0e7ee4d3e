"""Which files of a folder are its images, in which order, and what was passed over.

The order of files and of classes is that of timm's reader, natural and case-blind (class 2 before class 10), except
that names which differ in nothing but case or leading zeros have an order too: that of their characters.
"""

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

FILE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
"""Endings of the files that are read, in small or capital letters."""

OTHER_TYPES = (
    ".apng", ".arw", ".avif", ".cr2", ".dib", ".dng", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jif", ".jp2",
    ".jpe", ".jpf", ".jpx", ".jxl", ".nef", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".psd", ".qoi", ".svg", ".tga",
)  # fmt: skip
"""Endings of images that are not read, and said to be so."""

DISKS_OWN = "lost+found"
"""A folder at the top of many a disk, which nobody but its administrator may read."""

_PART = re.compile(r"(?<![a-z])(training|train|validation|valid|val|testing|test|evaluation|eval|dev)(?![a-z])")


def existing_folder(root: str | Path, what: str, holds: str) -> Path:
    """The path of a folder; FileNotFoundError, with what it should be, if there is none."""
    root = Path(root).expanduser()
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        if root.is_symlink() and not root.exists():
            problem = f"is a link that leads {'back to itself' if _loops(root) else 'nowhere'}"
        raise FileNotFoundError(f"the {what} {root} {problem}; give a folder that holds {holds}")
    return root


def _loops(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


class Skipped:
    """What was passed over and why: a count and an example for each reason."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Take note of one name; of several the example is the first in order, wherever a disk lists it."""
        count, example = self._found.get(reason, (0, name))
        self._found[reason] = count + 1, min(example, name)

    def lines(self) -> list[str]:
        """A line for each reason."""
        return [
            f"skipped because {reason}: {printable(example)}" + (f" and {count - 1:,} more" if count > 1 else "")
            for reason, (count, example) in sorted(self._found.items())
        ]


def scan_folder(root: Path) -> tuple[list[str], list[str]]:
    """Find the images of a folder, through all its sub-folders.

    Names that begin with a dot are passed over. Links to folders are followed, but no folder is read twice: a link back
    to a folder above, or to one that was read already, is passed over and said to be so.

    Parameters
    ----------
    root
        An existing folder.

    Returns
    -------
    paths : list of str
        Below `root`, with "/" between names, in natural order.
    notes : list of str
        What was passed over, a line for each reason.

    Raises
    ------
    OSError
        If a folder cannot be read.
    ValueError
        If parts of a data set, ``train`` and ``val`` say, lie beside each other.
    """
    paths: list[str] = []
    skipped = Skipped()
    top = os.path.realpath(root)
    seen = {top}
    links = _walk(root, "", top, seen, paths, skipped)
    while links:  # after all folders that need no link, so that the order of a disk's listing decides nothing
        further: list[str] = []
        for link in sorted(links, key=natural_order):
            target = os.path.realpath(root / link)
            if target in seen or Path(top).is_relative_to(target):
                skipped.add("the link leads to a folder that is read already", link)
                continue
            seen.add(target)
            further += _walk(root, f"{link}/", target, seen, paths, skipped)
        links = further
    paths.sort(key=natural_order)
    refuse_parts({path.rpartition("/")[0] for path in paths}, root)
    return paths, skipped.lines()


def _walk(root: Path, inside: str, real: str, seen: set[str], paths: list[str], skipped: Skipped) -> list[str]:
    """Add the images below one folder to `paths`; returns the links to folders, not yet followed."""
    links, waiting = [], [(inside, real)]
    while waiting:
        inside, real = waiting.pop()
        try:
            with os.scandir(root / inside) as listing:
                entries = list(listing)
        except OSError as error:
            raise type(error)(
                f"the folder {printable(str(root / inside))} cannot be read ({error.strerror}); its images would be "
                "missing: give this user the right to read it, or take it out of the data set"
            ) from None
        for entry in entries:
            path, suffix = inside + entry.name, os.path.splitext(entry.name)[1].lower()
            folder = entry.is_dir(follow_symlinks=False)
            if is_hidden(entry.name):
                if entry.name != DISKS_OWN and (folder or suffix in FILE_TYPES):
                    skipped.add("the name begins with a dot", path)
            elif folder:
                below = os.path.join(real, entry.name)
                if below in seen:
                    skipped.add("the link leads to a folder that is read already", path)
                else:
                    seen.add(below)
                    waiting.append((f"{path}/", below))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(path)
            elif suffix in FILE_TYPES:
                # A link whose file is gone stays: reading it says so.
                if entry.is_file() or not os.path.exists(entry.path):
                    paths.append(path)
                else:
                    skipped.add("it is a pipe, a socket or a device and not a file", path)
            elif suffix in OTHER_TYPES:
                skipped.add(f"files that end in {suffix} are not read (convert them, to .png say)", path)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                skipped.add("the link leads nowhere", path)
    return links


def is_hidden(name: str) -> bool:
    """Whether a name is a program's and not the user's: ``.ipynb_checkpoints``, ``._photo.jpg``, a disk's own."""
    return name.startswith(".") or name == DISKS_OWN


def natural_order(text: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers in names by their value, and small and capital letters alike."""
    pieces: list[str | int] = list(re.split(r"(\d+)", text.lower()))
    pieces[1::2] = map(int, pieces[1::2])  # the odd ones are digits; str.isdigit would take superscripts for some
    return pieces, text


def printable(name: str) -> str:
    """A name with what is no text in it shown as "?", so that a message about it can be printed."""
    return name.encode(errors="replace").decode()


def refuse_parts(folders: Iterable[str], root: Path) -> None:
    """ValueError if two of the folders, or folders above them, are parts of one data set beside each other.

    Parts have names that differ in nothing but a word: train and val, train2017 and val2017, x_train and x_test.
    """
    above: dict[tuple[str, str], dict[str, str]] = {}
    for folder in set(folders):
        parent = ""
        for name in folder.split("/"):
            found = part_of(name)
            if found:
                pattern, word = found
                above.setdefault((parent, pattern), {})[word] = parent + name
            parent += f"{name}/"
    for (parent, _), parts in sorted(above.items()):
        if len(parts) > 1:
            ordered = [str(root / parts[word]) for word in sorted(parts, key=lambda word: (word[:2] != "tr", word))]
            names = " and ".join(Path(part).name for part in ordered)
            raise ValueError(
                f"{root / parent} holds {names}, parts of one data set, whose images would be mixed and taken for one; "
                f"give one of them: {', '.join(ordered)}"
            )


def part_of(name: str) -> tuple[str, str] | None:
    """The word in a name that says which part of a data set it is, and the name without it; None if there is none."""
    found = _PART.search(name.lower())
    return (_PART.sub("*", name.lower()), found.group()) if found else None
