"""Turning a folder of images, or an archive, into tar shards that `vmflearn.data.shards` reads.

Files are copied as they are, in the order of their source, so that a run on the shards sees what a run on the folder
would. A shard gets its name when all its bytes are on the disk: what is there after a kill is whole, and the same call
makes the rest. The tar files are the same, byte for byte, whenever and wherever they are made of the same images.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from tqdm import tqdm

from vmflearn.data.scanning import Skipped
from vmflearn.data.shards import FORMAT, MANIFEST, replace_atomically, write_index
from vmflearn.data.sources import FolderImages, open_images
from vmflearn.data.tar_index import index_tar

PLAN = "making.json"
"""What is being made, until the manifest says that it is made."""


class ImageFiles(Protocol):
    """Files of images in their order, wherever they lie: `FolderImages`, or a part of an archive."""

    class_names: tuple[str, ...]
    labels: Tensor
    notes: list[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of a file, with "/" between folders."""

    def size(self, index: int) -> int:
        """Bytes of a file."""

    def read_bytes(self, index: int) -> bytes:
        """Contents of a file."""

    def names_digest(self) -> str:
        """Of all names, see `ImageSource`."""


def write_shards(folder: str | Path | ImageFiles, out: str | Path, *, shard_size: int = 1000) -> dict[str, Any]:
    """Copy the images of a folder into shards, or go on where a call like this one was stopped.

    Parameters
    ----------
    folder
        With or without class sub-folders, see `vmflearn.data.sources.open_images`; or files from elsewhere.
    out
        Folder of the shards; made if it is missing.
    shard_size
        Images in a shard (the last one holds the rest).

    Returns
    -------
    dict
        The manifest: ``images``, ``class_names``, ``names`` (see `ImageSource.names_digest`), ``notes`` of the folder
        (what was passed over in it), and for each of ``shards`` its ``name``, ``images``, ``bytes`` and ``sha256``.

    Raises
    ------
    ValueError
        If `shard_size` is not positive, `folder` holds the parts of a data set beside each other, or `out` lies in it,
        is being written by another process, or holds something else, shards of another folder, or a damaged shard.
    FileNotFoundError
        If there is no such folder, or no image in it.
    OSError
        If a file cannot be read or written (the disk is full); nothing half-written keeps its name.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1 image, got {shard_size}")
    out = Path(out).expanduser()
    images = open_images(folder) if isinstance(folder, str | Path) else folder
    if isinstance(images, FolderImages) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(images.root)):
        raise ValueError(f"{out} lies inside of {images.root}, whose images it would then hold twice; give another")
    plan = _plan(images, shard_size)
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        if not _claim(out, plan):
            _write(images, out, plan)
        return json.loads((out / MANIFEST).read_text(encoding="utf-8"))


def _write(images: ImageFiles, out: Path, plan: dict[str, Any]) -> None:
    """Write the shards that are missing, then index and manifest."""
    shard_size = plan["shard_size"]
    starts = range(0, len(images), shard_size)
    names = [f"shard-{i:06}.tar" for i in range(len(starts))]
    with tqdm(total=len(images), desc=f"writing {out.name}", unit=" images", disable=None) as bar:
        for start, name in zip(starts, names, strict=True):
            members = range(start, min(start + shard_size, len(images)))
            if not (out / name).exists():
                _write_shard(images, members, out / name)
            bar.update(len(members))
    entries, shards = [], []
    for i, name in enumerate(tqdm(names, desc="checksums", unit=" shards", disable=None)):
        rows, problem, _ = index_tar(out / name, Skipped(), checksums=True)  # reads back what has been written
        wanted = min(shard_size, len(images) - starts[i])
        if problem or len(rows) != wanted:
            raise ValueError(
                f"{out / name} holds {len(rows)} images, not {wanted}; delete it, and the same command makes it again"
            )
        rows["shard"] = i
        entries.append(rows)
        with (out / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shards.append({"name": name, "images": wanted, "bytes": (out / name).stat().st_size, "sha256": digest})
    manifest = {
        "class_names": images.class_names,
        "names": images.names_digest(),
        "shards": shards,
        "plan": plan,
        "notes": images.notes,
    }
    write_index(out, np.concatenate(entries), manifest)
    (out / PLAN).unlink()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold a folder while it is written to; ValueError if another process does. The system lets go at any end."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing to {out}; wait for it, or give another folder") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(folder)


def _plan(images: ImageFiles, shard_size: int) -> dict[str, Any]:
    """What tells one conversion from another: names and sizes of the images, not all their bytes, which takes hours."""
    listing = hashlib.sha256()
    for index in range(len(images)):
        listing.update(os.fsencode(f"{images.name(index)}\0{images.size(index)}\n"))  # names need be no text
    return {"format": FORMAT, "images": len(images), "listing": listing.hexdigest(), "shard_size": shard_size}


def _claim(out: Path, plan: dict[str, Any]) -> bool:
    """Take an empty folder, or one where the same plan was followed; True if it has been followed to the end."""
    done, begun = out / MANIFEST, out / PLAN
    if done.exists() or begun.exists():
        try:
            found = json.loads((done if done.exists() else begun).read_text(encoding="utf-8"))
            found = found.get("plan") if done.exists() else found
        except ValueError:
            found = None
        if found != plan:
            raise ValueError(f"{out} holds shards of other images or of another shard size; give an empty folder")
        return done.exists()
    temporary = out / f".{PLAN}"
    if any(path != temporary for path in out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no shards begun by this command; give an empty folder")
    temporary.write_text(json.dumps(plan), encoding="utf-8")
    replace_atomically(temporary, begun)
    return False


def _write_shard(images: ImageFiles, members: range, path: Path) -> None:
    """One tar file; under its own name once it is whole."""
    temporary = path.with_name(f".{path.name}")
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in members:
                source = PurePosixPath(images.name(index))
                stem = re.sub(r"[^A-Za-z0-9_-]", "_", source.stem)[:60]  # a key has no dots, and fits a plain header
                key = f"{index:09}-{stem}"
                _add(tar, key + source.suffix.lower(), images.read_bytes(index))
                if images.class_names:
                    _add(tar, f"{key}.cls", str(int(images.labels[index])).encode())
        replace_atomically(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, time and mode stay at their defaults: the same bytes everywhere
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
