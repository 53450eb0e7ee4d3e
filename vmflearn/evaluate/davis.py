"""DAVIS-2017 as it is published: frames, masks of objects, and lists of sequences.

``JPEGImages/480p/SEQUENCE/00000.jpg``, ... are the frames, ``Annotations/480p/SEQUENCE/00000.png``, ... their masks,
and ``ImageSets/2017/val.txt`` names the sequences of a part, one a line. A mask is a PNG with a palette whose indices
are the numbers of objects, 0 for none; 255 is no object either.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vmflearn.data.scanning import existing_folder
from vmflearn.data.sources import FolderImages

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
"""As DINO's code normalises frames; its first standard deviation is not ImageNet's 0.229."""
SHORT, STEP = 480, 64
"""The shorter side of a frame becomes `SHORT`, the longer one a multiple of `STEP`, rounded down: 480 x 832."""
VOID = 255


@dataclass(frozen=True)
class Sequence:
    """A video: its frames in order, and a mask for each.

    Attributes
    ----------
    name : str
    frames : FolderImages
    masks : list of Path
    size : (int, int)
        Height and width of every frame and mask.
    n_objects : int
        The greatest number in the first mask.
    """

    name: str
    frames: FolderImages
    masks: list[Path]
    size: tuple[int, int]
    n_objects: int

    def __len__(self) -> int:
        return len(self.masks)

    def frame(self, index: int, short: int = SHORT) -> Tensor:
        """A frame as the network sees it, (3, height, width), see `prepare_frame`.

        Raises
        ------
        ValueError
            If it cannot be read, or has another size than the first.
        """
        pixels, size = self.frames.pixels(index)
        _check_size(size, self.size, self.frames.path(index))
        return prepare_frame(pixels, short)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The true mask of a frame, (height, width).

        Raises
        ------
        ValueError
            As `frame`, or if it is no PNG of object numbers, or holds an object that the first mask does not.
        """
        mask = read_mask(self.masks[index])
        _check_size(mask.shape, self.size, self.masks[index])
        if int(mask.max()) > self.n_objects:
            raise ValueError(
                f"{self.masks[index]} holds object {mask.max()}; the first mask shows objects up to {self.n_objects}"
            )
        return mask


def _check_size(found: tuple[int, ...], wanted: tuple[int, int], path: Path) -> None:
    if found != wanted:
        raise ValueError(
            f"{path} is {found[0]} x {found[1]} pixels (height x width), the first frame of the sequence {wanted[0]} x "
            f"{wanted[1]}: all frames and masks of a sequence must have one size"
        )


def sequence_names(root: str | Path, part: str = "val") -> list[str]:
    """Names of the sequences of a part.

    Raises
    ------
    FileNotFoundError
        If the folder or the list is not there.
    ValueError
        If the list names no sequence, or one twice.
    """
    root = existing_folder(root, "data set", "JPEGImages, Annotations and ImageSets of DAVIS-2017")
    listed = root / "ImageSets" / "2017" / f"{part}.txt"
    if not listed.is_file():
        raise FileNotFoundError(f"there is no list of sequences {listed}: give the folder that DAVIS-2017 unpacks to")
    names = [name for line in listed.read_text().splitlines() if (name := line.strip())]
    if not names:
        raise ValueError(f"{listed} names no sequence")
    if len(set(names)) < len(names):
        raise ValueError(f"{listed} names {next(name for name in names if names.count(name) > 1)} twice")
    return names


def open_sequence(root: str | Path, name: str) -> Sequence:
    """Open a sequence; its first frame and mask are read.

    Raises
    ------
    FileNotFoundError
        If frames or masks are not there.
    ValueError
        If fewer than three frames are, the first frame or mask cannot be read, they differ in size, or the mask shows
        no object.
    """
    images, annotations = (Path(root) / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    names = sorted(path.name for path in images.glob("*.jpg"))
    if not names:
        raise FileNotFoundError(f"there are no frames {images}/*.jpg")
    if len(names) < 3:
        raise ValueError(
            f"{images} holds {len(names)} frames; the first and the last are not scored, so it needs three"
        )
    masks = [annotations / Path(frame).with_suffix(".png") for frame in names]
    absent = [path for path in masks if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"there is no mask {absent[0]}: of {len(masks)} frames, {len(absent)} have none")
    frames = FolderImages(images, names)
    _, size = frames.pixels(0)
    first = read_mask(masks[0])
    _check_size(first.shape, size, masks[0])
    if not first.any():
        raise ValueError(f"{masks[0]} shows no object: there is nothing to follow")
    return Sequence(name, frames, masks, size, int(first.max()))


def prepare_frame(pixels: NDArray[np.uint8], short: int = SHORT) -> Tensor:
    """Resize and normalise a frame as the published code does.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8.
    short
        The shorter side of the result, at least 64.

    Returns
    -------
    Tensor
        (3, height, width) float32: the shorter side as asked for, the longer one a multiple of 64 (bilinear, without
        antialiasing, rounded to whole levels).
    """
    if short < STEP:
        raise ValueError(f"the shorter side of frames must be at least {STEP}, got {short}")
    height, width = pixels.shape[:2]
    if height > width:
        size = (int(short * height / width // STEP * STEP), short)
    else:
        size = (short, int(short * width / height // STEP * STEP))
    image = torch.tensor(pixels).movedim(2, 0)[None].float()
    image = F.interpolate(image, size, mode="bilinear").round()[0] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image - mean) / std


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The numbers of objects in a PNG, (height, width); void counts as none.

    Raises
    ------
    ValueError
        If it cannot be read, or its pixels are colours and not numbers.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(f"its pixels are colours ({image.mode}), not the numbers of objects")
            mask = np.array(image, dtype=np.uint8)
    except Exception as error:
        raise ValueError(f"cannot read the mask {path}: {str(error) or type(error).__name__}") from None
    mask[mask == VOID] = 0
    return mask


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write numbers of objects (height, width) as a PNG with the palette of DAVIS, which is that of Pascal VOC."""
    image = Image.fromarray(mask)
    image.putpalette(palette())
    image.save(path)


def palette() -> list[int]:
    """Red, green and blue of 256 objects, one after another.

    The lowest three bits of a number are the highest of its colours, the next three the next ones, and so on: 1 is dark
    red, 2 dark green, 3 dark yellow.
    """
    colours = []
    for number in range(256):
        for colour in range(3):
            bits = [(number >> (3 * place + colour)) & 1 for place in range(3)]
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours
