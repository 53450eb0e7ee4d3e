"""Feeding a run: what a worker does for an image, against DINO's twelve crops made image by image, on one core.

    python benchmarks/input_pipeline.py            # about two minutes
    python benchmarks/input_pipeline.py --workers  # how workers start, on Linux; the rest of the report stays
    python benchmarks/input_pipeline.py --quick    # a few images, to see that it runs; targets are not judged

The images are JPEG files of ImageNet's usual size, 500 x 375 pixels and as near to 110 kB as the quality setting brings
them, made from the photographs inside scikit-image and scikit-learn. Prints tables of times and ratios and writes them,
with machine, versions and command, to input_pipeline.md in benchmarks/results. Trust the ratios over the times.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measure import RESULTS, ROW_HEAD, Peer, Row, compare, duration, environment, markdown_table, one_core, timed
from PIL import Image, ImageFilter
from torch import Tensor
from worker_start import HEAD, N_WORKERS, rows

from vmflearn.data.photos import PHOTOGRAPHS, load_photograph
from vmflearn.data.sources import open_images
from vmflearn.train.input.batches import Canvases, decode_batches
from vmflearn.views.batched import dino_crops, multi_crop_canvases

SIZE, BYTES = (500, 375), 110_000
GLOBAL, LOCAL, N_LOCAL = (224, (0.25, 1.0)), (96, (0.05, 0.25)), 10  # DINO's longer runs, and the paper's
PACKAGES = ["torch", "torchvision", "pillow", "numpy", "timm"]
WORKERS = "\n## How workers start\n"
N_NAMES = 1_280_000  # an ImageNet


def write_files(folder: Path) -> float:
    """A file for each photograph; returns their mean size in bytes."""
    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(load_photograph(name))
        scale = min(photograph.width / SIZE[0], photograph.height / SIZE[1])
        width, height = (side * scale for side in SIZE)
        left, top = (photograph.width - width) / 2, (photograph.height - height) / 2
        box = (left, top, left + width, top + height)
        image = photograph.resize(SIZE, Image.Resampling.LANCZOS, box=box)
        versions = []
        for quality in range(50, 101):
            buffer = BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            versions.append(buffer.getvalue())
        (folder / f"{name}.jpg").write_bytes(min(versions, key=lambda data: abs(len(data) - BYTES)))
    return float(np.mean([path.stat().st_size for path in folder.iterdir()]))


def recipe() -> Callable[[Image.Image], list[Tensor]]:
    """DINO's ``DataAugmentationDINO`` on torchvision and Pillow: twelve crops, one after the other."""
    from torchvision.transforms import v2

    def crop(size: tuple[int, tuple[float, float]], *blur_and_solarise: v2.Transform) -> v2.Transform:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size[0], scale=size[1], interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                *blur_and_solarise,
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    class Blur(torch.nn.Module):
        """DINO's own: Pillow's Gaussian blur, radius uniform in [0.1, 2]."""

        def forward(self, image: Image.Image) -> Image.Image:
            return image.filter(ImageFilter.GaussianBlur(radius=float(torch.empty(1).uniform_(0.1, 2.0))))

    def blur(probability: float) -> v2.Transform:
        return v2.RandomApply([Blur()], p=probability)

    first = crop(GLOBAL, blur(1.0))
    second = crop(GLOBAL, blur(0.1), v2.RandomSolarize(threshold=128, p=0.2))
    local = crop(LOCAL, blur(0.5))
    return lambda image: [first(image), second(image), *(local(image) for _ in range(N_LOCAL))]


def measure(folder: Path, batch: int, rounds: int) -> list[Row]:
    """Seconds of one image, each way."""
    source = open_images(folder)
    wanted = np.arange(batch) % len(source)
    crops = dino_crops(GLOBAL[0], LOCAL[0], N_LOCAL, GLOBAL[1], LOCAL[1])
    twelve = recipe()

    class One:
        def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
            yield 0, wanted

    def worker() -> Canvases:
        return next(iter(decode_batches(source, One(), max_side=512, workers=0)))

    def in_batches() -> list[Tensor]:
        it = worker()
        return multi_crop_canvases(it.images, it.shapes, it.sizes, it.indices, crops=crops, seed=0, epoch=0)

    def opened() -> Iterator[Image.Image]:
        for index in wanted:
            with Image.open(source.path(index)) as image:
                yield image.convert("RGB")

    def one_by_one() -> None:
        for image in opened():
            twelve(image)

    def decoding() -> None:
        for _ in opened():
            pass

    peer = "recipe, image by image"
    rows = compare(
        "a worker: decode, lay on a canvas",
        timed(worker, batch),
        [
            Peer(peer, timed(one_by_one, batch), target=8.0),
            Peer("decoding alone", timed(decoding, batch), is_floor=True),
        ],
        rounds,
    )
    return rows + compare(
        "decode, and twelve crops in batches, all on this core",
        timed(in_batches, batch),
        [Peer(peer, timed(one_by_one, batch), target=1.5)],
        rounds,
    )


def worker_report(folder: Path, argv: list[str], n_images: int) -> str:
    """The section on the start of workers."""
    return (
        f"{WORKERS}\nMeans of {N_WORKERS} workers: seconds of the processor, and memory that a process shares with no "
        f"other. The index has {n_images:,} names, in a list or in tensors. fork copies the training process, "
        "forkserver a small one that has imported PyTorch, spawn starts Python afresh; the library's choice is "
        f"forkserver, with tensors.\n\n{environment('input_pipeline.py', argv, PACKAGES)}\n\n"
        + markdown_table(HEAD, rows(folder, n_images))
    )


def pipeline_report(folder: Path, argv: list[str], size: float, quick: bool) -> str:
    """The rest: what a worker does."""
    batch, rounds = (2, 1) if quick else (40, 7)
    found = measure(folder, batch, rounds)
    if quick:
        found = [replace(row, target=None) for row in found]
    rates = {row.what: row.ours for row in found} | {row.peer: row.theirs for row in found}
    judged = [row.met for row in found if row.met is not None]
    return (
        "# The input pipeline\n\n"
        f"Medians of {rounds} alternating rounds of {batch} images on one core; ratios are medians of the ratios "
        f"within a round. Times are processor time for one image: {SIZE[0]} x {SIZE[1]} pixels, JPEG, "
        f"{size / 1000:.0f} kB on average ({len(PHOTOGRAPHS)} photographs); crops 2 x {GLOBAL[0]} + {N_LOCAL} x "
        f"{LOCAL[0]} pixels.\n\n"
        f"{environment('input_pipeline.py', argv, PACKAGES)}\n\n"
        f"{sum(judged)} of {len(judged)} targets are met.\n\n"
        + markdown_table(ROW_HEAD, [row.cells() for row in found])
        + "\n"
        + markdown_table(
            ["one core", "an image", "images/s"],
            [[what, duration(seconds), f"{1 / seconds:.0f}"] for what, seconds in rates.items()],
        )
    )


def main(argv: list[str]) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", action="store_true", help="measure how workers start, and keep the rest")
    parser.add_argument("--quick", action="store_true", help="few images, one round; targets are not judged")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for input_pipeline.md")
    settings = parser.parse_args(argv)
    report = settings.out / "input_pipeline.md"
    before, mark, section = report.read_text(encoding="utf-8").partition(WORKERS) if report.exists() else ("", "", "")
    with tempfile.TemporaryDirectory() as folder:
        size = write_files(Path(folder))
        if settings.workers:
            mark, section = "", worker_report(Path(folder), argv, 1000 if settings.quick else N_NAMES)
        else:
            with one_core():
                before = pipeline_report(Path(folder), argv, size, settings.quick)
    text = before + mark + section
    print(text)
    settings.out.mkdir(parents=True, exist_ok=True)
    report.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
