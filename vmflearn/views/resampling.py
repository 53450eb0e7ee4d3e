"""Cutting boxes out of images and resampling them to one size.

Resampling is linear and acts on rows and columns apart, so that a crop is two matrix products,

    crop = R diag(box rows) image diag(box columns) C^T,

with one pair of matrices (R, C) for each image: a whole batch, every image with a box of its own, is two batched
products on whatever device the images are on. The matrices hold the cubic kernel of Keys (1981) with a = -1/2,
stretched where the box shrinks (antialiasing): what Pillow and torchvision call antialiased bicubic.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vmflearn.devices import send
from vmflearn.views.crops import Draws


def crop_batch(images: Tensor, draws: Draws, size: int, *, bilinear: bool = False) -> Tensor:
    """Cut, resample and flip a crop of every image of a batch.

    Parameters
    ----------
    images
        (batch, 3, height, width), uint8, or floating point in [0, 1].
    draws
        A row for each image; `boxes` and `flip` are used.
    size
        Side of the crops.
    bilinear
        Resample with the linear kernel, 1 - |x|, in place of the cubic one; antialiased as well.

    Returns
    -------
    Tensor
        (batch, 3, size, size) float32 in [0, 1], on the device of the images.

    Raises
    ------
    ValueError
        If `images` is not a batch of colour images, of another type or range, or its length is not that of `draws`.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (batch, 3, height, width), got {tuple(images.shape)}")
    if len(images) != len(draws):
        raise ValueError(f"images and draws must be of one length, got {len(images)} and {len(draws)}")
    return crop_values(as_values(images), draws, size, bilinear=bilinear)


def as_values(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1].

    Parameters
    ----------
    images
        uint8, or floating point, whose range is checked (it waits for the device).

    Raises
    ------
    ValueError
        If they are of another type or range: what lies beyond would turn white or black.
    """
    if images.dtype == torch.uint8:
        return images.float().div_(255)
    if not images.is_floating_point():
        raise ValueError(
            f"images must be uint8, or floating point in [0, 1], got {images.dtype}; images.to(torch.uint8)?"
        )
    low, high = torch.stack(images.aminmax()).tolist() if images.numel() else (0, 0)
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"images of {images.dtype} must lie in [0, 1], got {low:.4g} to {high:.4g}: divide 0 to 255 by 255, "
            "cut off what a resampling left beyond, and give images that are not normalised yet"
        )
    return images.float()


def crop_values(values: Tensor, draws: Draws, size: int, *, bilinear: bool = False) -> Tensor:
    """`crop_batch` of images that are float32 in [0, 1], unchecked."""
    batch, channels, height, width = values.shape
    boxes = send(draws.boxes.float(), values.device)
    rows = resampling_matrix(boxes[:, 0], boxes[:, 2], height, size, bilinear=bilinear)  # (batch, size, height)
    columns = resampling_matrix(boxes[:, 1], boxes[:, 3], width, size, bilinear=bilinear)  # (batch, size, width)
    columns = torch.where(send(draws.flip, values.device)[:, None, None], columns.flip(1), columns)
    values = torch.bmm(values.reshape(batch, channels * height, width), columns.mT)
    rows = rows[:, None].expand(-1, channels, -1, -1)
    return torch.matmul(rows, values.view(batch, channels, height, size)).clamp_(0, 1)


def resampling_matrix(start: Tensor, length: Tensor, n: int, size: int, *, bilinear: bool = False) -> Tensor:
    """Matrices that resample intervals of n pixels to `size` pixels.

    Parameters
    ----------
    start, length
        (batch,) float32: start and length of each interval in pixels, inside [0, n]; whole numbers or not.
    n
        Number of pixels of the whole row.
    size
        Number of pixels to make.
    bilinear
        The linear kernel in place of the cubic one.

    Returns
    -------
    Tensor
        (batch, size, n); every row sums to one and is zero outside the pixels that its interval touches.
    """
    step = (length / size)[:, None]  # old pixels a new pixel
    position = torch.arange(size, device=start.device, dtype=start.dtype)
    pixels = torch.arange(n, device=start.device, dtype=start.dtype)
    centres = start[:, None] + (position + 0.5) * step  # (batch, size)
    stretch = 1 / step.clamp(min=1)  # the kernel widens when shrinking, never narrows
    x = ((pixels + 0.5 - centres[..., None]) * stretch[..., None]).abs_()  # (batch, size, n)
    inside = (pixels + 1 > start[:, None]) & (pixels < (start + length)[:, None])  # wholly or in part
    weights = ((1 - x).clamp_(min=0) if bilinear else _cubic(x)).mul_(inside[:, None])
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _cubic(x: Tensor) -> Tensor:
    """Cubic kernel of Keys with a = -1/2, for x >= 0: 1.5x^3 - 2.5x^2 + 1 up to 1, -.5x^3 + 2.5x^2 - 4x + 2 up to 2."""
    x = x.clamp(max=2)  # where the outer branch is zero
    inner = (1.5 * x - 2.5).mul_(x).mul_(x).add_(1)
    outer = (2.5 - 0.5 * x).mul_(x).sub_(4).mul_(x).add_(2)
    return torch.where(x < 1, inner, outer)


def crop_canvases(canvases: Tensor, draws: Draws, scale: Tensor, size: int, *, bilinear: bool = False) -> Tensor:
    """Cut, resample and flip a crop of every image of a batch of canvases: images of different sizes, padded.

    On the CPU each box goes through torchvision's kernel for bytes, whose result is rounded to 256 levels. On a GPU the
    boxes are brought to one window size and resampled by two batched products (see `resampling_matrix`), in half
    precision, which holds 256 levels exactly, and is off by less than that rounding.

    Parameters
    ----------
    canvases
        (batch, height, width, 3) uint8: each image in the upper left corner of its canvas.
    draws
        A row for each image; `boxes`, in pixels of the original images, and `flip` are used.
    scale
        (batch, 2) float64: height and width of the image on the canvas over those of the original. 1 where it was
        decoded at its own size; below, boxes fall between pixels of the canvas, to 1/256 of a pixel.
    size
        Side of the crops.
    bilinear
        Resample with the linear kernel in place of the cubic one.

    Returns
    -------
    Tensor
        (batch, 3, size, size) float32 in [0, 1], on the device of the canvases.

    Raises
    ------
    ValueError
        If `canvases` is not a batch of colour images of uint8, or its length is not that of `draws`.
    """
    if canvases.ndim != 4 or canvases.shape[3] != 3 or canvases.dtype != torch.uint8:
        raise ValueError(
            f"canvases must be uint8 (batch, height, width, 3), got {canvases.dtype} {tuple(canvases.shape)}"
        )
    if len(canvases) != len(draws):
        raise ValueError(f"canvases and draws must be of one length, got {len(canvases)} and {len(draws)}")
    start = _on_canvas(draws.boxes[:, :2], scale)
    end = _on_canvas(draws.boxes[:, :2] + draws.boxes[:, 2:], scale)
    if canvases.device.type == "cuda":
        return _crop_windows(canvases, start, end, draws.flip, size, torch.float16, bilinear)
    boxes = torch.cat([start, end], dim=1).tolist()
    crops = [_crop_bytes(canvas, box, size, bilinear) for canvas, box in zip(canvases, boxes, strict=True)]
    flipped = [crop.flip(-1) if flip else crop for crop, flip in zip(crops, draws.flip.tolist(), strict=True)]
    return torch.stack(flipped).float().div_(255)


def _on_canvas(pixels: Tensor, scale: Tensor) -> Tensor:
    """Positions (batch, 2) of the original on the canvas.

    In steps that are exact in float32, so that a box that ends with the image does not reach into the padding.
    """
    return (pixels * scale).mul_(256).round_().div_(256)


def _crop_bytes(canvas: Tensor, box: list[float], size: int, bilinear: bool) -> Tensor:
    """One crop (3, size, size) uint8 of a canvas (height, width, 3). No pixel counts beyond those the box touches."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    top, left, bottom, right = *map(math.floor, box[:2]), *map(math.ceil, box[2:])
    window = canvas[top:bottom, left:right]
    if box == [top, left, bottom, right]:
        mode = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
        return functional.resize(window.permute(2, 0, 1), [size, size], mode, antialias=True)
    inner = (box[1] - left, box[0] - top, box[3] - left, box[2] - top)  # between pixels: Pillow takes such a box
    kernel = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    crop = Image.fromarray(window.numpy()).resize((size, size), kernel, box=inner)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1)


def _crop_windows(
    canvases: Tensor, start: Tensor, end: Tensor, flip: Tensor, size: int, dtype: torch.dtype, bilinear: bool = False
) -> Tensor:
    """Crops (batch, 3, size, size) by matrices, of windows as large as the largest box.

    Nothing here waits for the device: the windows' size is known from the boxes, which are on the CPU.
    """
    batch, height, width, _ = canvases.shape
    low = start.floor()
    n_rows, n_columns = (int(n) for n in (end.ceil() - low).amax(dim=0))
    low = torch.minimum(low, torch.tensor([height - n_rows, width - n_columns], dtype=low.dtype))
    offset, length = (send(x.float(), canvases.device) for x in (start - low, end - start))
    first = send(low[:, 0] * width + low[:, 1], canvases.device).long()
    first += torch.arange(batch, device=canvases.device) * (height * width)
    down = torch.arange(n_rows, device=canvases.device) * width
    along = torch.arange(n_columns, device=canvases.device)
    places = first[:, None, None] + down[:, None] + along  # (batch, n_rows, n_columns)
    windows = canvases.reshape(-1, 3)[places].permute(0, 3, 1, 2).to(dtype)
    rows = resampling_matrix(offset[:, 0], length[:, 0], n_rows, size, bilinear=bilinear).to(dtype)
    columns = resampling_matrix(offset[:, 1], length[:, 1], n_columns, size, bilinear=bilinear).to(dtype)
    columns = torch.where(send(flip, canvases.device)[:, None, None], columns.flip(1), columns)
    crops = torch.bmm(windows.reshape(batch, 3 * n_rows, n_columns), columns.mT).view(batch, 3, n_rows, size)
    crops = torch.matmul(rows[:, None].expand(-1, 3, -1, -1), crops)
    return crops.float().div_(255).clamp_(0, 1)
