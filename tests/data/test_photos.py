import numpy as np
import pytest
import torch

from vmflearn.data import photos
from vmflearn.data.photos import load_photos


def published(name: str) -> np.ndarray:
    """The photograph as its own package hands it out."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(f"{name}.jpg")
    from skimage import data

    photograph = getattr(data, name)()
    return photograph[0] if isinstance(photograph, tuple) else photograph


@pytest.mark.parametrize(("split", "each"), [("train", 180), ("test", 49)])
def test_shapes_types_and_equal_counts(split, each):
    data = load_photos(split)
    assert data.images.shape == (10 * each, 3, 64, 64)
    assert data.images.dtype == torch.uint8
    assert data.images.is_contiguous()
    assert data.labels.dtype == torch.int64
    assert data.labels.bincount().tolist() == [each] * 10
    assert len(data) == 10 * each
    assert len(data.class_names) == 10


@pytest.mark.parametrize("name", photos.PHOTOGRAPHS)
def test_patches_are_cut_from_the_named_photograph_and_reach_its_borders(name):
    photograph = torch.from_numpy(np.array(published(name))).permute(2, 0, 1)
    border = round(0.6 * photograph.shape[2])
    train, test = load_photos("train"), load_photos("test")
    label = train.class_names.index(name)
    mine = train.images[train.labels == label]
    assert torch.equal(mine[0], photograph[:, :64, :64])
    assert torch.equal(mine[14], photograph[:, :64, border - 64 : border])
    assert torch.equal(mine[-1], photograph[:, -64:, border - 64 : border])
    mine = test.images[test.labels == label]
    assert torch.equal(mine[0], photograph[:, :64, border : border + 64])
    assert torch.equal(mine[-1], photograph[:, -64:, -64:])


def test_no_patch_is_there_twice():
    images = torch.cat([load_photos("train").images, load_photos("test").images]).flatten(1)
    # the black border of the retina and the empty sky of the rocket may repeat within their class
    busy = images[images.float().std(dim=1) > 4]
    assert len(busy) > 0.9 * len(images)
    assert len(busy.unique(dim=0)) == len(busy)


def test_callers_cannot_spoil_each_others_data():
    first = load_photos("test")
    before = first.images.clone()
    first.images.zero_()
    assert torch.equal(load_photos("test").images, before)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        load_photos("val")


def test_a_missing_photograph_is_named(monkeypatch):
    photos.load_photograph.cache_clear()
    monkeypatch.setitem(photos.PHOTOGRAPHS, "china", ("sklearn", "datasets/images/nowhere.jpg"))
    with pytest.raises(FileNotFoundError, match=r"'china' is missing: .*nowhere\.jpg; reinstall 'sklearn'"):
        photos.load_photograph("china")
    monkeypatch.setitem(photos.PHOTOGRAPHS, "china", ("no_such_package", "china.jpg"))
    with pytest.raises(FileNotFoundError, match="'no_such_package', which is not installed"):
        photos.load_photograph("china")
