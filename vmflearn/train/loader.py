"""From images to the crops of each step, in an order that depends on nothing but the seed.

A loader, called with two steps, yields for each step between them the crops, each (batch, 3, size, size) on the
training device, and the indices (batch,) of the images that they show, on the CPU.

Epoch e visits the images in a permutation drawn from (seed, e). A step takes the next ``batch_size`` of them, and each
process its slice of those, so the images of a step, like the views drawn for them, do not depend on the number of
processes or workers, nor on where a run was resumed.
"""

import signal
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vmflearn import distributed
from vmflearn.data.photos import load_photos
from vmflearn.data.sources import ImageSource, UnreadableImage, open_images
from vmflearn.ssl.views import CropSpec, crop_image, draw, multi_crop, photometric
from vmflearn.train.config import Config, ConfigError

MAX_UNREADABLE = 0.01
"""Share of images that may be unreadable; beyond it something is wrong with the data, and the run stops."""


class DataError(RuntimeError):
    """Data that cannot be trained on."""


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

    def __call__(self, first: int, last: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Crops and image indices of the steps ``first`` to ``last - 1``."""
        for step in range(first, last):
            epoch, wanted = self.order.indices(step)
            indices = torch.from_numpy(wanted)
            images = self.images[indices.to(self.device)]
            yield multi_crop(images, indices, crops=self.crops, seed=self.order.seed, epoch=epoch), indices


class FolderLoader:
    """Crops of image files: workers decode and cut, the device does colour, blur and normalisation in batch."""

    def __init__(
        self, source: ImageSource, crops: Sequence[CropSpec], order: Order, device: torch.device, workers: int
    ):
        self.source, self.crops, self.order, self.device, self.workers = source, crops, order, device, workers
        self.unreadable: dict[str, str] = {}
        self.news: list[str] = []

    def __call__(self, first: int, last: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Crops and image indices of the steps ``first`` to ``last - 1``."""
        loader = DataLoader(
            _CutImages(self.source, self.crops, self.order.seed),
            batch_sampler=_Batches(self.order, first, last),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=ignore_signals,
        )
        for cut, epochs, indices, sizes, problems in loader:
            self._report([line for line in problems if line])
            draws = draw(
                self.crops,
                seed=self.order.seed,
                epoch=int(epochs[0]),
                indices=indices.numpy(),
                sizes=sizes.numpy(),
            )
            crops = [
                photometric(crop.to(self.device, non_blocking=True).float() / 255, drawn)
                for crop, drawn in zip(cut, draws, strict=True)
            ]
            yield crops, indices

    def _report(self, problems: Sequence[str]) -> None:
        """Count each unreadable file once, name it, and stop beyond one in a hundred."""
        for line in "\n".join(problems).splitlines():
            path, _, reason = line.partition("\t")
            if path not in self.unreadable:
                self.unreadable[path] = reason
                self.news.append(f"skipped unreadable image {path} ({reason}); {len(self.unreadable)} so far")
        if len(self.unreadable) > MAX_UNREADABLE * len(self.source) / distributed.world_size():
            names = ", ".join(list(self.unreadable)[:3])
            raise DataError(
                f"{len(self.unreadable)} of {len(self.source)} images cannot be read, more than "
                f"{MAX_UNREADABLE:.0%}: {names}, ...; remove or repair them"
            )


class _Batches:
    """(epoch, image) keys of every step, made as they are asked for: a long run has a billion of them."""

    def __init__(self, order: Order, first: int, last: int):
        self.order, self.first, self.last = order, first, last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.last):
            epoch, indices = self.order.indices(step)
            yield [(epoch, int(index)) for index in indices]


class _CutImages(Dataset):
    """Decode one image and cut its crops. An unreadable image gives way to the next one that can be read."""

    def __init__(self, source: ImageSource, crops: Sequence[CropSpec], seed: int):
        self.source, self.crops, self.seed = source, crops, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[Tensor], int, int, Tensor, str]:
        epoch, wanted = key
        problems = []
        for offset in range(len(self.source)):
            index = (wanted + offset) % len(self.source)
            try:
                image = self.source.read(index)
            except UnreadableImage as error:
                problems.append(f"{error.path}\t{error.reason}")
                if len(problems) > MAX_UNREADABLE * len(self.source) + 1:
                    break
                continue
            return self._cut(image, epoch, index, problems)
        return self._cut(torch.zeros(3, 1, 1, dtype=torch.uint8), epoch, wanted, problems)  # the loader stops on these

    def _cut(
        self, image: Tensor, epoch: int, index: int, problems: Sequence[str]
    ) -> tuple[list[Tensor], int, int, Tensor, str]:
        size = torch.tensor(image.shape[-2:])
        drawn = draw(self.crops, seed=self.seed, epoch=epoch, indices=np.array([index]), sizes=size[None].numpy())
        cut = [crop_image(image, one[0], crop.size) for one, crop in zip(drawn, self.crops, strict=True)]
        return cut, epoch, index, size, "\n".join(problems)


def ignore_signals(worker: int) -> None:
    """Let a loader's worker live on when its whole process group is asked to stop: the trainer saves first."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def make_loader(config: Config, crops: Sequence[CropSpec], device: torch.device) -> ArrayLoader | FolderLoader:
    """The loader that a configuration asks for."""
    if config.data.source == "photos":
        images = load_photos("train").images
        order = Order(len(images), config.optimizer.batch_size, config.seed)
        return ArrayLoader(images, crops, order, device)
    source = open_images(str(config.data.root))
    order = Order(len(source), config.optimizer.batch_size, config.seed)
    return FolderLoader(source, crops, order, device, config.data.workers)
