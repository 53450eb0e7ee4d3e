"""One GPU in a few minutes: our training step against DINO's longhand, and the script itself fed with JPEG files.

    python benchmarks/gpu.py                          # on one GPU; GPU.md says what goes where
    python benchmarks/gpu.py --quick --device cpu     # tiny sizes, to see that it runs; targets are not judged

Prints tables and writes them, with machine, versions and command, to gpu.md in benchmarks/results. Times are of the
wall clock, with the device waited for. The files are ten JPEGs of ImageNet's usual size under many names, an epoch of
them, so that all come from memory: decoding is measured, a disk is not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from input_pipeline import write_files
from measure import RESULTS, ROW_HEAD, Peer, Row, Timer, compare, environment, markdown_table
from pretrain_cases import ROOT, Longhand, Way, make_crops

from vmflearn.train.config import load_config
from vmflearn.train.cost.counting import count_cost
from vmflearn.train.cost.matrix_rate import matrix_rate

PACKAGES = ["torch", "torchvision", "timm"]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    backbone: str
    crops: tuple[int, ...]
    batch: int
    components: int
    compiled: bool
    batches: tuple[int, int]
    steps: int
    options: tuple[str, ...] = ()


FULL = Sizes(5, "vit_small_patch16_224", (224, 224, *[96] * 10), 64, 65_536, True, (256, 128), 100)
QUICK = Sizes(
    *(1, "vit_tiny_patch16_224", (32, 32, 16), 2, 256, False, (4, 4), 10),
    (
        "--model.options={embed_dim: 32, depth: 1, num_heads: 2, img_size: 32}",
        *("--views.global_size=32", "--views.local_size=16", "--views.n_local=1", "--data.workers=1"),
        *("--head.out_dim=64", "--head.hidden_dim=32", "--head.bottleneck_dim=16"),
    ),
)


def measure_steps(sizes: Sizes, device: torch.device) -> list[Row]:
    """One step in bfloat16, ours against the longhand and against ours with one thing changed."""
    crops = [crop.to(device) for crop in make_crops(sizes)]

    def way(kind: type[Way] = Way, **options: bool) -> Way:
        with device:
            return kind(sizes, **options)

    def timer(one: Way) -> Timer:
        def run() -> float:
            wait(device)
            start = time.perf_counter()
            one.step(crops)
            wait(device)
            return time.perf_counter() - start

        return run

    ours, longhand = way(autocast=True), way(Longhand, autocast=True)
    gap = abs(ours.step(crops) / longhand.step(crops) - 1)
    assert gap < 0.02, f"the losses differ by {gap:.2g}"
    peers = [
        Peer("DINO's step, longhand", timer(longhand), 2.0),
        Peer("ours, attention with its matrix", timer(way(autocast=True, fused=False))),
        Peer("ours in float32", timer(way())),
    ]
    if sizes.compiled:
        peers.append(Peer("ours, blocks compiled", timer(way(autocast=True, compiled=True))))
    return compare("training step in bfloat16", timer(ours), peers, sizes.rounds)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_script(sizes: Sizes, device: torch.device, workers: int) -> list[list[str]]:
    """`scripts/pretrain.py` on JPEG files, for both recipes: medians over its intervals, the first two left out."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        write_files(images)
        for file in list(images.iterdir()):
            for copy in range(max(sizes.batches) * sizes.steps // 10):  # steps of one epoch: no checkpoint between them
                os.link(file, images / f"{copy:04}_{file.name}")
        for name, batch in zip(("small16", "base16"), sizes.batches, strict=True):
            recipe, run_dir = ROOT / "scripts" / "configs" / f"imagenet_vit_{name}_dino_vmf.yaml", Path(scratch) / name
            settings = [f"--data.root={images}", f"--data.workers={workers}", f"--optimizer.batch_size={batch}"]
            settings += [f"--run.device={device}", f"--run.max_steps={sizes.steps}", "--run.knn_every=0"]
            settings += [f"--run.log_every={sizes.steps // 10}", *sizes.options]
            command = [sys.executable, str(ROOT / "scripts" / "pretrain.py"), f"--config={recipe}"]
            subprocess.run([*command, f"--run-dir={run_dir}", *settings], check=True, stdout=subprocess.DEVNULL)
            lines = [json.loads(line) for line in (run_dir / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
            found = {
                k: statistics.median(line[k] for line in lines[2:]) for k in ("images_per_second", "data_wait", "mfu")
            }
            expected = count_cost(load_config(recipe, settings)).memory.total / 2**30
            rows.append(
                [
                    *(name, str(batch), f"{found['images_per_second']:,.0f}", f"{found['data_wait']:.1%}"),
                    *(f"{found['mfu']:.1%}", f"{max(line['memory_gib'] for line in lines):.1f}", f"{expected:.1f}"),
                ]
            )
    return rows


def main(argv: list[str]) -> None:
    """Measure everything, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; targets are not judged")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="default: cuda")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 16), help="processes that decode")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.md")
    options = parser.parse_args(argv)
    device, sizes = options.device, QUICK if options.quick else FULL
    rate = matrix_rate(device, "bfloat16", seconds=0.1 if options.quick else 1.0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    text = [
        f"# One device: {name}\n",
        f"{environment('gpu.py', argv, PACKAGES)}\n",
        f"Matrix products in bfloat16: {rate / 1e12:,.3g} TFLOP/s, measured in this run.\n",
    ]

    def add(heading: str, section: str) -> None:
        text.append(f"## {heading}\n\n{section}")
        print(text[-1], flush=True)

    rows = measure_steps(sizes, device)
    rows = [replace(row, target=None) for row in rows] if options.quick else rows
    crops = " + ".join(f"{sizes.crops.count(side)} x {side}" for side in dict.fromkeys(sizes.crops))
    add(
        "One step",
        f"{sizes.backbone}, {crops} pixels, batch {sizes.batch}, {sizes.components:,} components; median of "
        f"{sizes.rounds} rounds in turn.\n\n" + markdown_table(ROW_HEAD, [row.cells() for row in rows]),
    )
    head = ["recipe", "batch", "images/s", "data wait", "MFU", "GiB", "GiB that --dry-run expects"]
    add(
        "The script, JPEG files included",
        f"`scripts/pretrain.py`, {options.workers} workers. To reach on an H200: small16 2,000 images/s, base16 40 % "
        "MFU, data wait below 5 %.\n\n" + markdown_table(head, measure_script(sizes, device, options.workers)),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.md").write_text("\n".join(text), encoding="utf-8")
    print(f"written to gpu.md in {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
