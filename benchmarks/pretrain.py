"""A training step against DINO's longhand, what each saving gives, two processes, and what a full run would take.

    python benchmarks/pretrain.py            # twenty minutes on two idle cores
    python benchmarks/pretrain.py --quick    # tiny sizes, to see that it runs; targets are not judged

Prints tables and writes them, with machine, versions and command, to pretrain.md in benchmarks/results. Before anything
is timed, all ways are asserted to take equal steps. What needs a GPU is listed as not measured yet; the projection to
many GPUs is arithmetic on counted operations and says what it assumes.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits for another sleeps: spinning counts as work

import distillation_cases
import pretrain_cases
import pretrain_trials
import torch
from measure import RESULTS, ROW_HEAD, environment, markdown_table

from vmflearn.train.config import load_config
from vmflearn.train.cost.plan import make_plan

PACKAGES = ["torch", "timm"]
RATE = 989e12
"""Dense bfloat16 matrix rate of an NVIDIA H100 or H200 (SXM) by its data sheet, operations a second."""
SHARES = (0.2, 0.4)
"""Shares of that rate which the projection assumes; not measured."""
IMAGENET = 1_281_167


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    backbone: str
    crops: tuple[int, ...]
    batch: int
    components: int
    rate: float
    scaling_rounds: int
    scaling_steps: int
    step_batch: int
    step_rounds: int
    memory_batch: int
    memory_rounds: int
    memory_ways: int
    compiled: bool
    scaling_options: tuple[str, ...] = ()


FULL = Sizes(3, "vit_small_patch16_224", (224, 224, *[96] * 10), 4, 65_536, 0.3, 2, 40, 4, 2, 16, 2, 6, True)
QUICK = Sizes(1, "test_vit", (32, 32, 16), 4, 256, 0.3, 1, 5, 1, 1, 4, 1, 2, False, ("--model.options.depth=1",))


def share_table(normalizer: float, step: float, quick: bool) -> str:
    """What the normaliser costs of a step."""
    share = normalizer / step
    target = [] if quick else ["< 1 %", "met" if share < 0.01 else "**missed**"]
    head = ["whole step", "normalisers of teacher and student, and their derivative", "share"]
    row = [f"{step:.3g} s", f"{1e3 * normalizer:.3g} ms", f"{100 * share:.3f} %"]
    return markdown_table([*head, *(["target", ""] if target else [])], [[*row, *target]])


def projection_table() -> str:
    """Hours of the recipes on 8 and 64 GPUs, from counted operations and an assumed utilisation."""
    rows = []
    for name in ("small16", "base16"):
        path = pretrain_cases.ROOT / "scripts" / "configs" / f"imagenet_vit_{name}_dino_vmf.yaml"
        config = load_config(path, ["data.root=not-needed"])
        cost = make_plan(config, images=IMAGENET).cost
        for devices in (8, 64):
            for share in SHARES:
                speed = share * RATE * devices / cost.operations.total
                plan = make_plan(config, images=IMAGENET, devices=devices, throughput=speed)
                assert plan.hours is not None
                rows.append(
                    [
                        config.name,
                        f"{cost.operations.total / 1e9:.1f}",
                        str(devices),
                        str(config.optimizer.batch_size // devices),
                        f"{share:.0%}",
                        f"{speed:,.0f}",
                        f"{plan.hours:,.1f}",
                        f"{plan.hours * devices:,.0f}",
                    ]
                )
    head = ["recipe", "GFLOP an image", "GPUs", "images a GPU", "MFU assumed", "images/s", "hours", "GPU-hours"]
    return markdown_table(head, rows)


NOT_MEASURED = [
    ["step against DINO's longhand on a GPU", "≥ 2"],
    ["ViT-S/16, 2 x 224 + 10 x 96, JPEG input included, images/s", "≥ 2,000 (H200)"],
    ["ViT-B/16, share of the matrix rate measured in the same run", "≥ 40 %"],
    ["data wait", "< 5 %"],
    ["what bfloat16, compiled blocks, fused AdamW and subsets of stochastic depth give", ""],
    ["memory against the estimate of `--dry-run`", ""],
]


def main(argv: list[str]) -> None:
    """Measure everything, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; targets are not judged")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for pretrain.md")
    settings = parser.parse_args(argv)
    sizes = QUICK if settings.quick else FULL
    sections = []

    def add(name: str, text: str) -> None:
        sections.append(f"## {name}\n\n{text}")
        print(sections[-1], flush=True)

    for name, measure in (
        ("One step, and what each saving gives", pretrain_cases.measure_steps),
        ("In bfloat16", pretrain_cases.measure_precision),
        ("Stochastic depth", pretrain_cases.measure_stochastic_depth),
        ("After the backward pass", pretrain_cases.measure_updates),
    ):
        rows = measure(sizes)
        if settings.quick:
            rows = [replace(row, target=None) for row in rows]
        add(name, markdown_table(ROW_HEAD, [row.cells() for row in rows]))
    normalizer_seconds, step_seconds = distillation_cases.normalizer_share(sizes)
    add("Cost of the normaliser", share_table(normalizer_seconds, step_seconds, settings.quick))
    add(
        "Memory of a step",
        f"Most memory held during one step of {sizes.memory_batch} images, above weights, gradients, moments and "
        f"crops; a fresh process for every figure, median of {sizes.memory_rounds}.\n\n"
        + markdown_table(["way", "peak", "times ours"], pretrain_trials.measure_memory(sizes)),
    )
    add(
        "A checkpoint",
        "The loop waits for a copy of the state; a thread computes the digest and writes the file.\n\n"
        + markdown_table(ROW_HEAD, [row.cells() for row in pretrain_trials.measure_checkpoint(sizes)]),
    )
    add(
        "Tried, and not kept",
        "Both pay too little here to be worth their code; on a GPU they are not measured yet.\n\n"
        + markdown_table(ROW_HEAD, [row.cells() for row in pretrain_trials.measure_concatenation(sizes)])
        + "\nThe centre's exchange over two processes (gloo, wall-clock), which could be hidden behind the backward "
        "pass; the step is that of the table of the normaliser.\n\n"
        + markdown_table(
            ["what", "exchange", "step", "most that could be saved"],
            pretrain_trials.measure_exchange(sizes, step_seconds),
        ),
    )
    add(
        "Two processes",
        "`scripts/pretrain.py` on `photos`, one thread a process, gloo, the same number of images for each process; "
        f"wall-clock, the best interval of five steps, median of {sizes.scaling_rounds} alternating runs. The "
        f"machine's load just before was {os.getloadavg()[0]:.1f}; above 2, others had part of it.\n\n"
        + markdown_table(
            ["processes", "images a step", "images/s", "times one process"], pretrain_cases.scaling(sizes)
        ),
    )
    add(
        "Projection to many GPUs (arithmetic, not a measurement)",
        f"Operations are counted as `--dry-run` counts them. Assumed: {RATE / 1e12:.0f} TFLOP/s of bfloat16 on each "
        "GPU (H100 or H200, data sheet), the share of it in the table, perfect scaling, input that keeps up, no "
        "restarts, no evaluations.\n\n" + projection_table(),
    )
    add("Not measured yet", markdown_table(["on a GPU", "to reach"], NOT_MEASURED))

    crops = " + ".join(f"{sizes.crops.count(side)} x {side}" for side in dict.fromkeys(sizes.crops))
    head = (
        "# Training steps\n\n"
        f"{sizes.backbone}, {crops} pixels, batch {sizes.batch}, {sizes.components:,} components, float32, "
        f"{torch.get_num_threads()} threads. Times are processor time of all threads, "
        f"which sleep while they wait: medians of {sizes.rounds} "
        "alternating rounds; ratios are medians of the ratios within a round. Losses and parameters after two steps of "
        f"all ways in the first table were equal to {pretrain_cases.TOLERANCE:g} (relative, in norm) in this run.\n\n"
        f"{environment('pretrain.py', argv, PACKAGES)}\n"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "pretrain.md").write_text("\n".join([head, *sections]), encoding="utf-8")
    print(f"written to pretrain.md in {settings.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
