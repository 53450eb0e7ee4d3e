"""Views of images for self-distillation: DINO's multi-crop augmentation, a batch at a time.

`multi_crop` turns a batch of images of one size into its crops, on the device of the images. Images of different sizes
are cut one by one in the workers of a loader (`draw`, `crop_image`), and their colours changed in batches
(`photometric`) wherever that is fastest: the random choices of `draw` depend on nothing but (seed, epoch, image,
crop), and all but the boxes can be drawn again anywhere without knowing the image's size. For a loader of your own,
`vmflearn.ssl.MultiCropTransform` draws from the same distribution, an image at a time.

Kornia's batched augmentations are not used: no faster on the CPU, they cut crops without antialiasing and jitter the
whole batch in one order (``benchmarks/results/views.md``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vmflearn.ssl.crops import CropSpec, Draws, dino_crops, draw
from vmflearn.ssl.geometry import crop_batch, crop_image
from vmflearn.ssl.photometric import photometric

__all__ = ["CropSpec", "Draws", "crop_batch", "crop_image", "dino_crops", "draw", "multi_crop", "photometric"]


def multi_crop(images: Tensor, indices: Tensor, *, crops: Sequence[CropSpec], seed: int, epoch: int) -> list[Tensor]:
    """Make all views of a batch.

    Parameters
    ----------
    images
        (batch, 3, height, width) uint8, or floating point in [0, 1].
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
        If the shapes do not match, or there is nothing to make.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (batch, 3, height, width), got {tuple(images.shape)}")
    if len(images) == 0 or len(crops) == 0:
        raise ValueError(f"multi_crop needs at least one image and one crop, got {len(images)} and {len(crops)}")
    sizes = torch.tensor(images.shape[2:]).expand(len(images), 2)
    draws = draw(crops, seed=seed, epoch=epoch, indices=torch.as_tensor(indices).cpu(), sizes=sizes)
    views: list[Tensor] = [images] * len(crops)  # each is replaced below
    values = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
    for size in dict.fromkeys(spec.size for spec in crops):  # crops of one size share their photometric pass
        which = [i for i, spec in enumerate(crops) if spec.size == size]
        cut = torch.cat([crop_batch(values, draws[i], size) for i in which])
        coloured = photometric(cut, Draws.cat([draws[i] for i in which]))
        for i, view in zip(which, coloured.split(len(images)), strict=True):
            views[i] = view
    return views
