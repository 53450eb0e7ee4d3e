"""Features of all images of a source, by every process its share, kept on the disk as they are made.

A cache has a folder for every combination of weights, images, transformation and readout. While features are made it
holds parts of `PART` images, each whole or not there: whoever starts again, with any number of processes, makes the
parts that are missing. At the end they become one array, which is memory-mapped: a million images take no memory but
for what is looked at. Images are known by their names and the pixels of three of them: whoever changes others under the
same names empties the cache. Those that could not be read are tried again, since they may have been mended. Commands
that need the same features at the same time each make them, and get the same.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from vmflearn import distributed
from vmflearn.backbones.creation import evaluation_mode
from vmflearn.data.decoding import ImageSource, UnreadableImage
from vmflearn.data.workers import WorkerLoader
from vmflearn.evaluate.agreement import check_same
from vmflearn.evaluate.images_digest import images_digest
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.readouts import OUTPUT, Readout

PART = 512
"""Images of a part: what a kill can cost each process."""
ABANDONED = 86_400
"""Seconds after which a file that was begun is one that a kill has left."""
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Features:
    """Features of the images that could be read.

    Attributes
    ----------
    values : (n, d) float32 array
        Memory-mapped and not to be written to if they are from a cache.
    rows : (n,) int64 array
        Which images of the source they are of.
    labels : Tensor, (n,) int64
    notes : list of str
        What was left out.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.int64]
    labels: Tensor
    notes: list[str]

    def tensor(self, device: str | torch.device = "cpu") -> Tensor:
        """All values in memory, as a tensor."""
        return torch.from_numpy(np.array(self.values)).to(device)


def extract(
    model: Model,
    source: ImageSource,
    readout: Readout = OUTPUT,
    *,
    cache: Path | None = None,
    batch_size: int = 64,
    precision: str = "float32",
    workers: int = 0,
    device: str | torch.device = "cpu",
    title: str = "features",
) -> Features:
    """Features of all images that can be read.

    Every process of a group makes its share, and gets all of them. With a cache, all processes must see its folder.

    Parameters
    ----------
    model : Model
        Its backbone is on `device`.
    source : ImageSource
    readout : Readout
        What is taken of the network.
    cache : Path, optional
        Where features are kept and looked for; None: in memory alone.
    batch_size : int
        Images at a time.
    precision : {"float32", "bf16"}
        Of the network's arithmetic; features are float32.
    workers : int
        Processes that decode images, for each process; 0: this one does.
    device : str or torch.device
    title : str
        In front of the bar.

    Returns
    -------
    Features

    Raises
    ------
    ValueError
        If no image can be read, features are not finite, or processes are given different things.
    ElsewhereError
        If another process failed.
    """
    about: dict[str, object] = {}
    if cache is not None or distributed.is_distributed():
        about = _about(model, source, readout, precision)
        check_same({**about, "cache": "none" if cache is None else "given"})
    store = _Memory() if cache is None else _Disk(cache, about)
    n_parts = -(-len(source) // PART)
    missing = distributed.on_first(lambda: store.missing(source))
    mine = missing[distributed.rank() :: distributed.world_size()]

    def work() -> None:
        settings = (model, source, readout, batch_size, precision, workers, torch.device(device))
        total = sum(min(PART, len(source) - part * PART) for part in mine)
        quiet = distributed.rank() > 0 or not sys.stderr.isatty()
        with tqdm(total=total, desc=title, unit="image", dynamic_ncols=True, disable=quiet) as bar:
            for part, values in _parts(mine, *settings, bar.update):
                store.put(part, values)

    distributed.all_or_none(work)
    values, rows = store.whole(n_parts)
    lost = len(source) - len(rows)
    notes = list(source.notes)
    if lost:
        first = source.path(int(np.setdiff1d(np.arange(len(source)), rows)[0]))
        if lost == len(source):
            raise ValueError(f"none of the {lost:,} images can be read, {first} the first of them")
        notes.append(f"{lost:,} of {len(source):,} images cannot be read and were left out, {first} the first of them")
    return Features(values, rows, source.labels[torch.from_numpy(np.array(rows))], notes)


def _about(model: Model, source: ImageSource, readout: Readout, precision: str) -> dict[str, object]:
    """All that features depend on."""
    return {
        "weights": model.digest,
        "images": images_digest(source),
        "count": len(source),
        "features": readout.name,
        "size": model.size,
        "resized": model.resized,
        "interpolation": readout.interpolation,
        "mean": list(model.mean),
        "std": list(model.std),
        "precision": precision,
    }


def _parts(
    parts: Sequence[int],
    model: Model,
    source: ImageSource,
    readout: Readout,
    batch_size: int,
    precision: str,
    workers: int,
    device: torch.device,
    advance: Callable[[int], object],
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Number and features (images, d) of each part, NaN where an image cannot be read."""
    if not parts:
        return
    batches = [
        list(range(start, min(start + batch_size, (part + 1) * PART, len(source))))
        for part in parts
        for start in range(part * PART, min((part + 1) * PART, len(source)), batch_size)
    ]
    images = Centred(source, model.size, model.resized, readout.interpolation)
    loader = WorkerLoader(images, workers=workers, batch_sampler=batches)
    dtype = next((p.dtype for p in model.backbone.parameters()), torch.float32)
    mean, std = (torch.tensor(colours, device=device)[:, None, None] for colours in (model.mean, model.std))
    found: list[Tensor] = []
    with evaluation_mode(model.backbone):
        for indices, (pixels, readable) in zip(batches, loader, strict=True):
            inputs = ((pixels.to(device) / 255 - mean) / std).to(dtype)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                features = readout.read(model.backbone, inputs).float()
            found.append(torch.where(readable.to(device)[:, None], features, torch.nan))
            advance(len(indices))
            part = indices[0] // PART
            if indices[-1] + 1 in ((part + 1) * PART, len(source)):
                values = torch.cat(found).cpu()
                _check_finite(values, part, images)
                yield part, values.numpy()
                found = []


def _check_finite(values: Tensor, part: int, images: "Centred") -> None:
    """Refuse what is NaN and not because an image cannot be read."""
    for row in torch.nonzero(~values.isfinite().all(dim=1)).flatten().tolist():
        if bool(images[part * PART + row][1]):
            raise ValueError(
                f"the features of {images.source.path(part * PART + row)} are not finite: the weights are damaged, or "
                "the precision is too low for them"
            )


class Centred(Dataset):
    """Images of a source, resized and cut to the central square.

    Parameters
    ----------
    source : ImageSource
    size : int
        Side of the square.
    resized : int
        The shorter side before it is cut; 8/7 of the size as DINO evaluates (256 for 224).
    interpolation : {"bicubic", "bilinear"}
    """

    def __init__(self, source: ImageSource, size: int, resized: int, interpolation: str = "bicubic"):
        self.source, self.size, self.resized, self.interpolation = source, size, resized, interpolation

    def __getitem__(self, index: int) -> tuple[Tensor, bool]:
        """Pixels (3, size, size) uint8, and whether the image could be read: zeros if not."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        try:
            image = self.source.read(index)
        except UnreadableImage:
            return torch.zeros(3, self.size, self.size, dtype=torch.uint8), False
        image = F.resize(image, [self.resized], interpolation=InterpolationMode(self.interpolation), antialias=True)
        return F.center_crop(image, [self.size, self.size]), True


class _Memory:
    """Parts in memory, exchanged when all are made."""

    def __init__(self) -> None:
        self._parts: dict[int, NDArray[np.float32]] = {}

    def missing(self, source: ImageSource) -> list[int]:
        return list(range(-(-len(source) // PART)))

    def put(self, part: int, values: NDArray[np.float32]) -> None:
        self._parts[part] = values

    def whole(self, n_parts: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        merged: dict[int, NDArray[np.float32]] = {}
        for parts in distributed.gather_objects(self._parts):
            merged |= parts
        values = np.concatenate([merged[part] for part in range(n_parts)])
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        return values if len(rows) == len(values) else values[rows], rows


class _Disk:
    """Parts in a folder of their own."""

    def __init__(self, cache: Path, about: dict[str, object]) -> None:
        text = json.dumps(about, sort_keys=True, indent=2)
        self._folder, self._text = cache / hashlib.sha256(text.encode()).hexdigest()[:32], text

    def _path(self, part: int) -> Path:
        return self._folder / f"part-{part:07d}.npy"

    def _is_whole(self) -> bool:
        return (self._folder / "rows.npy").exists()

    def missing(self, source: ImageSource) -> list[int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._is_whole():
            values, rows = self._load_whole()
            mended = [i for i in np.setdiff1d(np.arange(len(source)), rows).tolist() if _can_be_read(source, i)]
            if not mended:
                return []
            self._divide(values, rows, len(source), mended)
        (self._folder / "about.json").write_text(self._text + "\n", encoding="utf-8")
        for left in self._folder.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another command's, which is done with it
                if time.time() - left.stat().st_mtime > ABANDONED:
                    left.unlink()
        return [part for part in range(-(-len(source) // PART)) if not self._path(part).exists()]

    def _divide(self, values: NDArray[np.float32], rows: NDArray[np.int64], n: int, without: list[int]) -> None:
        """Make parts of the whole array again, but for those of some images."""
        for start in range(0, n, PART):
            stop = min(start + PART, n)
            if not any(start <= image < stop for image in without):
                first, last = np.searchsorted(rows, (start, stop))
                part = np.full((stop - start, values.shape[1]), np.nan, dtype=np.float32)
                part[rows[first:last] - start] = values[first:last]
                self.put(start // PART, part)
        (self._folder / "rows.npy").unlink()

    def put(self, part: int, values: NDArray[np.float32]) -> None:
        _save(self._path(part), values)

    def whole(self, n_parts: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        distributed.on_first(lambda: self._assemble(n_parts))
        return self._load_whole()

    def _load_whole(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        places = [self._folder / name for name in ("features.npy", "rows.npy")]
        try:
            values, rows = (np.load(place, mmap_mode="r") for place in places)
        except (ValueError, EOFError, FileNotFoundError) as error:
            for place in places:
                place.unlink(missing_ok=True)
            raise ValueError(_damaged(self._folder, error)) from None
        return values, rows

    def _assemble(self, n_parts: int) -> None:
        """One array of all parts, and then none of them."""
        paths = [self._path(part) for part in range(n_parts)]
        aside = self._folder / f"features.{os.getpid()}.tmp"
        try:
            if not self._is_whole():
                self._join(paths, aside)
        except FileNotFoundError:
            if not self._is_whole():  # else another command has joined the parts meanwhile
                raise
        finally:
            aside.unlink(missing_ok=True)
        for path in paths:
            path.unlink(missing_ok=True)

    def _join(self, paths: list[Path], aside: Path) -> None:
        kept = [np.isfinite(self._load(path)).all(axis=1) for path in paths]
        rows = np.flatnonzero(np.concatenate(kept))
        width = self._load(paths[0]).shape[1]
        array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float32, shape=(max(len(rows), 1), width))
        start = 0
        for path, keep in zip(paths, kept, strict=True):
            stop = start + int(keep.sum())
            array[start:stop] = self._load(path)[keep]
            start = stop
        array.flush()
        del array
        os.replace(aside, self._folder / "features.npy")
        _save(self._folder / "rows.npy", rows)

    def _load(self, path: Path) -> NDArray[np.float32]:
        try:
            return np.load(path)
        except (ValueError, EOFError) as error:
            path.unlink(missing_ok=True)
            raise ValueError(_damaged(path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is damaged and was taken out ({error}): the same command makes it anew"


def _can_be_read(source: ImageSource, index: int) -> bool:
    try:
        source.pixels(index)
    except UnreadableImage:
        return False
    return True


def _save(path: Path, values: NDArray) -> None:
    """Write an array that is never there in part."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        np.save(file, values)
    os.replace(aside, path)
