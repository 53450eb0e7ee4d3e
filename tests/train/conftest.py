"""What runs on the built-in photographs share."""

import pytest

from vmflearn.data.photos import Photos, load_photos
from vmflearn.train import knn_probe
from vmflearn.train.input import loader


@pytest.fixture(scope="module")
def fewer_photos(request):
    """Every so many of the photographs' patches, of all classes, in a module's runs and their kNN: its ``EVERY``."""
    every = request.module.EVERY

    def fewer(split):
        photos = load_photos(split)
        return Photos(photos.images[::every], photos.labels[::every], photos.class_names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "load_photos", fewer)
        patch.setattr(knn_probe, "load_photos", fewer)
        yield
