"""The images of fine-tuning: which ones a step sees, augmented by timm, and the test images as they are."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.distributed_sampler import RepeatAugSampler
from torch import Tensor
from torch.utils.data import Dataset

from vmflearn import distributed
from vmflearn.data.decoding import ImageSource, UnreadableImage
from vmflearn.data.workers import WorkerLoader
from vmflearn.evaluate.finetune import seed_everything
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.recipes import Recipe

Key = tuple[int, int, int]
"""Epoch, place in it, and number of an image."""


class Images(Dataset):
    """Transformed images and their classes; what cannot be read is handed over as its error.

    Parameters
    ----------
    source : ImageSource
    transform : callable
        Of a Pillow image, to a tensor.
    seed : int
        What is drawn for an image depends on it, on the process, and on epoch and place.
    """

    def __init__(self, source: ImageSource, transform: Any, seed: int):
        self.source, self.transform, self.seed, self.rank = source, transform, seed, distributed.rank()

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | UnreadableImage:
        epoch, place, number = key
        try:
            image = Image.fromarray(self.source.pixels(number)[0])
        except UnreadableImage as error:
            return error
        seed_everything(self.seed, epoch, place, self.rank, 1)
        return self.transform(image), int(self.source.labels[number])


def load(images: Images, batches: Any, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (n, 3, size, size) and classes (n,) of lists of keys, prepared by so many processes.

    Raises
    ------
    UnreadableImage
        At the first image that cannot be read.
    """
    loader = WorkerLoader(images, workers=workers, imports=__name__, batch_sampler=batches, collate_fn=_together)
    for found in loader:
        if isinstance(found, UnreadableImage):
            raise found
        yield found


def _together(items: Sequence[Any]) -> Any:
    wrong = next((item for item in items if isinstance(item, UnreadableImage)), None)
    if wrong is not None:
        return wrong
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


def train_transform(model: Model, recipe: Recipe) -> Any:
    """Augmentation of a recipe by timm, for the images that a network takes."""
    transform = create_transform(
        model.size,
        is_training=True,
        auto_augment=recipe.auto_augment or None,
        interpolation="bicubic",
        re_prob=recipe.erase,
        re_mode="pixel",
        mean=model.mean,
        std=model.std,
    )
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):  # those that RandAugment chooses from
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """As timm's; of no bit at all black is left, which the strongest of the recipes asks for and Pillow 13 refuses."""
    return auto_augment.posterize(image, bits, **options) if bits > 0 else Image.new(image.mode, image.size)


def test_transform(model: Model) -> Any:
    """Resize the shorter side and cut the central square."""
    return create_transform(
        model.size, interpolation="bicubic", crop_pct=model.size / model.resized, mean=model.mean, std=model.std
    )


class Order:
    """Which images a process sees in which step, as lists of keys for `load`.

    Parameters
    ----------
    n_images : int
    recipe : Recipe
    seed : int
    at_a_time : int
        The most images that a process has in memory at once; a step's are handed out in equal parts of no more.

    Attributes
    ----------
    steps_per_epoch : int
    parts : int
        In how many parts a step's images come.

    Raises
    ------
    ValueError
        If a step's images cannot be dealt out evenly, or are more than there are.
    """

    def __init__(self, n_images: int, recipe: Recipe, seed: int, at_a_time: int):
        self.n_images, self.recipe, self.seed = n_images, recipe, seed
        processes = distributed.world_size()
        if recipe.batch % processes:
            raise ValueError(f"a batch of {recipe.batch} images cannot be dealt out to {processes} processes")
        self.share = recipe.batch // processes
        unit = 2 if recipe.mixup or recipe.cutmix else 1  # images are mixed in pairs
        sizes = [n for n in range(unit, min(at_a_time, self.share) + 1, unit) if self.share % n == 0]
        if not sizes:
            raise ValueError(
                f"{self.share} images a step on each process, at most {at_a_time} at a time, cannot be dealt out in "
                f"parts of {unit} or a multiple: change batch, or how many at a time"
            )
        self.size, self.parts = sizes[-1], self.share // sizes[-1]
        self.steps_per_epoch = len(self.epoch(0)) // self.share
        if not self.steps_per_epoch:
            raise ValueError(
                f"a batch of {recipe.batch} images is larger than the training set, of which an epoch shows "
                f"{len(self.epoch(0)) * processes}: make it smaller"
            )

    def epoch(self, number: int) -> list[int]:
        """Numbers of this process's images in an epoch."""
        rank, processes, seed = distributed.rank(), distributed.world_size(), (self.seed << 20) + number
        if self.recipe.repeats > 1:
            sampler = RepeatAugSampler(range(self.n_images), processes, rank, num_repeats=self.recipe.repeats)
            sampler.set_epoch(seed)
            return list(sampler)
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(self.n_images, generator=generator)[rank::processes][
            : self.n_images // processes
        ].tolist()

    def steps(self, first: int, last: int) -> "_Steps":
        """Lists of keys of the steps ``first`` to ``last - 1``, `parts` lists a step."""
        return _Steps(self, first, last)


class _Steps:
    def __init__(self, order: Order, first: int, last: int):
        self.order, self.first, self.last = order, first, last

    def __iter__(self) -> Iterator[list[Key]]:
        order, epoch, numbers = self.order, -1, []
        for step in range(self.first, self.last):
            at, inside = divmod(step, order.steps_per_epoch)
            if at != epoch:
                epoch, numbers = at, order.epoch(at)
            for part in range(order.parts):
                start = inside * order.share + part * order.size
                yield [(epoch, place, numbers[place]) for place in range(start, start + order.size)]
