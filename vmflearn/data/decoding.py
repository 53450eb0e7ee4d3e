"""What every source of images shares: reading an image by its number, as RGB, at its own size or below a cap.

What real data holds besides clean RGB is dealt with here: grey, 16-bit, palette and transparent images, and images that
do not open, which are named. A source says only where an image lies.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


class UnreadableImage(ValueError):
    """An image that cannot be decoded.

    Parameters
    ----------
    path
        The file, or the place in an archive or data set.
    reason
        What the decoder says.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error travels between the processes of a loader
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"cannot read the image {self.path}: {self.reason}; replace the file or take it out of the data set"


class ImageSource(ABC):
    """Images that can be read in any order.

    Attributes
    ----------
    labels : Tensor
        (n,) int64 class of each image, or -1 throughout if there are no classes.
    class_names : tuple of str
        Names of the classes, in the order of the labels; empty if there are no classes.
    notes : list of str
        What was found wrong when the source was opened, a line each.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    notes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def path(self, index: int) -> Path:
        """Where an image is, for messages: its file, or its place in an archive or data set."""

    @abstractmethod
    def names_digest(self) -> str:
        """SHA-256 of the images' names in their order, 64 hexadecimal digits; no image is opened for it.

        Where the images lie does not count: it is the same for a folder, for a copy of it elsewhere, and for the shards
        that ``scripts/make_shards.py`` makes of it.
        """

    @abstractmethod
    def _open(self, index: int) -> Image.Image:
        """An image, not yet decoded if that can be put off; may raise what it pleases."""

    def read(self, index: int) -> Tensor:
        """Read an image at its own size.

        16-bit greys are scaled to 8 bits, transparent pixels shown on white, and only the first picture of an animation
        is taken. Pixels stay as they are stored: a camera's rotation tag is not followed, as in torchvision's folders.

        Parameters
        ----------
        index
            0 to ``len(self) - 1``.

        Returns
        -------
        Tensor
            (3, height, width) uint8, RGB.

        Raises
        ------
        IndexError
            If there is no such image.
        UnreadableImage
            If it cannot be decoded.
        """
        pixels, _ = self.pixels(index)
        return torch.from_numpy(np.moveaxis(pixels, 2, 0).copy())

    def pixels(self, index: int, max_side: int = 0) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Read an image as rows of pixels, made smaller if a side is longer than a cap.

        Above the cap the longer side becomes ``max_side`` (antialiased Lanczos, the sharpest of the usual filters,
        since a crop will be resampled once more); a JPEG file of more than four times that size is decoded at 1/2, 1/4
        or 1/8 first, no smaller than twice the cap, which takes a fraction of the time. With a cap of 512, DINO's crops
        of photographs differ from those of the originals by less than a level of 256 on average (tests measure it).

        Parameters
        ----------
        index
            0 to ``len(self) - 1``.
        max_side
            Longest side in pixels; 0 for no limit.

        Returns
        -------
        pixels : ndarray
            (height, width, 3) uint8, RGB; not to be written to.
        size : (int, int)
            Height and width of the original.

        Raises
        ------
        IndexError, UnreadableImage
            As `read`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        try:
            with self._open(index) as image:
                size = (image.height, image.width)
                shrink = max_side / max(size)
                if not 0 < shrink < 1:
                    return _rgb(image), size
                height, width = (max(1, round(side * shrink)) for side in size)
                image.draft(None, (2 * width, 2 * height))  # does nothing but to JPEG
                small = Image.fromarray(_rgb(image)).resize((width, height), Image.Resampling.LANCZOS)
                return np.asarray(small), size
        except Exception as error:  # decoders raise what they please: OSError, SyntaxError, struct.error, ...
            raise UnreadableImage(self.path(index), str(error) or type(error).__name__) from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) uint8 of an image of any mode."""
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow's own conversion would cut off at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"grey values from {grey.min()} to {grey.max()} do not fit 16 bits")
        return np.repeat(np.rint(grey / 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point greys have no defined white; convert the image to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
