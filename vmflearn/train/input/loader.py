"""From images to the crops of each step, in an order that depends on nothing but the seed.

A loader, called with two steps, yields for each step between them the crops, each (batch, 3, size, size) on the
training device, and the indices (batch,) of the images that they show, on the CPU.

Epoch e visits the images in a permutation drawn from (seed, e). A step takes the next ``batch_size`` of them, and each
process its slice of those, so the images of a step, like the views drawn for them, do not depend on the number of
processes or workers, nor on where a run was resumed.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vmflearn import distributed
from vmflearn.data.decoding import ImageSource
from vmflearn.data.photos import load_photos
from vmflearn.data.sources import open_source
from vmflearn.devices import send
from vmflearn.train.config import Config, ConfigError, DataConfig, check_parts
from vmflearn.train.input.batches import Canvases, DataError, Unreadable, decode_batches
from vmflearn.train.input.cache import cached, select
from vmflearn.train.input.prefetch import prefetch
from vmflearn.views.batched import CropSpec, multi_crop, multi_crop_canvases

__all__ = ["ArrayLoader", "DataError", "Order", "SourceLoader", "make_loader", "open_training", "open_validation"]


class Order:
    """Which images a step takes.

    Parameters
    ----------
    n_images : int
    batch_size : int
        Over all processes; images left over at the end of an epoch wait for another epoch's permutation.
    seed : int
    """

    def __init__(self, n_images: int, batch_size: int, seed: int):
        processes = distributed.world_size()
        if batch_size > n_images:
            raise ConfigError(
                f"optimizer.batch_size={batch_size} is larger than the data set ({n_images} images); make it smaller"
            )
        if batch_size % processes:
            raise ConfigError(f"optimizer.batch_size={batch_size} is not a multiple of the {processes} processes")
        self.n_images, self.batch_size, self.seed = n_images, batch_size, seed
        self.steps_per_epoch = n_images // batch_size
        self._share = batch_size // processes
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def indices(self, step: int) -> tuple[int, np.ndarray]:
        """Epoch and this process's image indices, (batch_size / processes,), of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._epoch, self._permutation = epoch, generator.permutation(self.n_images)
        first = position * self.batch_size + distributed.rank() * self._share
        return epoch, self._permutation[first : first + self._share]


class ArrayLoader:
    """Crops of images that lie in memory on the training device, all of one size."""

    def __init__(self, images: Tensor, crops: Sequence[CropSpec], order: Order, device: torch.device):
        self.images, self.crops, self.order, self.device = images.to(device), crops, order, device
        self.news: list[str] = []

    def __call__(self, first: int, last: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Crops and image indices of the steps ``first`` to ``last - 1``."""
        return prefetch(_Steps(self.order, first, last), self._make, self.device)

    def _make(self, key: tuple[int, np.ndarray]) -> tuple[list[Tensor], Tensor]:
        epoch, indices = key[0], torch.from_numpy(key[1])
        images = self.images[send(indices, self.device)]
        return multi_crop(images, indices, crops=self.crops, seed=self.order.seed, epoch=epoch), indices


class SourceLoader:
    """Crops of the images of a source: workers decode, the device crops; or all is decoded once, where it fits.

    Attributes
    ----------
    news : list of str
        What was found wrong with the images since the list was last emptied.
    """

    def __init__(
        self, source: ImageSource, crops: Sequence[CropSpec], order: Order, device: torch.device, data: DataConfig
    ):
        self.source, self.crops, self.order, self.device, self.data = source, crops, order, device, data
        everything = Unreadable(source)
        self.cache = cached(
            source, wanted=data.cache, max_side=data.max_side, workers=data.workers, device=device, seen=everything
        )
        self.unreadable = everything if self.cache else Unreadable(source, 1 / distributed.world_size())
        self.news = self.unreadable.news

    def __call__(self, first: int, last: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Crops and image indices of the steps ``first`` to ``last - 1``."""
        steps = _Steps(self.order, first, last)
        if self.cache is not None:
            return prefetch(steps, self._from_cache, self.device)
        loader = decode_batches(
            self.source,
            steps,
            max_side=self.data.max_side,
            workers=self.data.workers,
            pin=self.device.type == "cuda",
        )
        return prefetch(loader, self._make, self.device)

    def _from_cache(self, key: tuple[int, np.ndarray]) -> tuple[list[Tensor], Tensor]:
        assert self.cache is not None
        return self._make(select(self.cache, torch.from_numpy(key[1]), key[0]))

    def _make(self, batch: Canvases) -> tuple[list[Tensor], Tensor]:
        self.unreadable.count(batch.problems)
        views = multi_crop_canvases(
            send(batch.images, self.device),
            batch.shapes,
            batch.sizes,
            batch.indices,
            crops=self.crops,
            seed=self.order.seed,
            epoch=batch.epoch,
        )
        return views, batch.indices


class _Steps:
    """Epoch and image indices of the steps ``first`` to ``last - 1``, made as they are asked for."""

    def __init__(self, order: Order, first: int, last: int):
        self.order, self.first, self.last = order, first, last

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return map(self.order.indices, range(self.first, self.last))


def make_loader(config: Config, crops: Sequence[CropSpec], device: torch.device) -> ArrayLoader | SourceLoader:
    """The loader that a configuration asks for."""
    check_parts(config.optimizer, distributed.world_size())
    if config.data.source == "photos":
        images = load_photos("train").images
        order = Order(len(images), config.optimizer.batch_size, config.seed)
        return ArrayLoader(images, crops, order, device)
    source = open_training(config.data)
    order = Order(len(source), config.optimizer.batch_size, config.seed)
    return SourceLoader(source, crops, order, device, config.data)


def open_training(data: DataConfig) -> ImageSource:
    """The training images of a configuration whose source is not ``photos``."""
    return _open(data, data.root, data.split)


def open_validation(data: DataConfig) -> ImageSource:
    """Its validation images: another folder, or another split of the same data set."""
    return _open(data, data.val_root or data.root, data.val_split or data.split)


def _open(data: DataConfig, root: str | None, split: str) -> ImageSource:
    """Open a source; the first process downloads or indexes, and the others then find what it made."""
    assert data.source != "photos"
    kind = data.source

    def opened(download: bool) -> ImageSource:
        try:
            return open_source(kind, root, name=data.name or "", split=split, download=download)
        except (ValueError, ModuleNotFoundError) as error:
            raise ConfigError(f"data.source={kind}: {error}") from None

    found: list[ImageSource] = []
    distributed.on_first(lambda: found.append(opened(data.download)))
    return distributed.all_or_none(lambda: found[0] if found else opened(download=False))
