"""`multi_crop` and `MultiCropTransform` draw from one distribution.

What is compared is read off the pixels of many views, by statistics that do not ask how they were made. A probe is an
image on which one part of the recipe shows: a ramp shows the box, patches of colour the jitter, noise the blur, and a
photograph all together. Rates are tested against DINO's (exact binomial test, of each recipe for itself), everything
else between the two (Kolmogorov-Smirnov). About 70 tests at a level of 1e-4 are made: fewer than one run in 100 would
fail for nothing, were the seeds not fixed. The mutations at the end show what the probes see. The one thing they do
not is the order of the jitter's four operations, which pixels hardly tell: torchvision draws it anew for every image,
and `test_views` counts the 24 orders of the batched recipe.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor
from torchvision.transforms import v2

from vmflearn.data.photos import load_photos
from vmflearn.ssl import CropSpec, dino_crops, multi_crop
from vmflearn.views import crops
from vmflearn.views.per_image import crop_transform
from vmflearn.views.photometric import IMAGENET_MEAN, IMAGENET_STD

LEVEL = 1e-4  # significance of a single test
Samples = dict[str, NDArray]  # name -> a value for each view: bool for what either happened or did not


@dataclass(frozen=True)
class Probe:
    """An image, a crop to make of it n times, how to read the views, and how often what happens in DINO."""

    image: Tensor  # (1, 3, h, w) uint8
    spec: CropSpec
    read: Callable[[NDArray], Samples]  # from levels (n, 3, size, size), 0 to 255
    n: int
    rates: dict[str, float] = field(default_factory=dict)

    def batched(self, spec: CropSpec) -> Samples:
        images, rows = self.image.expand(self.n, -1, -1, -1), torch.arange(self.n)
        return self._read(multi_crop(images, rows, crops=[spec], seed=5, epoch=1)[0])

    def one_by_one(self, pipeline: v2.Compose) -> Samples:
        image = v2.functional.to_pil_image(self.image[0])  # Pillow's way is DINO's, and quicker
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            return self._read(torch.stack([pipeline(image) for _ in range(self.n)]))

    def _read(self, views: Tensor) -> Samples:
        levels = views * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
        return self.read(np.rint(255 * levels.double().numpy()))  # one of the two computes in 8 bits: compare there


def disagreements(probe: Probe, ours: Samples, theirs: Samples) -> dict[str, float]:
    """Names of what differs, with the p-value."""
    found = {}
    for name, here in ours.items():
        there = theirs[name]
        if name in probe.rates:
            p = min(stats.binomtest(int(x.sum()), len(x), probe.rates[name]).pvalue for x in (here, there))
        else:
            p = stats.ks_2samp(here, there, method="asymp").pvalue
        if p < LEVEL:
            found[name] = p
    return found


# The box: red counts the columns of the image and green the rows, so that a view is two straight lines.
HEIGHT, WIDTH, STEP = 80, 125, 2  # levels a pixel
ramp = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)
ramp[0, 0], ramp[0, 1] = STEP * torch.arange(WIDTH), STEP * torch.arange(HEIGHT)[:, None]


def read_box(levels: NDArray) -> Samples:
    size = levels.shape[-1]
    inner = np.arange(3, size - 3)  # at its border a crop's resampling is one-sided
    (per_column, column), (per_row, row) = (
        np.polyfit(inner - (size - 1) / 2, levels[:, channel].mean(axis=axis)[:, inner].T, 1)
        for channel, axis in ((0, 1), (1, 2))
    )
    width, height = size * abs(per_column) / STEP, size * per_row / STEP
    return {
        "area": width * height / (WIDTH * HEIGHT),
        "log aspect": np.log(width / height),
        "horizontal place": column,
        "vertical place": row,
        "flip": per_column < 0,
    }


# The jitter: a dark grey, a light one and a colour, each on four of twelve rows, neither resampled nor blurred, give
# all four factors back. A grey g becomes brightness * (contrast * g + (1 - contrast) * mean luma).
DARK, LIGHT, COLOUR = 60.0, 110.0, np.array([130.0, 80.0, 50.0])
LUMA = np.array([0.299, 0.587, 0.114])
patches = torch.tensor(np.stack([[DARK] * 3, [LIGHT] * 3, COLOUR])).repeat_interleave(4, dim=0)
patches = patches.to(torch.uint8).T[None, :, :, None].expand(1, 3, 12, 12)


def read_jitter(levels: NDArray) -> Samples:
    dark, light, colour = levels[:, 0, 1, 1], levels[:, 0, 5, 1], levels[:, :, 9, 1]
    grey = np.ptp(colour, axis=1) == 0
    slope = (light - dark) / (LIGHT - DARK)  # brightness times contrast
    mean = (DARK + LIGHT + LUMA @ COLOUR) / 3
    brightness = (dark - slope * (DARK - mean)) / mean
    hue = np.arctan2(np.sqrt(3) * (colour[:, 1] - colour[:, 2]), 2 * colour[:, 0] - colour[:, 1] - colour[:, 2])
    saturation = np.ptp(colour, axis=1) / (slope * np.ptp(COLOUR))
    jittered = (dark != DARK) | (light != LIGHT)
    seen = jittered & ~grey
    return {
        "grey": grey,
        "jitter": jittered,
        "brightness": brightness[seen],
        "contrast": (slope / brightness)[seen],
        "saturation": saturation[seen],
        "hue": hue[seen],
        # what the turn of the hue did to the luma before the colour was dropped
        "luma made grey": ((colour[:, 0] - dark) / slope)[grey],
    }


# The blur, on noise that is neither resampled nor jittered, and so bright that solarising darkens all of it.
SIDE, SEEN = 16, 0.5  # a blur of less than SEEN pixels is taken for none
noise = torch.randint(150, 250, (1, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def roughness(levels: NDArray) -> NDArray:
    return abs(np.diff(levels, axis=-1)).mean(axis=(-1, -2, -3))


LEAST_BLURRED = roughness(ndimage.gaussian_filter(noise[0].numpy().astype(float), (0, SEEN, SEEN), mode="mirror"))


def read_texture(levels: NDArray) -> Samples:
    rough = roughness(levels)
    blurred = rough < LEAST_BLURRED
    return {"blur": blurred, "roughness": rough[blurred], "solarize": levels.mean(axis=(1, 2, 3)) < 127}


# The order of box, grey, blur and solarisation, all applied: on noise of all levels, grey and blur leave less to
# solarise, and a blur of what is then enlarged is a wider one.
loud = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ENLARGED = CropSpec(20, (0.05, 0.1), blur=1.0, solarize=1.0, jitter=0.0, grey=1.0)


def read_order(levels: NDArray) -> Samples:
    return {"mean": levels.mean(axis=(1, 2, 3)), "roughness": roughness(levels)}


# Everything at once, on a patch of a photograph: part of a face, orange cloth, a flag.
photograph = load_photos().images[95:96]


def read_photo(levels: NDArray) -> Samples:
    luma = np.tensordot(LUMA, levels, axes=(0, 1)).reshape(len(levels), -1)
    samples = {f"mean of {c}": levels[:, i].mean(axis=(1, 2)) for i, c in enumerate(("red", "green", "blue"))}
    samples |= {f"variance of {c}": levels[:, i].var(axis=(1, 2)) for i, c in enumerate(("red", "green", "blue"))}
    samples |= {f"quantile {q} of luma": np.quantile(luma, q, axis=1) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return samples | {"chroma": np.ptp(levels, axis=1).mean(axis=(1, 2)), "roughness": roughness(levels)}


FIRST, SECOND, LOCAL = dino_crops(32, 20, 1)
KINDS = {"first": FIRST, "second": SECOND, "local": LOCAL}


def box_probe(spec: CropSpec) -> Probe:
    return Probe(
        ramp, replace(spec, size=24, blur=0.0, solarize=0.0, jitter=0.0, grey=0.0), read_box, 600, {"flip": 0.5}
    )


def whole(size: int, **settings: float) -> CropSpec:
    """The whole of an image of this size: of the box, only the flip is random."""
    return CropSpec(size, (1.0, 1.0), **({"blur": 0.0, "solarize": 0.0, "jitter": 0.0, "grey": 0.0} | settings))


def texture_probe(spec: CropSpec, n: int) -> Probe:
    low, high = spec.sigma
    rates = {"blur": spec.blur * (high - SEEN) / (high - low), "solarize": spec.solarize}
    return Probe(noise, whole(SIDE, blur=spec.blur, solarize=spec.solarize), read_texture, n, rates)


PROBES = {
    "box of a global crop": box_probe(FIRST),
    "box of a local crop": box_probe(LOCAL),
    "jitter": Probe(patches, whole(12, jitter=1.0, grey=0.2), read_jitter, 700, {"grey": 0.2, "jitter": 0.8}),
    "texture of the first crop": texture_probe(FIRST, 300),
    "texture of the second crop": texture_probe(SECOND, 400),
    "texture of the local crop": texture_probe(LOCAL, 1000),
    "order": Probe(loud, ENLARGED, read_order, 100),
    **{f"photo, {kind} crop": Probe(photograph, spec, read_photo, 250) for kind, spec in KINDS.items()},
}


@functools.cache
def batched(name: str) -> Samples:
    return PROBES[name].batched(PROBES[name].spec)


@functools.cache
def one_by_one(name: str) -> Samples:
    return PROBES[name].one_by_one(crop_transform(PROBES[name].spec))


@pytest.mark.parametrize("name", PROBES)
def test_both_recipes_draw_from_one_distribution(name):
    assert disagreements(PROBES[name], batched(name), one_by_one(name)) == {}


@pytest.mark.parametrize(
    ("name", "change", "seen"),
    [
        ("box of a global crop", {"scale": (0.2, 1.0)}, "area"),
        ("box of a local crop", {"scale": (0.05, 0.3)}, "area"),
        ("texture of the local crop", {"blur": 0.4}, "blur"),
        ("texture of the second crop", {"blur": 0.9}, "blur"),  # dinov2's slip: 1 - p
        ("texture of the second crop", {"solarize": 0.1}, "solarize"),
        ("texture of the first crop", {"sigma": (0.1, 1.5)}, "roughness"),
        ("jitter", {"grey": 0.1}, "grey"),
        ("photo, first crop", {"blur": 0.5}, "roughness"),
        ("photo, second crop", {"scale": (0.05, 0.4)}, "variance of red"),
        ("photo, local crop", {"jitter": 2.0}, "variance of green"),
        ("jitter", {"saturation": 0.4}, "saturation"),
    ],
)
def test_the_comparison_sees_another_setting(name, change, seen):
    probe = PROBES[name]
    assert seen in disagreements(probe, probe.batched(replace(probe.spec, **change)), one_by_one(name))


@pytest.mark.parametrize(
    ("name", "constant", "value", "seen"),
    [
        ("box of a local crop", "FLIP", 0.4, "flip"),
        ("box of a local crop", "ASPECT", (0.9, 1.1), "log aspect"),
        ("box of a global crop", "TRIES", 1, "area"),
        ("jitter", "JITTER", 0.7, "jitter"),
        ("jitter", "BRIGHTNESS", 0.2, "brightness"),
        ("jitter", "CONTRAST", 0.2, "contrast"),
        ("jitter", "HUE", 0.05, "hue"),
    ],
)
def test_the_comparison_sees_another_constant(monkeypatch, name, constant, value, seen):
    monkeypatch.setattr(crops, constant, value)
    probe = PROBES[name]
    found = disagreements(probe, probe.batched(probe.spec), one_by_one(name))
    assert seen in found


BOX, FLIP, JITTER, GREY, BLUR, SOLARIZE = range(6)  # places in the pipeline


@pytest.mark.parametrize(
    ("name", "places", "seen"),
    [
        ("jitter", (JITTER, GREY), "luma made grey"),
        ("order", (GREY, SOLARIZE), "mean"),
        ("order", (BLUR, SOLARIZE), "mean"),
        ("order", (BOX, BLUR), "roughness"),
    ],
)
def test_the_comparison_sees_another_order(name, places, seen):
    probe = PROBES[name]
    pipeline = crop_transform(probe.spec)
    i, j = places
    steps = pipeline.transforms
    steps[i], steps[j] = steps[j], steps[i]
    assert seen in disagreements(probe, batched(name), probe.one_by_one(pipeline))
