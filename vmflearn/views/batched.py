"""Views of images for self-distillation: DINO's multi-crop augmentation, a batch at a time.

`multi_crop` turns a batch of images of one size into its crops, on the device of the images, and
`multi_crop_canvases` a batch of images of different sizes, padded to one. The random choices of `draw` depend on
nothing but (seed, epoch, image, crop), and the boxes on the image's original size besides. For a loader of your own,
`vmflearn.ssl.MultiCropTransform` draws from the same distribution, an image at a time.

Kornia's batched augmentations are not used: no faster on the CPU, they cut crops without antialiasing and jitter the
whole batch in one order (``benchmarks/results/views.md``).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vmflearn.views.crops import CropSpec, Draws, dino_crops, draw
from vmflearn.views.photometric import photometric
from vmflearn.views.resampling import as_values, crop_batch, crop_canvases, crop_values

__all__ = [
    "CropSpec",
    "Draws",
    "crop_batch",
    "crop_canvases",
    "dino_crops",
    "draw",
    "multi_crop",
    "multi_crop_canvases",
    "photometric",
]

CPU_PASS = 2**21  # numbers in a photometric pass on a CPU: 8 MiB


def multi_crop(images: Tensor, indices: Tensor, *, crops: Sequence[CropSpec], seed: int, epoch: int) -> list[Tensor]:
    """Make all views of a batch.

    Parameters
    ----------
    images
        (batch, 3, height, width) uint8, or floating point in [0, 1], whose range is checked (it waits for the device).
    indices
        (batch,) positions of the images in the data set, on the CPU if the device is not to be waited for.
    crops
        The crops to make, `dino_crops` for DINO's.
    seed, epoch
        With an image's index they fix its views, whatever the batch is.

    Returns
    -------
    list of Tensor
        A normalised float32 tensor (batch, 3, size, size) for each crop, in the order of `crops`.

    Raises
    ------
    ValueError
        If the shapes do not match, there is nothing to make, or the images are of another type or range.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (batch, 3, height, width), got {tuple(images.shape)}")
    if len(images) == 0 or len(crops) == 0:
        raise ValueError(f"multi_crop needs at least one image and one crop, got {len(images)} and {len(crops)}")
    values = as_values(images)
    sizes = torch.tensor(images.shape[2:]).expand(len(images), 2)
    draws = draw(crops, seed=seed, epoch=epoch, indices=torch.as_tensor(indices).cpu(), sizes=sizes)
    return _views(
        crops, draws, lambda drawn, spec: crop_values(values, drawn, spec.size, bilinear=spec.bilinear), images.device
    )


def multi_crop_canvases(
    canvases: Tensor,
    shapes: Tensor,
    sizes: Tensor,
    indices: Tensor,
    *,
    crops: Sequence[CropSpec],
    seed: int,
    epoch: int,
) -> list[Tensor]:
    """Make all views of a batch of images of different sizes.

    Parameters
    ----------
    canvases
        (batch, height, width, 3) uint8, each image in the upper left corner of its canvas.
    shapes
        (batch, 2) height and width of each image on its canvas, on the CPU like `sizes` and `indices`.
    sizes
        (batch, 2) height and width of each original image, before anything made it smaller: boxes are drawn on it, so
        that a view shows the same part of an image whatever size it was decoded at.
    indices, crops, seed, epoch
        As for `multi_crop`.

    Returns
    -------
    list of Tensor
        A normalised float32 tensor (batch, 3, size, size) for each crop, in the order of `crops`, on the device of the
        canvases.

    Raises
    ------
    ValueError
        If the shapes do not match.
    """
    draws = draw(crops, seed=seed, epoch=epoch, indices=indices, sizes=sizes)
    scale = shapes.double() / sizes
    return _views(
        crops,
        draws,
        lambda drawn, spec: crop_canvases(canvases, drawn, scale, spec.size, bilinear=spec.bilinear),
        canvases.device,
    )


def _views(
    crops: Sequence[CropSpec], draws: Sequence[Draws], cut: Callable[[Draws, CropSpec], Tensor], device: torch.device
) -> list[Tensor]:
    """Cut every crop and change its colours.

    Crops of one size share their photometric pass: fewer calls. On a CPU only as many as stay near its caches.
    """
    views: dict[int, Tensor] = {}
    for size in dict.fromkeys(spec.size for spec in crops):
        which = [i for i, spec in enumerate(crops) if spec.size == size]
        few = max(1, CPU_PASS // (3 * size * size * len(draws[0])))
        share = few if device.type == "cpu" else len(which)
        for group in (which[i : i + share] for i in range(0, len(which), share)):
            cuts = [cut(draws[i], crops[i]) for i in group]
            together = torch.cat(cuts) if len(cuts) > 1 else cuts[0]
            coloured = photometric(together, Draws.cat([draws[i] for i in group]))
            views |= zip(group, coloured.chunk(len(group)), strict=True)
    return [views[i] for i in range(len(crops))]
