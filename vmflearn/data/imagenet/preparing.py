"""Class folders or shards from ImageNet as it was downloaded; the same call goes on where it was stopped.

    out/train/n01440764/n01440764_18.JPEG            or  out/train/shard-000000.tar, ...
    out/val/n01751748/ILSVRC2012_val_00000001.JPEG
    out/classes.tsv                                  the classes in the order of their labels

A file gets its name when it is whole. What is there already with the right size is left, so that a call after a kill
copies the rest; the files of an unpacked download are linked, not copied, where the disk can do so.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vmflearn.data.imagenet.archives import TRAIN, VAL, train_part, val_part
from vmflearn.data.imagenet.classes import DEVKIT, SYNSET, Classes, class_table, read_devkit
from vmflearn.data.imagenet.kaggle import IMAGES, ZIP, kaggle_parts
from vmflearn.data.imagenet.parquet import PARTS, parquet_parts
from vmflearn.data.imagenet.part import UNKNOWN, Part
from vmflearn.data.scanning import existing_folder
from vmflearn.data.shard_writing import alone, write_shards
from vmflearn.data.shards import replace_atomically

COUNTS = {"train": 1_281_167, "val": 50_000}
N_CLASSES = 1_000
MARK = ".imagenet"
"""Tells what a folder is being made of, or was."""


def prepare(
    source: str | Path, out: str | Path, *, shard_size: int | None = None, subset: bool = False
) -> tuple[list[Part], list[str]]:
    """Make class folders or shards of all parts that are there.

    Parameters
    ----------
    source
        Kaggle's zip file, or the folder that holds the downloaded files of any one kind.
    out
        Folder of the parts; made if it is missing.
    shard_size
        Images in a shard; None for folders.
    subset
        Whether to go on where images or classes are missing, and only say so.

    Returns
    -------
    parts : list of Part
        What was made.
    notes : list of str
        What is missing, and what was passed over.

    Raises
    ------
    ValueError
        If there is nothing to prepare, files are damaged, counts are not ImageNet's, or `out` holds something else.
    OSError
        If a file cannot be read or written.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    parts, classes = find_parts(source)
    names = sorted({name for part in parts for name in part.class_names})
    notes = _counted(parts, classes, subset)
    for part in parts:
        part.number_classes(names)
        notes += [f"{part.title}: {note}" for note in part.notes]
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if shard_size is None:
            write_folders(part, out / part.title)
        else:
            write_shards(part, out / part.title, shard_size=shard_size)
    (out / "classes.tsv").write_text(class_table(names, classes), encoding="utf-8")
    return parts, notes


def find_parts(source: Path) -> tuple[list[Part], Classes]:
    """The parts in a download, whichever kind it is of; ValueError or FileNotFoundError if it is of none or of two."""
    if source.is_file() and source.suffix == ".zip":
        return kaggle_parts(source)
    if source.is_file():
        raise ValueError(f"{source} is a file; give the folder that holds it, or Kaggle's zip file")
    existing_folder(source, "folder of downloads", "ImageNet as it was downloaded")
    single = sorted(
        path for path in (*source.glob("n*.tar"), *source.glob("train/n*.tar")) if SYNSET.fullmatch(path.stem)
    )
    parquet = sorted(
        path for prefix in PARTS for below in ("", "data/") for path in source.glob(f"{below}{prefix}-*.parquet")
    )
    archives = [source / name for name in (TRAIN, VAL) if (source / name).exists()]
    above = source.resolve().parent if source.resolve().name == IMAGES.partition("/")[0] else source  # ILSVRC itself
    kinds = {
        "archives": archives or single,
        "Kaggle's folder": [place for place in (source, above) if (place / IMAGES).is_dir()][:1],
        "Kaggle's zip file": [source / ZIP] if (source / ZIP).exists() else [],
        "parquet files": parquet,
    }
    there = [kind for kind, files in kinds.items() if files]
    if not there:
        raise FileNotFoundError(
            f"no ImageNet in {source}: looked for {TRAIN}, {VAL}, tar files of classes such as n01440764.tar, "
            f"{IMAGES}, {ZIP}, and train-*.parquet"
        )
    if len(there) > 1:
        raise ValueError(f"{source} holds ImageNet as {' and as '.join(there)}; move one of them elsewhere")
    files = kinds[there[0]]
    if there[0] == "archives":
        return _archive_parts(source, single)
    return parquet_parts(files) if there[0] == "parquet files" else kaggle_parts(files[0])


def _archive_parts(source: Path, single: Sequence[Path]) -> tuple[list[Part], Classes]:
    """The parts in the original archives."""
    parts: list[Part] = []
    devkits = [path for path in (source / f"{DEVKIT}.tar.gz", source / DEVKIT) if path.exists()]
    classes = read_devkit(devkits[0]) if devkits else Classes()
    if (source / TRAIN).exists() or single:
        parts.append(train_part([source / TRAIN] if (source / TRAIN).exists() else single))
    if (source / VAL).exists():
        if not devkits:
            raise ValueError(
                f"{source} holds {VAL} and no {DEVKIT}.tar.gz, the development kit, without which the classes of the "
                "validation images are not known; it is given out where the images are"
            )
        parts.append(val_part(source / VAL, classes))
    return parts, classes


def _counted(parts: Sequence[Part], classes: Classes, subset: bool) -> list[str]:
    """Lines on what is not as many as it should be; ValueError with the first of them if it must be all."""
    lines = []
    for part in parts:
        if (len(part), len(part.class_names)) != (COUNTS[part.title], N_CLASSES):
            lines.append(
                f"the {part.title} part has {len(part):,} images of {len(part.class_names):,} classes, not "
                f"{COUNTS[part.title]:,} of {N_CLASSES:,}{_first_short(part, classes)}"
            )
    if lines and not subset:
        raise ValueError(f"{lines[0]}: download the rest, or go on with what is there by --subset")
    missing = COUNTS.keys() - {part.title for part in parts}
    return [*lines, *(f"there is no {title} part in the source, and none is made" for title in sorted(missing))]


def _first_short(part: Part, classes: Classes) -> str:
    """The first class that lacks images, where the development kit says how many there should be."""
    found = dict.fromkeys(classes.train_images, 0)
    for name in part.names:
        synset = name.partition("/")[0]
        found[synset] = found.get(synset, 0) + 1
    short = [synset for synset, wanted in classes.train_images.items() if found[synset] != wanted]
    if part.title != "train" or not short:
        return ""
    first = min(short)
    return f" ({first} has {found[first]:,} of {classes.train_images[first]:,})"


def write_folders(part: Part, folder: str | Path) -> None:
    """Copy the files of a part into class folders, or go on where a call like this one was stopped.

    Raises
    ------
    ValueError
        If the folder holds something else, or another process is writing to it.
    OSError
        If a file cannot be read or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        _claim(part, folder)
        temporary = folder / ".writing"
        there = {group: _sizes(folder / group) for group in {name.partition("/")[0] for name in part.names}}
        # In the source's order, in which it is read fastest.
        for index, name in enumerate(tqdm(part.names, desc=f"writing {folder.name}", unit=" images", disable=None)):
            group, _, file = name.partition("/")
            size = there[group].get(file)
            if size is None or part.size(index) not in (UNKNOWN, size):
                _write(part, index, temporary, folder / name)
        temporary.unlink(missing_ok=True)


def _sizes(folder: Path) -> dict[str, int]:
    """Sizes of the files that are there, in a folder that is made if it is missing."""
    folder.mkdir(exist_ok=True)
    with os.scandir(folder) as listing:
        return {entry.name: entry.stat().st_size for entry in listing}


def _write(part: Part, index: int, temporary: Path, final: Path) -> None:
    """One file: a second name for one that is on the same disk, or a copy."""
    temporary.unlink(missing_ok=True)
    path = part.path(index)
    try:
        if path is None:
            raise OSError("it is no file of its own")
        os.link(path.resolve(), temporary)
    except OSError:  # none of its own, or on another disk
        temporary.write_bytes(part.read_bytes(index))
    temporary.replace(final)


def _claim(part: Part, folder: Path) -> None:
    """Take an empty folder, or one that was begun with the same files."""
    listing = "\n".join(f"{name}\0{size}" for name, size in zip(part.names, part.sizes, strict=True))
    plan = hashlib.sha256(listing.encode()).hexdigest()
    mark, temporary = folder / MARK, folder / f"{MARK}.new"
    if not mark.exists():
        if any(path != temporary for path in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and was not begun by this command; give another")
        temporary.write_text(plan, encoding="utf-8")
        replace_atomically(temporary, mark)
    elif mark.read_text(encoding="utf-8") != plan:
        raise ValueError(f"{folder} was begun with other files than these; give another")
