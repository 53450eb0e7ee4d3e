"""Copydays as it is published: originals, and images that were made of them.

``original`` holds the originals and ``strong`` the strongly altered images (scanned, blurred, painted over, ...). The
first four characters of an altered image's name are those of its original.
"""

from pathlib import Path

from vmflearn.data.scanning import existing_folder
from vmflearn.data.sources import FolderImages, open_images

PREFIX = 4


def open_copydays(root: str | Path) -> tuple[FolderImages, FolderImages, list[list[int]]]:
    """Originals, strongly altered images, and for each of these the numbers of its originals.

    Raises
    ------
    FileNotFoundError
        If a folder is not there, or holds no image.
    ValueError
        If an altered image has no original.
    """
    root = existing_folder(root, "benchmark", "the folders original and strong of Copydays")
    originals, altered = (open_images(root / name) for name in ("original", "strong"))
    starts = [originals.path(i).name[:PREFIX] for i in range(len(originals))]
    positives = []
    for i in range(len(altered)):
        path = altered.path(i)
        found = [number for number, start in enumerate(starts) if start == path.name[:PREFIX]]
        if not found:
            raise ValueError(f"{path} has no original: no name in {originals.root} begins with {path.name[:PREFIX]}")
        positives.append(found)
    return originals, altered, positives
