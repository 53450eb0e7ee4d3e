"""DINO's multi-crop augmentation of one image at a time, put together from torchvision's transforms.

The recipe is that of `vmflearn.views.batched`, and so is the distribution of its views (a test compares them); the dice
are torch's global random numbers instead of the keyed ones. Values stay in 8 bits until the end, as in DINO, which
makes jittered views one level of 256 darker on average: each of its factors rounds down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms import v2

from vmflearn.views.crops import ASPECT, BRIGHTNESS, CONTRAST, FLIP, HUE, JITTER, CropSpec
from vmflearn.views.photometric import BLUR_RADIUS, IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from PIL.Image import Image


class MultiCropTransform:
    """Make all views of an image: a ``transform`` for any torchvision data set, in the workers of any loader.

    Use it with a loader or a framework of your own, on images of any sizes. Use `vmflearn.ssl.multi_crop` for images
    that lie in one tensor: it makes all views of a batch at once, on the device, on one core of a CPU at twice the
    speed (``benchmarks/results/views.md``), and its views depend on (seed, epoch, image, crop) alone, so that a run
    can be resumed exactly. Here they depend on the state of torch's random numbers in the worker.

    Parameters
    ----------
    crops
        The crops to make, `vmflearn.ssl.dino_crops` for DINO's.

    Raises
    ------
    ValueError
        If there are no crops.

    Notes
    -----
    A PIL image is treated by Pillow, a tensor by torchvision's kernels, which differ by single levels; the blur is a
    true Gaussian on both, where DINO's is Pillow's approximation of it by three box filters of the same variance.

    Examples
    --------
    >>> import torch
    >>> from vmflearn.ssl import MultiCropTransform, dino_crops
    >>> transform = MultiCropTransform(dino_crops(32, 16, n_local=2))
    >>> [tuple(view.shape) for view in transform(torch.zeros(3, 64, 48, dtype=torch.uint8))]
    [(3, 32, 32), (3, 32, 32), (3, 16, 16), (3, 16, 16)]
    """

    def __init__(self, crops: Sequence[CropSpec]) -> None:
        if len(crops) == 0:
            raise ValueError("MultiCropTransform needs at least one crop, got none")
        self.pipelines = [crop_transform(spec) for spec in crops]

    def __call__(self, image: Image | Tensor) -> list[Tensor]:
        """Views of one image.

        Parameters
        ----------
        image
            A PIL image of mode RGB, or a uint8 tensor (3, height, width).

        Returns
        -------
        list of Tensor
            A normalised float32 tensor (3, size, size) for each crop, in the order of `crops`.

        Raises
        ------
        ValueError
            If the image has other channels or another type.
        """
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
                raise ValueError(f"image must be uint8 (3, height, width), got {image.dtype} {tuple(image.shape)}")
        elif image.mode != "RGB":
            raise ValueError(f"image must be of mode RGB, got {image.mode}: use image.convert('RGB')")
        return [pipeline(image) for pipeline in self.pipelines]


def crop_transform(spec: CropSpec) -> v2.Compose:
    """DINO's transformations for one crop, in DINO's order.

    Parameters
    ----------
    spec
        The crop.

    Returns
    -------
    torchvision.transforms.v2.Compose
        From a PIL image of mode RGB or a uint8 tensor (3, height, width) to a float32 tensor (3, size, size),
        normalised with the mean and standard deviation of ImageNet.
    """
    half_widths = [spec.jitter * half_width for half_width in (BRIGHTNESS, CONTRAST, spec.saturation, HUE)]
    kernel = v2.InterpolationMode.BILINEAR if spec.bilinear else v2.InterpolationMode.BICUBIC
    taps = 2 * min(BLUR_RADIUS, spec.size - 1) + 1  # reflection at the border serves no more
    return v2.Compose(
        [
            v2.RandomResizedCrop(spec.size, spec.scale, ASPECT, kernel, antialias=True),
            v2.RandomHorizontalFlip(FLIP),
            v2.RandomApply([v2.ColorJitter(*half_widths)], JITTER),
            v2.RandomGrayscale(spec.grey),
            v2.RandomApply([v2.GaussianBlur(taps, spec.sigma)], spec.blur),
            v2.RandomSolarize(128, spec.solarize),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            v2.ToPureTensor(),
        ]
    )
