"""Images in a folder, with or without class sub-folders, read one by one as RGB.

The folder is searched by timm's reader, so that the order of files and the numbers of classes are those that timm's
own scripts see. What real folders hold besides clean RGB is dealt with here: grey, 16-bit, palette and transparent
images, and files that do not open, which are named.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FILE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


class UnreadableImage(ValueError):
    """An image file that cannot be decoded.

    Parameters
    ----------
    path
        The file.
    reason
        What the decoder says.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error travels between the processes of a loader
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"cannot read the image {self.path}: {self.reason}; replace the file or take it out of the folder"


class ImageSource:
    """The images of a folder, see `open_images`.

    Attributes
    ----------
    root : Path
        The folder.
    labels : Tensor
        (n,) int64 class of each image, or -1 throughout if images lie in the folder itself.
    class_names : tuple of str
        Names of the class sub-folders, in the order of the labels; empty if there are no classes.
    """

    def __init__(self, root: Path) -> None:
        from timm.data.readers import create_reader

        self.root = root
        reader = create_reader("", root=str(root), input_key=";".join(FILE_TYPES))
        self._reader = reader
        names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
        self.class_names: tuple[str, ...] = () if "" in names else tuple(names)
        classes = [label if self.class_names else -1 for _, label in reader.samples]
        self.labels = torch.tensor(classes, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._reader)

    def path(self, index: int) -> Path:
        """Path of an image."""
        return self.root / self._reader.filename(index)

    def read(self, index: int) -> Tensor:
        """Read an image.

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
        UnreadableImage
            If the file cannot be decoded.
        """
        try:
            stream, _ = self._reader[index]
            with stream, Image.open(stream) as image:
                return torch.from_numpy(_rgb(image)).permute(2, 0, 1).contiguous()
        except IndexError:
            raise
        except Exception as error:  # decoders raise what they please: OSError, SyntaxError, struct.error, ...
            raise UnreadableImage(self.path(index), str(error) or type(error).__name__) from error


def open_images(root: str | Path) -> ImageSource:
    """Open a folder of images.

    Sub-folders that hold images are classes, numbered in natural order (class 2 before class 10); of nested ones the
    innermost name counts. If any image lies in the folder itself, no image has a class.

    Parameters
    ----------
    root
        The folder; it is searched through all levels.

    Returns
    -------
    ImageSource
        ``len``, ``read(index)``, ``path(index)``, ``labels``, ``class_names``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image in it.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"the image folder {root} {what}; give a folder that holds images")
    if not any(path.suffix.lower() in FILE_TYPES for path in root.rglob("*")):
        raise FileNotFoundError(
            f"no images in {root}: looked through all its sub-folders for {', '.join(FILE_TYPES)}; "
            "put images there, in one sub-folder for each class if classes are known, or give another folder"
        )
    return ImageSource(root)


def _rgb(image: Image.Image) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of an image of any mode."""
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow's own conversion would cut off at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"grey values from {grey.min()} to {grey.max()} do not fit 16 bits")
        grey = np.rint(grey / 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point greys have no defined white; convert the image to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
