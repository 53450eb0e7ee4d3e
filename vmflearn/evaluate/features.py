"""Feature vectors of images: those of a backbone, and two that need no network, for comparison."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vmflearn.backbones.creation import evaluation_mode
from vmflearn.views.photometric import normalize

HISTOGRAM_BINS = 8


def extract_features(
    backbone: nn.Module,
    images: Tensor,
    *,
    size: int,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> Tensor:
    """Unit feature vectors of images.

    Images are resized so that the shorter side is `size` (antialiased bicubic), cut to the central square and
    normalised with the mean and standard deviation of ImageNet. The backbone runs in evaluation mode and
    is left as it was found.

    Parameters
    ----------
    backbone
        Maps (batch, 3, size, size) to (batch, d).
    images
        (n, 3, height, width) uint8.
    size
        Side of the images that the backbone sees.
    batch_size
        Images at a time.
    device
        Where to compute; the device of the backbone's parameters if None. The backbone must be there.

    Returns
    -------
    Tensor
        (n, d) float32 on that device; every row has length 1.

    Raises
    ------
    ValueError
        If there are no images, they are not colour images of uint8, or `size` or `batch_size` is not positive.
    """
    _check_images(images)
    if size < 1 or batch_size < 1:
        raise ValueError(f"size and batch_size must be positive, got {size} and {batch_size}")
    first = next(backbone.parameters(), torch.empty(0, device=images.device))
    device, dtype = device or first.device, first.dtype
    with evaluation_mode(backbone):
        features = [backbone(_resize(batch.to(device), size).to(dtype)).float() for batch in images.split(batch_size)]
        return F.normalize(torch.cat(features), dim=1)


def pixel_features(images: Tensor) -> Tensor:
    """The pixels themselves, less their mean over each image: what raw comparison can do.

    Parameters
    ----------
    images
        (n, 3, height, width) uint8.

    Returns
    -------
    Tensor
        (n, 3 height width) float32; every row has mean 0 and length 1 (an image of one constant value stays 0).

    Raises
    ------
    ValueError
        If there are no images, or they are not colour images of uint8.
    """
    _check_images(images)
    pixels = images.flatten(1).float() / 255
    return F.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=1)


def colour_statistics(images: Tensor) -> Tensor:
    """Mean, standard deviation and a histogram of each colour: what can be told without looking at any shape.

    Parameters
    ----------
    images
        (n, 3, height, width) uint8.

    Returns
    -------
    Tensor
        (n, 30) float32, of length 1 in each row: three means and three standard deviations of values in [0, 1], then
        the shares of pixels in eight equal bins for red, for green and for blue.

    Raises
    ------
    ValueError
        If there are no images, or they are not colour images of uint8.
    """
    _check_images(images)
    pixels = images.flatten(2)  # (n, 3, pixels)
    values = pixels.float() / 255
    bins = (pixels // (256 // HISTOGRAM_BINS)).long()
    counts = torch.zeros(len(images), 3, HISTOGRAM_BINS, device=images.device)
    counts.scatter_add_(2, bins, torch.ones_like(values))
    shares = counts / pixels.shape[2]
    statistics = [values.mean(dim=2), values.std(dim=2, correction=0), shares.flatten(1)]
    return F.normalize(torch.cat(statistics, dim=1), dim=1)


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 (n, 3, height, width), got {images.dtype} {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"images must hold at least one image of at least one pixel, got {tuple(images.shape)}")


def _resize(images: Tensor, size: int) -> Tensor:
    """Normalised float32 (batch, 3, size, size): shorter side resized to `size`, then the central square."""
    values = images.float() / 255
    height, width = images.shape[2:]
    if min(height, width) != size:
        scale = size / min(height, width)
        target = [max(size, int(scale * height)), max(size, int(scale * width))]
        values = F.interpolate(values, target, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (values.shape[2] - size) // 2, (values.shape[3] - size) // 2
    return normalize(values[:, :, top : top + size, left : left + size])
