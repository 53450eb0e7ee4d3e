"""Images in tar files ("shards", as WebDataset lays them out), read in any order through an index of offsets.

A shard holds, for each image, the members ``KEY.jpg`` (or another image type) and ``KEY.cls`` (its class, in digits),
see `vmflearn.data.tar_index`.
A set of shards is a folder with

    *.tar            the shards
    index.npy        a row for each image: shard, offset and length of the file in it, its class and checksum
    manifest.json    names, counts and checksums of the shards, names of the classes

so that an image is one seek and one read, and an epoch visits a million images in any order, as it would in a folder.
``scripts/make_shards.py`` writes such a set. Tar files from elsewhere are indexed when they are first opened, by
reading their headers; nothing needs to be streamed.
"""

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vmflearn.data.decoding import ImageSource
from vmflearn.data.scanning import Skipped, existing_folder, is_hidden, part_of, printable
from vmflearn.data.tar_index import ENTRY, NO_CHECKSUM, index_tar, inner_archives

INDEX, MANIFEST = "index.npy", "manifest.json"
FORMAT = "vmflearn shards 1"


class ShardImages(ImageSource):
    """The images of a set of shards, see `open_shards`."""

    def __init__(self, root: Path, manifest: dict[str, Any], index: NDArray[np.void]) -> None:
        self.root, self._rows = root, torch.from_numpy(np.array(index).view(np.uint8))  # a tensor: workers share it
        self._shards = [root / shard["name"] for shard in manifest["shards"]]
        self.class_names = tuple(manifest["class_names"])
        self.labels = torch.from_numpy(index["label"].astype(np.int64))
        self._names = manifest.get("names", "")
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

    def names_digest(self) -> str:
        """As the manifest states it; of the places in the shards where it does not, see `ImageSource`."""
        if self._names:
            return self._names
        places = [array.tobytes() for array in (self._index[name] for name in ("shard", "offset", "length"))]
        return hashlib.sha256(b"\0".join([*(shard.name.encode() for shard in self._shards), *places])).hexdigest()

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
        or not those that were indexed, and what was passed over.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, no shard in it, or no image in the shards.
    ValueError
        If the index does not belong to the shards, a shard is not a plain tar file, a key in it has two images or no
        number as its class, or shards of ``train`` and of ``val`` lie beside each other.
    """
    root = existing_folder(root, "shard folder", "tar files")
    found, notes = _find_shards(root)
    if not (root / MANIFEST).exists():
        if not found:
            raise FileNotFoundError(f"no *.tar in {root}; {_way_out(root)}")
        return _index_foreign(root, found, notes)
    again = f"delete {INDEX} and {MANIFEST} in {root} to index the shards again"
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"it says format {manifest['format']!r}, not {FORMAT!r}")
        _check_manifest(manifest)
        index = np.load(root / INDEX, mmap_mode="r", allow_pickle=False)
        if (
            index.dtype != ENTRY
            or len(index) != manifest["images"]
            or zlib.crc32(index.tobytes()) != manifest["index_crc32"]
        ):
            raise ValueError(f"{INDEX} is not the index that the manifest belongs to")
        _check_rows(index, manifest)
        unlisted = set(found) - {shard["name"] for shard in manifest["shards"]}
    except (OSError, KeyError, TypeError, ValueError, EOFError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"the manifest or index in {root} cannot be used: {reason}; {again}") from None
    if unlisted:
        raise ValueError(f"{len(unlisted)} shards, {min(unlisted)} among them, are not in the manifest; {again}")
    return ShardImages(root, manifest, index)


def _find_shards(root: Path) -> tuple[list[str], list[str]]:
    """Names of the tar files in a folder, and a line on those that are not read; ValueError if parts are mixed."""
    names = sorted(path.name for path in root.iterdir() if path.is_file() and not is_hidden(path.name))
    found = [name for name in names if name.endswith(".tar")]
    skipped = Skipped()
    others = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".tar")  # in any letters
    for name in names:
        if name.lower().endswith(others) and not name.endswith(".tar"):
            skipped.add("only files that end in .tar are shards (unpack compressed ones)", name)
    parts: dict[str, dict[str, str]] = {}
    for name in found:
        if part := part_of(name):
            pattern, word = part
            parts.setdefault(re.sub(r"\d+", "#", pattern), {}).setdefault(word, name)
    for examples in parts.values():
        if len(examples) > 1:
            raise ValueError(
                f"{root} holds {' and '.join(sorted(examples.values()))}, shards of different parts of a data set, "
                "whose images would be mixed and taken for one; move each part to a folder of its own"
            )
    return found, skipped.lines()


def _way_out(root: Path) -> str:
    """What to do about a folder without shards."""
    below = sorted({path.parent for path in root.glob("*/*.tar") if not is_hidden(path.name)})
    if below:
        return f"give the folder that holds them: {', '.join(map(str, below[:3]))}" + (", ..." if below[3:] else "")
    return "make shards with scripts/make_shards.py, or unpack .tar.gz"


def _check_manifest(manifest: Any) -> None:
    """ValueError, KeyError or TypeError if a manifest does not say what it must, or names files outside its folder."""
    for name in manifest["class_names"]:
        if not isinstance(name, str):
            raise ValueError(f"a class is called {name!r}, which is no text")
    if not isinstance(manifest["class_names"], list) or not isinstance(manifest["notes"], list):
        raise ValueError("class_names and notes must be lists")
    for shard in manifest["shards"]:
        name = shard["name"]
        if not isinstance(name, str) or name != Path(name).name or "\\" in name or not name.endswith(".tar"):
            raise ValueError(f"{name!r} is not the name of a tar file in this folder")
        if type(shard["bytes"]) is not int:
            raise ValueError(f"{name} has {shard['bytes']!r} bytes, which is no number")


def _check_rows(index: NDArray[np.void], manifest: dict[str, Any]) -> None:
    """ValueError if an index speaks of shards or classes that its manifest does not have."""
    classes, shards = len(manifest["class_names"]), len(manifest["shards"])
    if not len(index):
        raise ValueError("it lists no images")
    for name, count, least in (("shard", shards, 0), ("label", classes, 0 if classes else -1)):
        low, high = int(index[name].min()), int(index[name].max())
        if low < least or high >= count:
            raise ValueError(f"the {name}s of {INDEX} are {low} to {high}, and the manifest has {count}")


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


def _index_foreign(root: Path, names: Sequence[str], notes: Sequence[str]) -> ShardImages:
    """Index shards from elsewhere by their headers, and keep the index if the folder can be written to."""
    parts, shards, problems, skipped, unlabelled = [], [], list(notes), Skipped(), ""
    for i, name in enumerate(tqdm(names, desc=f"indexing {root.name}", unit=" shards", disable=None)):
        found = index_tar(root / name, skipped)
        found.entries["shard"] = i
        parts.append(found.entries)
        problems += [found.problem] if found.problem else []
        unlabelled = unlabelled or (found.unlabelled and f"{name}/{found.unlabelled}")
        shards.append({"name": name, "images": len(found.entries), "bytes": (root / name).stat().st_size})
    index = np.concatenate(parts)
    if not len(index):
        raise FileNotFoundError(_no_images(root, names, skipped.lines()))
    classes, lines = _number_classes(index["label"], unlabelled)
    manifest: dict[str, Any] = {
        "class_names": classes,
        "shards": shards,
        "notes": [*problems, *lines, *skipped.lines()],
    }
    try:
        write_index(root, index, manifest)
    except OSError as error:
        kept = f"the index of {root} could not be written ({error.strerror}) and is made again next time"
        manifest["notes"] = [*manifest["notes"], kept]
    return ShardImages(root, manifest, index)


def _number_classes(labels: NDArray[np.int64], unlabelled: str) -> tuple[list[str], list[str]]:
    """Number the classes that occur from 0, in place; returns their names, which are their numbers, and lines on it.

    If one image has no class, the set has none.
    """
    without = int((labels < 0).sum())
    if without:
        some = without < len(labels)
        labels[:] = -1
        line = f"{without:,} of {len(labels):,} images, {printable(unlabelled)} among them, have no KEY.cls"
        return [], [f"no image has a class, because {line}"] if some else []
    numbers, places = np.unique(labels, return_inverse=True)
    labels[:] = places
    last = int(numbers[-1])
    if last + 1 == len(numbers):
        return [str(number) for number in numbers], []
    return [str(number) for number in numbers], [
        f"class numbers go up to {last:,} with gaps; the {len(numbers):,} that occur are the classes, in their order"
    ]


def _no_images(root: Path, names: Sequence[str], notes: Sequence[str]) -> str:
    """What to do about shards without images."""
    archives = inner_archives(root / names[0])
    if archives:
        what = (
            f"{names[0]} holds archives, {archives[0]} among them; unpack each into a folder of its class and use "
            "data.source=folder (scripts/prepare_imagenet.py makes folders or shards of ImageNet as downloaded)"
        )
    else:
        what = "members are KEY.jpg, KEY.cls, ..."
    return f"no images in the {len(names)} shards of {root}: {what}" + "".join(f"; {note}" for note in notes)


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
