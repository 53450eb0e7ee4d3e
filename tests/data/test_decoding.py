import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.photos import PHOTOGRAPHS, load_photograph
from vmflearn.data.sources import open_images
from vmflearn.views.batched import crop_canvases, dino_crops, draw


def test_images_below_the_cap_are_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = open_images(tmp_path)
    for cap in (0, 40, 41):
        got, size = source.pixels(0, cap)
        assert size == (30, 40)
        assert (got == pixels).all()


@pytest.mark.parametrize(("shape", "want"), [((30, 40), (15, 20)), ((40, 30), (20, 15)), ((300, 1), (20, 1))])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_above_the_cap_the_longer_side_becomes_it(tmp_path, suffix, shape, want):
    Image.new("RGB", shape[::-1], (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    got, size = open_images(tmp_path).pixels(0, 20)
    assert size == shape
    assert got.shape == (*want, 3)
    assert np.abs(got.astype(int) - [200, 100, 50]).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "I;16"])
def test_modes_above_the_cap(tmp_path, mode):
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}", **({"quality": 100} if mode == "CMYK" else {}))
    got, _ = open_images(tmp_path).pixels(0, 32)
    want = grey.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(got[:, 2:-2].astype(float) - want[:, 2:-2, None]).max() <= 3


@pytest.mark.parametrize("enlarge", [1, 3])
def test_the_cap_changes_crops_by_less_than_a_level(tmp_path, enlarge):
    """Crops of the book's photographs, decoded at 512 pixels or at their own size, or three times that.

    Mean difference below one level of 256 over all photographs and below two on the worst, every crop above 33 dB.
    """
    crops, seen = dino_crops(224, 96, 1, (0.25, 1.0), (0.05, 0.25)), []
    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(load_photograph(name))
        if max(photograph.size) <= 512 / enlarge:
            continue
        size = (enlarge * photograph.width, enlarge * photograph.height)
        photograph.resize(size, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=92)
        source = open_images(tmp_path)
        drawn = draw(crops, seed=0, epoch=0, indices=range(4), sizes=[size[::-1]] * 4)
        (full, original), (small, _) = source.pixels(0), source.pixels(0, 512)
        assert max(small.shape) == 512
        for spec, draws in zip(crops[1:], drawn[1:], strict=True):
            want, got = (
                crop_canvases(
                    torch.tensor(pixels).expand(4, -1, -1, -1),
                    draws,
                    (torch.tensor(pixels.shape[:2]).double() / torch.tensor(original)).expand(4, 2),
                    spec.size,
                )
                for pixels in (full, small)
            )
            seen.append(255 * float((got - want).abs().mean()))
            assert -10 * ((got - want) ** 2).mean(dim=(1, 2, 3)).max().log10() > 33
    assert len(seen) >= 14
    assert np.mean(seen) < 1
    assert max(seen) < 2


def test_an_image_that_is_not_there(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    source = open_images(tmp_path)
    for index in (-1, 1):
        with pytest.raises(IndexError, match=f"image {index} of 1"):
            source.read(index)
