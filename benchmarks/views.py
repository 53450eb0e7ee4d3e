"""DINO's views made a batch at a time by this library, image by image by torchvision, and by kornia.

    python benchmarks/views.py            # two minutes on one core
    python benchmarks/views.py --quick    # tiny sizes, to see that it runs

Prints tables and writes them, with machine, versions and command, to views.md in benchmarks/results: images a second,
and what a faster way may have left out: the antialiasing of the crop, the order of the jitter and the width of the
blur that each image has for itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import skimage.data
import torch
from measure import RESULTS, Peer, compare, environment, is_installed, markdown_table, one_core, timed
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from vmflearn.ssl import CropSpec, MultiCropTransform, dino_crops, multi_crop
from vmflearn.views import crops
from vmflearn.views.batched import Draws, crop_batch, crop_canvases, draw
from vmflearn.views.photometric import BLUR_RADIUS, IMAGENET_MEAN, IMAGENET_STD

PACKAGES = ["torch", "torchvision", "pillow", "kornia"]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    batch: int
    image: int
    global_size: int
    local_size: int
    n_local: int

    @property
    def crops(self) -> tuple[CropSpec, ...]:
        """DINO's recipe at these sizes."""
        return dino_crops(self.global_size, self.local_size, self.n_local)


FULL = Sizes(rounds=15, batch=64, image=224, global_size=96, local_size=32, n_local=4)
QUICK = Sizes(rounds=1, batch=4, image=48, global_size=24, local_size=12, n_local=1)


def photographs(n: int, size: int) -> Tensor:
    """Squares (n, 3, size, size) uint8 cut out of four photographs at random."""
    rng = np.random.default_rng(0)
    sources = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]
    cut = []
    for i in range(n):
        source = sources[i % len(sources)]
        top, left = (rng.integers(0, side - size + 1) for side in source.shape[:2])
        cut.append(source[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()


class KorniaViews:
    """The same recipe put together from kornia's batched augmentations; ColorJitter is the one with Pillow's formulas.

    ``cropping`` is kornia's: "slice" cuts and resizes image by image, "resample" warps the whole batch at once.
    """

    def __init__(self, specs: Sequence[CropSpec], cropping: str) -> None:
        import kornia.augmentation as K

        half_widths = (crops.BRIGHTNESS, crops.CONTRAST, 0.2, crops.HUE)
        taps = [2 * min(BLUR_RADIUS, spec.size - 1) + 1 for spec in specs]
        self.crop = [
            K.RandomResizedCrop(
                (spec.size, spec.size), spec.scale, crops.ASPECT, "bicubic", align_corners=False, cropping_mode=cropping
            )
            for spec in specs
        ]
        self.jitter = [K.ColorJitter(*half_widths, p=crops.JITTER) for _ in specs]
        self.blur = [K.RandomGaussianBlur((n, n), spec.sigma, p=spec.blur) for n, spec in zip(taps, specs, strict=True)]
        self.pipelines = [
            nn.Sequential(
                crop,
                K.RandomHorizontalFlip(crops.FLIP),
                jitter,
                K.RandomGrayscale(p=spec.grey),
                blur,
                K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=spec.solarize),
                K.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            )
            for spec, crop, jitter, blur in zip(specs, self.crop, self.jitter, self.blur, strict=True)
        ]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """All views of a batch (n, 3, h, w) uint8."""
        values = images.float() / 255
        return [pipeline(values) for pipeline in self.pipelines]


def speed_table(sizes: Sizes) -> str:
    """Images a second of all ways, taking turns."""
    images = photographs(sizes.batch, sizes.image)
    rows, epochs = torch.arange(sizes.batch), count()
    transform, pillow = MultiCropTransform(sizes.crops), [F.to_pil_image(image) for image in images]

    def batched() -> list[Tensor]:
        return multi_crop(images, rows, crops=sizes.crops, seed=0, epoch=next(epochs))

    def stacked(one_by_one: Sequence[Any]) -> list[Tensor]:
        return [torch.stack(crop) for crop in zip(*map(transform, one_by_one), strict=True)]

    ways = {
        "MultiCropTransform, Pillow images": lambda: stacked(pillow),
        "MultiCropTransform, uint8 tensors": lambda: stacked(images),
    }
    if is_installed("kornia"):
        for cropping in ("slice", "resample"):
            kornia_views = KorniaViews(sizes.crops, cropping)
            ways[f"kornia, cropping_mode={cropping!r}"] = lambda way=kornia_views: way(images)
    shapes = [view.shape for view in batched()]
    for name, way in ways.items():
        assert [view.shape for view in way()] == shapes, f"{name} makes views of other shapes"
    peers = [Peer(name, timed(way, per=sizes.batch)) for name, way in ways.items()]
    found = compare("multi_crop", timed(batched, per=sizes.batch), peers, sizes.rounds)
    cells = [["multi_crop", f"{1 / found[0].ours:.0f}", ""]]
    cells += [[row.peer, f"{1 / row.theirs:.0f}", f"{row.ratio:.2f}"] for row in found]
    return markdown_table(["way", "images a second", "multi_crop is faster by"], cells)


def pillow_crop(image: Tensor, box: Sequence[int], size: int) -> Tensor:
    """The truth about crops: levels (3, size, size) of a box (top, left, height, width), resized by Pillow."""
    top, left, height, width = box
    cut = F.to_pil_image(image).crop((left, top, left + width, top + height))
    return F.pil_to_tensor(cut.resize((size, size), Image.Resampling.BICUBIC)).float()


def crop_errors(images: Tensor, made: Tensor, boxes: Tensor) -> list[str]:
    """Mean and greatest difference, in levels, of crops made (n, 3, size, size) from Pillow's of the same boxes."""
    size = made.shape[-1]
    truth = torch.stack([pillow_crop(image, box.tolist(), size) for image, box in zip(images, boxes, strict=True)])
    gaps = (made.clamp(0, 255) - truth).abs()
    return [f"{gaps.mean():.2f}", f"{gaps.max():.0f}"]


def fidelity_table(sizes: Sizes) -> str:
    """What each way does for an image of its own: the crop, the order of the jitter, the blur."""
    images, spec = photographs(sizes.batch, sizes.image), sizes.crops[-1]
    n = len(images)
    table = draw([spec], seed=0, epoch=0, indices=range(n), sizes=[images.shape[2:]] * n)[0]
    upright = Draws(**(vars(table) | {"flip": torch.zeros(n, dtype=torch.bool)}))
    batched = 255 * crop_batch(images, upright, spec.size)
    canvases, as_decoded = images.permute(0, 2, 3, 1).contiguous(), torch.ones(n, 2, dtype=torch.float64)
    single = 255 * crop_canvases(canvases, upright, as_decoded, spec.size)
    orders, sigmas = len(table.order.unique(dim=0)), len(table.sigma.unique())
    rows = [
        ["multi_crop", *crop_errors(images, batched, table.boxes), str(orders), str(sigmas)],
        [
            "torchvision's kernel, uint8 tensors",
            *crop_errors(images, single, table.boxes),
            "one an image",
            "one an image",
        ],
    ]
    if is_installed("kornia"):
        for cropping in ("slice", "resample"):
            way = KorniaViews([CropSpec(spec.size, spec.scale, blur=1.0, solarize=0.0)], cropping)
            made = 255 * way.crop[0](images.float() / 255)
            corners = way.crop[0]._params["src"]
            first, last = corners[:, 0].flip(1), corners[:, 2].flip(1)  # (x, y), both inside the box
            boxes = torch.cat([first, last - first + 1], dim=1).round().long()
            way(images)
            order = way.jitter[0]._params["order"].reshape(-1, 4)
            drawn = [str(len(order.unique(dim=0))), str(len(way.blur[0]._params["sigma"].unique()))]
            rows.append([f"kornia, cropping_mode={cropping!r}", *crop_errors(images, made, boxes), *drawn])
    head = ["way", "crop against Pillow's, mean levels", "greatest", f"orders of jitter, {n} images", "widths of blur"]
    return markdown_table(head, rows)


def main(argv: list[str]) -> None:
    """Measure everything, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for views.md")
    settings = parser.parse_args(argv)
    sizes = QUICK if settings.quick else FULL
    sections = []
    torch.manual_seed(0)
    with one_core():
        for name, table in (("Speed", speed_table), ("Fidelity", fidelity_table)):
            sections.append(f"## {name}\n\n{table(sizes)}")
            print(sections[-1], flush=True)
    absent = "" if is_installed("kornia") else " kornia: not installed."
    head = (
        "# DINO's views, batched, image by image, and by kornia\n\n"
        f"{sizes.batch} photographs of {sizes.image} x {sizes.image} pixels in memory, 2 views of {sizes.global_size} "
        f"and {sizes.n_local} of {sizes.local_size} pixels of each, on the CPU. Times are processor time on one core, "
        f"medians of {sizes.rounds} alternating rounds; ratios are medians of the ratios within a round. Fidelity is "
        "that of one local crop of each photograph; 8-bit levels.\n\n"
        f"{environment('views.py', argv, PACKAGES)}{absent}\n"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "views.md").write_text("\n".join([head, *sections]), encoding="utf-8")
    print(f"written to views.md in {settings.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
