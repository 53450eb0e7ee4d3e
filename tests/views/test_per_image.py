import pickle

import pytest
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData
from torchvision.transforms.v2 import functional as F

from vmflearn.data.photos import load_photos
from vmflearn.data.workers import START_METHOD
from vmflearn.ssl import CropSpec, MultiCropTransform, dino_crops
from vmflearn.views.crops import draw
from vmflearn.views.per_image import crop_transform
from vmflearn.views.photometric import IMAGENET_MEAN, IMAGENET_STD, gaussian_blur, photometric

PHOTOS = load_photos("test").images[::49]  # one patch of each photograph


def levels(view):
    """Normalised values as levels, 0 to 255."""
    return 255 * (view * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None])


def seeded(transform, image, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)


def test_views_have_the_sizes_and_types_of_the_recipe():
    transform = MultiCropTransform(dino_crops(32, 16, 3))
    for image in (PHOTOS[0], F.to_pil_image(PHOTOS[0])):
        views = transform(image)
        assert [tuple(view.shape) for view in views] == [(3, 32, 32)] * 2 + [(3, 16, 16)] * 3
        assert all(type(view) is torch.Tensor and view.dtype == torch.float32 for view in views)


@pytest.mark.parametrize("size", [12, 48])
def test_pil_images_and_tensors_give_the_same_views_to_a_few_levels(size):
    transform = MultiCropTransform([CropSpec(size, (0.2, 1.0), blur=0.5, solarize=0.0, grey=0.3)])
    for seed, image in enumerate(PHOTOS.repeat(3, 1, 1, 1)):
        (of_tensor,) = seeded(transform, image, seed)
        (of_pil,) = seeded(transform, F.to_pil_image(image), seed)
        gap = (levels(of_tensor) - levels(of_pil)).abs()
        assert gap.mean() < 2
        assert gap.quantile(0.99) < 8


def test_without_dice_the_recipe_is_written_out_with_pillow():
    image = F.to_pil_image(PHOTOS[3])
    spec = CropSpec(40, (1.0, 1.0), blur=0.0, solarize=1.0, jitter=0.0, grey=1.0)
    view = levels(seeded(crop_transform(spec), image, 0))
    resized = image.resize((40, 40), Image.Resampling.BICUBIC).convert("L")
    wanted = resized.point(lambda v: v if v < 128 else 255 - v)
    want = F.pil_to_tensor(wanted).expand(3, -1, -1).float()
    assert min((view - want).abs().max(), (view - want.flip(-1)).abs().max()) < 0.01


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 1.5, 2.0])
def test_blur_is_that_of_pillow_to_a_level(sigma):
    inside = (..., slice(8, -8), slice(8, -8))  # Pillow repeats the border, torchvision reflects it
    blurred = 255 * gaussian_blur(PHOTOS / 255, torch.full((len(PHOTOS),), sigma))
    for image, ours in zip(PHOTOS, blurred, strict=True):
        theirs = F.pil_to_tensor(F.to_pil_image(image).filter(ImageFilter.GaussianBlur(sigma))).float()
        assert (ours - theirs)[inside].abs().mean() < 1
        single = CropSpec(64, (1.0, 1.0), blur=1.0, solarize=0.0, sigma=(sigma, sigma), jitter=0.0, grey=0.0)
        view = levels(seeded(crop_transform(single), image, 0))
        assert min((view - ours).abs().max(), (view - ours.flip(-1)).abs().max()) < 0.51  # rounded, perhaps flipped


def test_jitter_in_8_bits_darkens_by_about_a_level():
    spec = CropSpec(64, (1.0, 1.0), blur=0.0, solarize=0.0, grey=0.0)
    draws = draw([spec], seed=0, epoch=0, indices=range(100), sizes=[(64, 64)] * 100)[0]
    ours = levels(photometric(PHOTOS.repeat(10, 1, 1, 1) / 255, draws)).mean(dim=(1, 2, 3))
    operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    gaps = []
    for row in torch.nonzero(draws.jitter)[:, 0].tolist():
        image = F.to_pil_image(PHOTOS[row % len(PHOTOS)])
        for which in draws.order[row].tolist():
            image = operations[which](image, draws.factors[row, which].item())
        gaps.append(ours[row] - F.pil_to_tensor(image).float().mean())
    assert 0.5 < torch.stack(gaps).mean() < 2


def test_crops_smaller_than_the_blur():
    for size in (1, 2, 5):
        view = MultiCropTransform([CropSpec(size, (0.5, 1.0), blur=1.0, solarize=0.5)])(PHOTOS[0])[0]
        assert view.shape == (3, size, size)
        assert view.isfinite().all()


def test_a_loader_with_workers_takes_it():
    transform = MultiCropTransform(dino_crops(16, 8, 1))
    assert len(pickle.loads(pickle.dumps(transform)).pipelines) == 3

    images = FakeData(8, (3, 40, 30), transform=transform)
    loader = DataLoader(images, batch_size=4, num_workers=1, multiprocessing_context=START_METHOD)
    views, labels = next(iter(loader))
    assert [tuple(view.shape) for view in views] == [(4, 3, 16, 16)] * 2 + [(4, 3, 8, 8)]
    assert len(labels) == 4


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 8, 8), r"image must be uint8 \(3, height, width\), got torch.float32 \(3, 8, 8\)"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"got torch.uint8 \(1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \(2, 3, 8, 8\)"),
        (Image.new("L", (8, 8)), r"image must be of mode RGB, got L: use image.convert\('RGB'\)"),
        (Image.new("RGBA", (8, 8)), "got RGBA"),
    ],
)
def test_other_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        MultiCropTransform(dino_crops(16, 8, 1))(image)


def test_no_crops_are_refused():
    with pytest.raises(ValueError, match="at least one crop, got none"):
        MultiCropTransform([])
