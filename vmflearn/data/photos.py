"""A data set that is already there: small patches of ten colour photographs.

Scikit-image and scikit-learn carry a few photographs inside their wheels. Patches of 64 pixels are cut from ten of
them; the class of a patch is its photograph. What tells the photographs apart is texture and colour, and a network
that has learned nothing does well: experiments on this set show mechanisms, and rank methods only where they differ by
much.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PATCH = 64  # pixels a side
TRAIN_SHARE = 0.6  # of the width of each photograph, from the left
GRIDS = {"train": (12, 15), "test": (7, 7)}  # rows and columns of patches in a photograph

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "immunohistochemistry": ("skimage", "data/ihc.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "stereo_motorcycle": ("skimage", "data/motorcycle_left.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}


@dataclass(frozen=True)
class Photos:
    """One split of the patches.

    Attributes
    ----------
    images : Tensor
        (n, 3, 64, 64) uint8, RGB.
    labels : Tensor
        (n,) int64: the photograph each patch is from.
    class_names : tuple of str
        Names of the photographs, in the order of the labels.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def load_photos(split: str = "train") -> Photos:
    """Cut the patches of one split; nothing is downloaded.

    The left 60 % of each photograph give 12 x 15 train patches, the rest 7 x 7 test patches, on evenly spaced grids
    that reach from border to border. Patches of one split overlap their neighbours where a photograph is small; no
    pixel is in both splits.

    Parameters
    ----------
    split
        "train" (1800 patches) or "test" (490 patches).

    Returns
    -------
    Photos
        Patches in the order of the classes, with an equal count of each. The tensors are the caller's own.

    Raises
    ------
    ValueError
        If `split` is neither.
    FileNotFoundError
        If a photograph is missing in the installed scikit-image or scikit-learn.
    """
    if split not in GRIDS:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    images = _cut(split).clone()
    labels = torch.arange(len(PHOTOGRAPHS)).repeat_interleave(len(images) // len(PHOTOGRAPHS))
    return Photos(images, labels, tuple(PHOTOGRAPHS))


@functools.cache
def _cut(split: str) -> Tensor:
    """All patches of a split (n, 3, 64, 64)."""
    n_rows, n_columns = GRIDS[split]
    patches = []
    for photograph in map(load_photograph, PHOTOGRAPHS):
        height, width, _ = photograph.shape
        border = round(TRAIN_SHARE * width)
        left, right = (0, border) if split == "train" else (border, width)
        rows = np.linspace(0, height - PATCH, n_rows).round().astype(int)
        columns = np.linspace(left, right - PATCH, n_columns).round().astype(int)
        patches += [photograph[row : row + PATCH, column : column + PATCH] for row in rows for column in columns]
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).contiguous()


@functools.cache
def load_photograph(name: str) -> NDArray[np.uint8]:
    """A whole photograph, from the package that carries it.

    Parameters
    ----------
    name
        A key of `PHOTOGRAPHS`.

    Returns
    -------
    ndarray
        (height, width, 3) uint8, RGB; not to be written to.

    Raises
    ------
    FileNotFoundError
        If it is missing in the installed scikit-image or scikit-learn.
    """
    from PIL import Image

    # The package is not imported for this: that would take a second.

    package, file = PHOTOGRAPHS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the photograph {name!r} lies in the package {package!r}, which is not installed")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise FileNotFoundError(f"the photograph {name!r} is missing: no file {path}; reinstall {package!r}")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
