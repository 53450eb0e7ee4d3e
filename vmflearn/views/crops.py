"""What happens to an image on its way to a view: the recipe (`CropSpec`) and the dice (`Draws`).

The recipe is DINO's multi-crop augmentation: random resized crop, flip, colour jitter, greyscale, blur, solarisation.
All that is random in it is drawn here, once, as a table with a row for each image; `vmflearn.views.resampling` and
`vmflearn.views.photometric` then only carry out what the table says. See `vmflearn.views.keyed_random` for the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vmflearn.views.keyed_random import keyed_uniforms

FLIP, JITTER = 0.5, 0.8  # probabilities, the same for every crop
BRIGHTNESS, CONTRAST, HUE = 0.4, 0.4, 0.1  # half widths of the factors around 1 (hue: around 0)
ASPECT = (3 / 4, 4 / 3)  # width / height of a crop's box
TRIES = 10  # boxes tried before the central one is taken


@dataclass(frozen=True)
class CropSpec:
    """One of the crops made of every image.

    Parameters
    ----------
    size
        Side of the crop after resampling, in pixels.
    scale
        Least and greatest share of the image's area that the crop's box covers, 0 < lo <= hi <= 1.
    blur
        Probability of a Gaussian blur.
    solarize
        Probability of a solarisation.
    sigma
        Least and greatest standard deviation of the blur, in pixels of the crop.
    jitter
        Strength of the colour jitter: the half widths of its four factors are multiplied by it. 1 is DINO's; more
        than 2.5 would let brightness and contrast go below zero.
    grey
        Probability that the colours are dropped.
    saturation
        Half width of the saturation's factor at strength 1; MSN's is 0.4.
    bilinear
        Resample with the linear kernel, as MSN does, in place of the cubic one.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    size: int
    scale: tuple[float, float]
    blur: float
    solarize: float
    sigma: tuple[float, float] = (0.1, 2.0)
    jitter: float = 1.0
    grey: float = 0.2
    saturation: float = 0.2
    bilinear: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares of the area, 0 < lo <= hi <= 1, got {self.scale}")
        if len(self.sigma) != 2 or not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be two rising positive numbers of pixels, got {self.sigma}")
        if not 0 <= self.jitter <= 1 / BRIGHTNESS:
            raise ValueError(f"jitter must be a strength from 0 to {1 / BRIGHTNESS}, got {self.jitter}")
        for name in ("blur", "solarize", "grey", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability, 0 to 1, got {getattr(self, name)}")


def dino_crops(
    global_size: int,
    local_size: int,
    n_local: int,
    global_scale: tuple[float, float] = (0.4, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.4),
    sigma: tuple[float, float] = (0.1, 2.0),
    jitter: float = 1.0,
    grey: float = 0.2,
) -> tuple[CropSpec, ...]:
    """DINO's crops: two global ones, which the teacher sees, then the local ones.

    Parameters
    ----------
    global_size, local_size
        Sides of the crops in pixels: 224 and 96 on ImageNet.
    n_local
        Number of local crops, 0 or more.
    global_scale, local_scale
        Shares of the area, see `CropSpec`.
    sigma
        Range of the blur's standard deviation in pixels. DINO's is for crops of 224 pixels; much smaller crops need
        less, or nothing of their texture is left.
    jitter, grey
        Strength of the colour jitter and probability of greyscale, see `CropSpec`. The defaults are DINO's; where
        colour tells the classes apart, less keeps more of it.

    Returns
    -------
    tuple of CropSpec
        2 + `n_local` crops. Blur has probability 1 on crop 0, 0.1 on crop 1, 0.5 on the local ones; solarisation 0.2
        on crop 1 alone.

    Raises
    ------
    ValueError
        If `n_local` is negative, or another value out of its range.
    """
    if n_local < 0:
        raise ValueError(f"n_local must be 0 or more, got {n_local}")
    first = CropSpec(global_size, global_scale, blur=1.0, solarize=0.0, sigma=sigma, jitter=jitter, grey=grey)
    second = CropSpec(global_size, global_scale, blur=0.1, solarize=0.2, sigma=sigma, jitter=jitter, grey=grey)
    local = CropSpec(local_size, local_scale, blur=0.5, solarize=0.0, sigma=sigma, jitter=jitter, grey=grey)
    return (first, second) + (local,) * n_local


@dataclass(frozen=True)
class Draws:
    """The random choices for one crop of n images, a row for each image.

    Attributes
    ----------
    boxes : Tensor
        (n, 4) int64: top, left, height, width of the box that is cut, in pixels of the image.
    flip : Tensor
        (n,) bool: left and right change places.
    jitter : Tensor
        (n,) bool: whether the colours are jittered.
    factors : Tensor
        (n, 4) float32: brightness, contrast, saturation (1 changes nothing) and hue (turns of the colour circle).
    order : Tensor
        (n, 4) int64: the order in which those four are applied; ``order[i, 0] == 3`` says that hue comes first.
    grey : Tensor
        (n,) bool: whether the colours are dropped.
    blur : Tensor
        (n,) bool: whether the crop is blurred.
    sigma : Tensor
        (n,) float32: the blur's standard deviation in pixels of the crop.
    solarize : Tensor
        (n,) bool: whether values of one half and more are inverted.
    """

    boxes: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    grey: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: int | slice | Tensor) -> Draws:
        """Some rows of the table; an integer gives a single row, with tensors of one dimension less."""
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def cat(draws: Sequence[Draws]) -> Draws:
        """Several tables, one below the other."""
        return Draws(*(torch.cat([getattr(table, field.name) for table in draws]) for field in fields(Draws)))


def draw(crops: Sequence[CropSpec], *, seed: int, epoch: int, indices: ArrayLike, sizes: ArrayLike) -> list[Draws]:
    """Draw all random choices for some images.

    Parameters
    ----------
    crops
        The crops to be made of every image.
    seed, epoch
        Integers; another epoch makes other views.
    indices
        (batch,) positions of the images in the data set: the views of an image depend on this number and not on its
        place in the batch.
    sizes
        (batch, 2) heights and widths of the images. They influence the boxes alone.

    Returns
    -------
    list of Draws
        One for each crop, with a row for each image, on the CPU.

    Raises
    ------
    ValueError
        If the shapes do not match or a size is not positive.
    """
    indices, sizes = np.asarray(indices), np.asarray(sizes)
    if indices.ndim != 1:
        raise ValueError(f"indices must have shape (batch,), got {indices.shape}")
    if sizes.shape != (len(indices), 2):
        raise ValueError(f"sizes must have shape ({len(indices)}, 2), a height and a width an image, got {sizes.shape}")
    if (sizes < 1).any():
        raise ValueError(f"sizes must be positive, got {sizes.min()}")
    return [_draw_one(spec, keyed_uniforms(seed, epoch, indices, i, count=54), sizes) for i, spec in enumerate(crops)]


def _draw_one(spec: CropSpec, u: NDArray[np.float64], sizes: NDArray[np.int64]) -> Draws:
    # Columns of u: 4 for each tried box, then 14 that know nothing of the image's size.
    tries, rest = u[:, : 4 * TRIES], u[:, 4 * TRIES :]
    spread = spec.jitter * np.array([BRIGHTNESS, CONTRAST, spec.saturation, HUE])
    factors = np.array([1.0, 1.0, 1.0, 0.0]) + spread * (2 * rest[:, 2:6] - 1)
    return Draws(
        boxes=torch.from_numpy(_boxes(spec.scale, tries.reshape(-1, TRIES, 4), sizes)),
        flip=torch.from_numpy(rest[:, 0] < FLIP),
        jitter=torch.from_numpy(rest[:, 1] < JITTER),
        factors=torch.from_numpy(factors.astype(np.float32)),
        order=torch.from_numpy(rest[:, 6:10].argsort(axis=1)),  # sorting independent numbers gives a fair permutation
        grey=torch.from_numpy(rest[:, 10] < spec.grey),
        blur=torch.from_numpy(rest[:, 11] < spec.blur),
        sigma=torch.from_numpy((spec.sigma[0] + (spec.sigma[1] - spec.sigma[0]) * rest[:, 12]).astype(np.float32)),
        solarize=torch.from_numpy(rest[:, 13] < spec.solarize),
    )


def _boxes(scale: tuple[float, float], u: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes (n, 4) of a random resized crop: area and log aspect ratio uniform; the first of the tries that fits."""
    height, width = sizes[:, :1], sizes[:, 1:]  # (n, 1), against (n, tries)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(math.log(ASPECT[0]) + math.log(ASPECT[1] / ASPECT[0]) * u[..., 1])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top, left = np.floor(u[..., 2] * (height - h + 1)), np.floor(u[..., 3] * (width - w + 1))
    tried = np.stack([top, left, h, w], axis=-1)[np.arange(len(u)), fits.argmax(axis=1)]
    # No try fits (a very long image, mostly): the largest central box of an allowed shape.
    height, width = sizes[:, 0], sizes[:, 1]
    h = np.minimum(height, np.rint(width / ASPECT[0]))
    w = np.minimum(width, np.rint(height * ASPECT[1]))
    central = np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=-1)
    return np.where(fits.any(axis=1, keepdims=True), tried, central).astype(np.int64)
