"""Views of a run follow seed, epoch and image, whichever way the images come."""

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.photos import load_photos
from vmflearn.data.sources import open_images
from vmflearn.train.config import DataConfig
from vmflearn.train.input.loader import ArrayLoader, Order, SourceLoader
from vmflearn.views.batched import dino_crops

CPU = torch.device("cpu")
N = 8


@pytest.fixture(scope="module")
def images():
    return load_photos("train").images[:: 1800 // N, :, :24, :24]


@pytest.fixture(scope="module")
def source(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(images):
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(folder / f"{i}.png")
    return open_images(folder)


def views(way, images, source, seed, epoch):
    """Both crops of all images, in the order of the images."""
    order, crops = Order(N, N, seed), dino_crops(8, 8, 0)
    if way == "array":
        loader = ArrayLoader(images, crops, order, CPU)
    else:
        loader = SourceLoader(source, crops, order, CPU, DataConfig(source="folder", cache=way == "cached"))
        assert (loader.cache is not None) == (way == "cached")
    ((found, indices),) = loader(epoch, epoch + 1)  # one step an epoch
    assert sorted(indices.tolist()) == list(range(N))
    return torch.stack(found)[:, indices.argsort()]


@pytest.mark.parametrize("way", ["array", "cached", "decoded"])
def test_another_seed_and_another_epoch_make_other_views(way, images, source):
    one = views(way, images, source, seed=1, epoch=0)
    assert torch.equal(one, views(way, images, source, seed=1, epoch=0))
    for other in (views(way, images, source, seed=2, epoch=0), views(way, images, source, seed=1, epoch=1)):
        assert (one != other).flatten(2).any(dim=2).all()
    assert torch.equal(
        views(way, images, source, seed=3, epoch=2), views("decoded", images, source, seed=3, epoch=2)
    ) or (way == "array")


def test_images_in_memory_and_in_files_show_the_same_places(images, source):
    """They differ by the rounding of bytes alone."""
    one, other = (views(way, images, source, seed=1, epoch=3) for way in ("array", "decoded"))
    assert (one - other).abs().mean() < 0.02
