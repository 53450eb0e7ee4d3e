"""The embedded photographs as a source of images like any other, for what reads images one by one."""

import hashlib
from pathlib import Path

from PIL import Image

from vmflearn.data.decoding import ImageSource
from vmflearn.data.photos import load_photos


class PhotoImages(ImageSource):
    """The patches of one split of `load_photos`.

    Parameters
    ----------
    split
        "train" or "test".
    """

    def __init__(self, split: str) -> None:
        photos = load_photos(split)
        self._split, self._images, self.labels = split, photos.images, photos.labels
        self.class_names, self.notes = photos.class_names, []

    def path(self, index: int) -> Path:
        """Split, photograph and number of a patch."""
        return Path("photos", self._split, self.class_names[self.labels[index]], str(index))

    def names_digest(self) -> str:
        """Of the pixels themselves, since other versions of the photographs have the same names."""
        return hashlib.sha256(self._images.numpy().tobytes()).hexdigest()

    def _open(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index].permute(1, 2, 0).numpy())
