"""Images in tar files ("shards", as WebDataset lays them out), read in any order through an index of offsets.

A shard holds, for each image, the members ``KEY.jpg`` (or another image type) and ``KEY.cls`` (its class, in digits).
A set of shards is a folder with

    *.tar            the shards
    index.npy        a row for each image: shard, offset and length of the file in it, its class and checksum
    manifest.json    names, counts and checksums of the shards, names of the classes

so that an image is one seek and one read, and an epoch visits a million images in any order, as it would in a folder.
``scripts/make_shards.py`` writes such a set. Tar files from elsewhere are indexed when they are first opened, by
reading their headers; nothing needs to be streamed.
"""

import json
import os
import tarfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vmflearn.data.decoding import ImageSource
from vmflearn.data.sources import FILE_TYPES, existing_folder

INDEX, MANIFEST = "index.npy", "manifest.json"
FORMAT = "vmflearn shards 1"
NO_CHECKSUM = -1

ENTRY = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i8"), ("crc32", "<i8")])
"""A row of the index. ``shard`` counts in the order of the manifest; ``crc32`` is `NO_CHECKSUM` if none was taken."""


class ShardImages(ImageSource):
    """The images of a set of shards, see `open_shards`."""

    def __init__(self, root: Path, manifest: dict[str, Any], index: NDArray[np.void]) -> None:
        self.root, self._rows = root, torch.from_numpy(np.array(index).view(np.uint8))  # a tensor: workers share it
        self._shards = [root / shard["name"] for shard in manifest["shards"]]
        self.class_names = tuple(manifest["class_names"])
        self.labels = torch.from_numpy(index["label"].astype(np.int64))
        self.notes = [*manifest["notes"], *_changed(root, manifest)]

    @property
    def _index(self) -> NDArray[np.void]:
        return self._rows.numpy().view(ENTRY)

    def path(self, index: int) -> Path:
        """The shard and the member in it."""
        entry = self._index[index]
        shard = self._shards[entry["shard"]]
        try:
            with shard.open("rb") as file:
                file.seek(int(entry["offset"]) - tarfile.BLOCKSIZE)  # where a member's header ends
                member = file.read(100).partition(b"\0")[0].decode()
        except (OSError, UnicodeDecodeError):
            member = ""
        return shard / (member or f"offset-{entry['offset']}")

    def _open(self, index: int) -> Image.Image:
        entry = self._index[index]
        with self._shards[entry["shard"]].open("rb") as file:
            file.seek(int(entry["offset"]))
            data = file.read(int(entry["length"]))
        if len(data) < entry["length"]:
            raise ValueError(f"the shard is truncated: {len(data)} of the image's {entry['length']} bytes are there")
        if entry["crc32"] != NO_CHECKSUM and zlib.crc32(data) != entry["crc32"]:
            raise ValueError("the shard is corrupt: the image's checksum is not that of the index")
        return Image.open(BytesIO(data))


def open_shards(root: str | Path) -> ShardImages:
    """Open a folder of tar shards; index it first if it has no index.

    Parameters
    ----------
    root
        The folder. The index of foreign shards is written there, with a progress bar, unless the folder is read-only:
        then it is made again next time.

    Returns
    -------
    ShardImages
        Images in the order of the shards' names and of the members in them. ``notes`` names shards that are truncated,
        or not those that were indexed.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, no shard in it, or no image in the shards.
    ValueError
        If the index does not belong to the shards, or a shard is not a plain tar file.
    """
    root = existing_folder(root, "shard folder", "tar files")
    found = sorted(path.name for path in root.glob("*.tar"))
    if not (root / MANIFEST).exists():
        if not found:
            raise FileNotFoundError(f"no *.tar in {root}; make shards with scripts/make_shards.py, or unpack .tar.gz")
        return _index_foreign(root, found)
    again = f"delete {INDEX} and {MANIFEST} in {root} to index the shards again"
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"it says format {manifest['format']!r}, not {FORMAT!r}")
        index = np.load(root / INDEX, mmap_mode="r", allow_pickle=False)
        if (
            index.dtype != ENTRY
            or len(index) != manifest["images"]
            or zlib.crc32(index.tobytes()) != manifest["index_crc32"]
        ):
            raise ValueError(f"{INDEX} is not the index that the manifest belongs to")
        unlisted = set(found) - {shard["name"] for shard in manifest["shards"]}
    except (OSError, KeyError, TypeError, ValueError, EOFError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"the manifest or index in {root} cannot be used: {reason}; {again}") from None
    if unlisted:
        raise ValueError(f"{len(unlisted)} shards, {min(unlisted)} among them, are not in the manifest; {again}")
    return ShardImages(root, manifest, index)


def index_shard(path: Path, *, checksums: bool) -> tuple[NDArray[np.void], str]:
    """Index one tar file by its headers.

    Parameters
    ----------
    path
    checksums
        Whether to read the images too, for their checksums.

    Returns
    -------
    entries : ndarray of `ENTRY`
        A row for each image, in their order, with ``shard`` 0; ``label`` is -1 where there is no ``.cls``.
    problem : str
        What ended the file before its end, or "".

    Raises
    ------
    ValueError
        If it is not an uncompressed tar file.
    """
    rows: list[tuple[int, int, int, int, int]] = []
    labels: dict[str, int] = {}
    keys, problem = [], ""
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as raw:
            end = path.stat().st_size
            try:
                for member in tar:
                    folder, _, base = member.name.rpartition("/")
                    stem, _, kind = base.partition(".")  # WebDataset: a key ends at the first dot
                    key = f"{folder}/{stem}"
                    if not member.isfile() or member.offset_data + member.size > end:
                        continue
                    if kind == "cls":
                        raw.seek(member.offset_data)
                        labels[key] = _class_number(raw.read(member.size), path / member.name)
                    elif f".{kind.rpartition('.')[2].lower()}" in FILE_TYPES:
                        raw.seek(member.offset_data)
                        crc32 = zlib.crc32(raw.read(member.size)) if checksums else NO_CHECKSUM
                        rows.append((0, member.offset_data, member.size, -1, crc32))
                        keys.append(key)
            except tarfile.ReadError as error:
                problem = f"{path} is truncated ({error}); {len(rows)} images before that can be read"
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is not a plain tar file ({error}); unpack it if it is compressed") from None
    entries = np.array(rows, dtype=ENTRY)
    entries["label"] = [labels.get(key, -1) for key in keys]
    return entries, problem


def _class_number(text: bytes, place: Path) -> int:
    if not text.strip().isdigit():
        raise ValueError(f"{place} must hold a class as a number, not {text[:20]!r}")
    return int(text)


def write_index(root: Path, entries: NDArray[np.void], manifest: dict[str, Any]) -> None:
    """Write index and manifest, the manifest last: a set without one has not been finished."""
    temporary = root / f".{INDEX}.{os.getpid()}"
    with temporary.open("wb") as file:
        np.save(file, entries)
    whole = {
        "format": FORMAT,
        "images": len(entries),
        "index_crc32": zlib.crc32(entries.tobytes()),
        "notes": [],
        **manifest,
    }
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    replace_atomically(temporary, root / INDEX)
    temporary.write_text(text, encoding="utf-8")
    replace_atomically(temporary, root / MANIFEST)


def replace_atomically(temporary: Path, final: Path) -> None:
    """Give a written file its name once its bytes are on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)


def _index_foreign(root: Path, names: list[str]) -> ShardImages:
    """Index shards from elsewhere by their headers, and keep the index if the folder can be written to."""
    parts, shards, notes = [], [], []
    for i, name in enumerate(tqdm(names, desc=f"indexing {root.name}", unit=" shards", disable=None)):
        entries, problem = index_shard(root / name, checksums=False)
        entries["shard"] = i
        parts.append(entries)
        notes += [problem] if problem else []
        shards.append({"name": name, "images": len(entries), "bytes": (root / name).stat().st_size})
    index = np.concatenate(parts)
    if not len(index):
        raise FileNotFoundError(f"no images in the {len(names)} shards of {root}: members are KEY.jpg, KEY.cls, ...")
    # Classes have no names there; and if one image has none, the set has none.
    if index["label"].min() < 0:
        index["label"] = -1
    classes = [str(label) for label in range(index["label"].max() + 1)]
    manifest = {"class_names": classes, "shards": shards, "notes": notes}
    try:
        write_index(root, index, manifest)
    except OSError as error:
        kept = f"the index of {root} could not be written ({error.strerror}) and is made again next time"
        manifest["notes"] = [*notes, kept]
    return ShardImages(root, manifest, index)


def _changed(root: Path, manifest: dict[str, Any]) -> list[str]:
    """Shards that are missing, or not of the size that was indexed, a line each."""
    lines = []
    for shard in manifest["shards"]:
        path = root / shard["name"]
        if not path.exists():
            lines.append(f"the shard {path} is missing")
        elif path.stat().st_size != shard["bytes"]:
            lines.append(f"the shard {path} has {path.stat().st_size} bytes, not the {shard['bytes']} of the manifest")
    return lines
