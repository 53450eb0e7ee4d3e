"""What the workers of a loader do: decode images, no larger than a cap, and lay a batch of them on canvases.

A canvas is as large as the largest image of its batch; each image lies in its upper left corner. Crops are made of
them on the training device (`vmflearn.views.batched.multi_crop_canvases`).
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vmflearn.data.decoding import ImageSource, UnreadableImage
from vmflearn.data.workers import WorkerLoader

MAX_UNREADABLE = 0.01
"""Share of images that may be unreadable; beyond it something is wrong with the data, and the run stops."""


class DataError(RuntimeError):
    """Data that cannot be trained on."""


class Canvases(NamedTuple):
    """A batch of images of different sizes."""

    images: Tensor  # (batch, height, width, 3) uint8
    shapes: Tensor  # (batch, 2) int64, height and width of each on its canvas
    sizes: Tensor  # (batch, 2) int64, height and width of each original
    indices: Tensor  # (batch,) int64
    epoch: int
    problems: tuple[tuple[str, str], ...] = ()  # path and reason of every image that could not be read


class Batches(Protocol):
    """What a step's images are: (epoch, indices) for each step, iterated anew by each loader."""

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Epoch and image indices of every batch."""


def decode_batches(
    source: ImageSource, batches: Batches, *, max_side: int, workers: int, pin: bool = False
) -> WorkerLoader:
    """Decode batches, in their order, in worker processes (or in this one, with ``workers=0``).

    Workers live as long as the iteration, over all its epochs. With ``pin`` the canvases lie in pinned memory, which
    a GPU can fetch by itself.

    Returns
    -------
    WorkerLoader of Canvases
    """
    return WorkerLoader(
        _Decoded(source, max_side),
        workers=workers,
        imports="vmflearn.train.input.worker_imports",
        batch_sampler=_Keys(batches),
        pin_memory=pin,
        collate_fn=_same,
    )


class _Keys:
    """Each batch as the list of one (epoch, indices), made as it is asked for: a long run has millions."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, np.ndarray]]]:
        return ([key] for key in self.batches)


class _Decoded(Dataset):
    """Decode a batch. An unreadable image gives way to the next one that can be read."""

    def __init__(self, source: ImageSource, max_side: int):
        self.source, self.max_side = source, max_side

    def __getitems__(self, keys: list[tuple[int, np.ndarray]]) -> Canvases:
        ((epoch, wanted),) = keys
        problems: list[tuple[str, str]] = []
        images, sizes, indices = zip(*(self._read(int(index), problems) for index in wanted), strict=True)
        shapes = torch.tensor([image.shape[:2] for image in images])
        height, width = shapes.amax(dim=0).tolist()
        canvases = np.zeros((len(images), height, width, 3), dtype=np.uint8)
        for canvas, image in zip(canvases, images, strict=True):
            canvas[: image.shape[0], : image.shape[1]] = image
        return Canvases(
            torch.from_numpy(canvases),
            shapes,
            torch.tensor(sizes),
            torch.tensor(indices),
            epoch,
            tuple(problems),
        )

    def _read(self, wanted: int, problems: list[tuple[str, str]]) -> tuple[np.ndarray, tuple[int, int], int]:
        n = len(self.source)
        for index in (np.arange(wanted, wanted + min(n, int(MAX_UNREADABLE * n) + 2)) % n).tolist():
            try:
                return *self.source.pixels(index, self.max_side), index
            except UnreadableImage as error:
                problems.append((str(error.path), error.reason))
        return np.zeros((1, 1, 3), dtype=np.uint8), (1, 1), wanted  # whoever counts the problems stops here


class Unreadable:
    """Count each unreadable image once, name it, and stop beyond one in a hundred.

    Parameters
    ----------
    source : ImageSource
    share : float
        The part of the images that is seen here: one over the number of processes, if each reads its own.

    Attributes
    ----------
    news : list of str
        Lines to be shown; whoever shows them takes them out.
    """

    def __init__(self, source: ImageSource, share: float = 1.0):
        self.n_images, self.limit = len(source), MAX_UNREADABLE * len(source) * share
        self.news = list(source.notes)
        self.found: dict[str, str] = {}

    def count(self, problems: Sequence[tuple[str, str]]) -> None:
        """Take note of what a batch met; DataError if it is too much."""
        for path, reason in problems:
            if path not in self.found:
                self.found[path] = reason
                self.news.append(f"skipped unreadable image {path} ({reason}); {len(self.found)} so far")
        if len(self.found) > self.limit:
            names = ", ".join(list(self.found)[:3])
            raise DataError(
                f"{len(self.found)} of {self.n_images} images cannot be read, more than "
                f"{MAX_UNREADABLE:.0%}: {names}, ...; remove or repair them"
            )


def _same(batch: Any) -> Any:
    return batch  # it is put together already


@contextmanager
def lost_worker() -> Iterator[None]:
    """Within the block, say in one line what it means that a loader's worker is gone: DataError."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        text = str(error)
        if not isinstance(error, RuntimeError):  # of a worker, if it comes from between processes of this program
            files = (Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__))
            if any(file.parent.name == "multiprocessing" for file in files):
                text = f"DataLoader worker is gone ({text or type(error).__name__})"
        if not text.startswith("DataLoader worker"):
            raise
        shared = Path("/dev/shm")
        room = f"{shutil.disk_usage(shared).free / 1e9:.2g} GB are free in {shared}" if shared.is_dir() else "unknown"
        raise DataError(
            f"{text.partition('. ')[0].rstrip('. ')}: it decoded images. Most often memory or shared memory is full "
            f"({room}): lower data.workers or data.max_side, or ask for more memory; the same command continues from "
            "the last checkpoint"
        ) from error
