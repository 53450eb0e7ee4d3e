"""Cutting boxes out of images and resampling them to one size.

Resampling is linear and acts on rows and columns apart, so that a crop is two matrix products,

    crop = R diag(box rows) image diag(box columns) C^T,

with one pair of matrices (R, C) for each image: a whole batch, every image with a box of its own, is two batched
products on whatever device the images are on. The matrices hold the cubic kernel of Keys (1981) with a = -1/2,
stretched where the box shrinks (antialiasing): what Pillow and torchvision call antialiased bicubic.
"""

import torch
from torch import Tensor

from vmflearn.ssl.crops import Draws


def crop_batch(images: Tensor, draws: Draws, size: int) -> Tensor:
    """Cut, resample and flip a crop of every image of a batch.

    Parameters
    ----------
    images
        (batch, 3, height, width), uint8, or floating point in [0, 1].
    draws
        A row for each image; `boxes` and `flip` are used.
    size
        Side of the crops.

    Returns
    -------
    Tensor
        (batch, 3, size, size) float32 in [0, 1], on the device of the images.

    Raises
    ------
    ValueError
        If `images` is not a batch of colour images or its length is not that of `draws`.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (batch, 3, height, width), got {tuple(images.shape)}")
    if len(images) != len(draws):
        raise ValueError(f"images and draws must be of one length, got {len(images)} and {len(draws)}")
    batch, channels, height, width = images.shape
    values = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
    boxes = draws.boxes.to(images.device, torch.float32)
    rows = resampling_matrix(boxes[:, 0], boxes[:, 2], height, size)  # (batch, size, height)
    columns = resampling_matrix(boxes[:, 1], boxes[:, 3], width, size)  # (batch, size, width)
    columns = torch.where(draws.flip.to(images.device)[:, None, None], columns.flip(1), columns)
    values = torch.bmm(values.reshape(batch, channels * height, width), columns.mT)
    rows = rows[:, None].expand(-1, channels, -1, -1)
    return torch.matmul(rows, values.view(batch, channels, height, size)).clamp_(0, 1)


def resampling_matrix(start: Tensor, length: Tensor, n: int, size: int) -> Tensor:
    """Matrices that resample intervals of n pixels to `size` pixels.

    Parameters
    ----------
    start, length
        (batch,) float32: first pixel and number of pixels of each interval, inside [0, n).
    n
        Number of pixels of the whole row.
    size
        Number of pixels to make.

    Returns
    -------
    Tensor
        (batch, size, n); every row sums to one and is zero outside its interval.
    """
    step = (length / size)[:, None]  # old pixels a new pixel
    position = torch.arange(size, device=start.device, dtype=start.dtype)
    pixels = torch.arange(n, device=start.device, dtype=start.dtype)
    centres = start[:, None] + (position + 0.5) * step  # (batch, size)
    stretch = 1 / step.clamp(min=1)  # the kernel widens when shrinking, never narrows
    x = ((pixels + 0.5 - centres[..., None]) * stretch[..., None]).abs_()  # (batch, size, n)
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
    weights = _cubic(x).mul_(inside[:, None])
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _cubic(x: Tensor) -> Tensor:
    """Cubic kernel of Keys with a = -1/2, for x >= 0: 1.5x^3 - 2.5x^2 + 1 up to 1, -.5x^3 + 2.5x^2 - 4x + 2 up to 2."""
    x = x.clamp(max=2)  # where the outer branch is zero
    inner = (1.5 * x - 2.5).mul_(x).mul_(x).add_(1)
    outer = (2.5 - 0.5 * x).mul_(x).sub_(4).mul_(x).add_(2)
    return torch.where(x < 1, inner, outer)


def crop_image(image: Tensor, draws: Draws, size: int) -> Tensor:
    """Cut, resample and flip a crop of a single image: for images of different sizes, in the workers of a loader.

    Parameters
    ----------
    image
        (3, height, width) uint8.
    draws
        A single row, ``draws[i]``; `boxes` and `flip` are used.
    size
        Side of the crop.

    Returns
    -------
    Tensor
        (3, size, size) uint8: `crop_batch` up to the rounding to 256 levels.

    Raises
    ------
    ValueError
        If `image` is not a colour image of uint8.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image must be uint8 (3, height, width), got {image.dtype} {tuple(image.shape)}")
    box: list[int] = draws.boxes.tolist()
    crop = functional.resized_crop(image, *box, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return crop.flip(-1) if draws.flip else crop
