"""The last layer, the loss and the centring of self-distillation against other ways to compute the same.

    python benchmarks/distillation.py            # three minutes on one core
    python benchmarks/distillation.py --quick    # tiny sizes, to see that it runs; targets are not judged

Prints tables and writes them, with machine, versions and command, to distillation.md in benchmarks/results. Before
anything is timed, all ways are asserted to give equal losses and gradients. (The file is not called ``ssl.py``: a
script of that name would hide Python's own module from every script beside it.)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import distillation_cases
from measure import RESULTS, ROW_HEAD, environment, is_installed, markdown_table, one_core

PACKAGES = ["torch", "timm", "lightly"]
MEMORY_TARGET = 1.3


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    crops: int
    batch: int
    components: int
    dim: int
    features: int
    hidden: int
    backbone: str
    step_batch: int
    step_rounds: int


FULL = Sizes(5, 12, 32, 65_536, 256, 384, 2048, "vit_small_patch16_224", 2, 3)
QUICK = Sizes(1, 4, 3, 512, 16, 24, 32, "test_vit", 1, 1)


def memory_table(sizes: Sizes, quick: bool) -> str:
    """Peak memory of loss and gradients, each way in a process of its own."""
    rows = []
    for way in ("prototype_loss", "dino_loss"):
        command = [sys.executable, str(Path(__file__).with_name("loss_memory.py")), way]
        numbers = [str(n) for n in (sizes.crops, sizes.batch, sizes.components, sizes.dim)]
        done = subprocess.run([*command, *numbers], check=True, capture_output=True, text=True, env=os.environ)
        found = json.loads(done.stdout)
        ratio = found["peak_mib"] / found["logits_mib"]
        judged = way == "prototype_loss" and not quick
        verdict = ("met" if ratio <= MEMORY_TARGET else "**missed**") if judged else ""
        target = f"≤ {MEMORY_TARGET}" if judged else ""
        rows.append(
            [way, f"{found['peak_mib']:.0f} MiB", f"{found['logits_mib']:.0f} MiB", f"{ratio:.2f}", target, verdict]
        )
    head = [
        "loss and gradients by",
        "peak above inputs, parameters, gradients",
        "one matrix of logits",
        "ratio",
        "target",
        "",
    ]
    return markdown_table(head, rows)


def unique_table(sizes: Sizes, quick: bool) -> str:
    """Time and memory of counting unique prototypes, each case in a process of its own with two threads."""
    rows = []
    for kind, what in (("distinct", "random directions"), ("duplicates", "a thousand directions, many times over")):
        command = [sys.executable, str(Path(__file__).with_name("unique_memory.py")), kind]
        numbers = [str(sizes.components), str(sizes.dim)]
        threads = os.environ | {"OMP_NUM_THREADS": "2"}
        done = subprocess.run([*command, *numbers], check=True, capture_output=True, text=True, env=threads)
        found = json.loads(done.stdout)
        met = found["seconds"] < 60 and found["peak_mib"] < 1024
        rows.append(
            [
                f"{sizes.components:,} x {sizes.dim}, {what}",
                f"{found['unique']:,}",
                f"{found['largest']:,}",
                f"{found['seconds']:.3g} s",
                f"{found['peak_mib']:.0f} MiB",
                "" if quick else "< 60 s, < 1,024 MiB",
                "" if quick else "met" if met else "**missed**",
            ]
        )
    head = ["prototypes", "unique (cosine > 0.9)", "largest set", "wall time, two threads", "peak memory", "target", ""]
    return markdown_table(head, rows)


def share_table(sizes: Sizes, quick: bool) -> str:
    """What the normaliser costs of a whole training step."""
    normalizer, step = distillation_cases.normalizer_share(sizes)
    share = normalizer / step
    target = [] if quick else ["< 1 %", "met" if share < 0.01 else "**missed**"]
    head = ["step", "whole step", "normalisers of teacher and student, and their derivative", "share"]
    what = f"{sizes.backbone}, 2 x 224 + 10 x 96 pixels, batch {sizes.step_batch}, {sizes.components:,} components"
    row = [what, f"{step:.3g} s", f"{1e3 * normalizer:.3g} ms", f"{100 * share:.3f} %"]
    return markdown_table([*head, *(["target", ""] if target else [])], [[*row, *target]])


def main(argv: list[str]) -> None:
    """Measure everything, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; targets are not judged")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for distillation.md")
    settings = parser.parse_args(argv)
    sizes = QUICK if settings.quick else FULL
    sections = []

    def add(name: str, text: str) -> None:
        sections.append(f"## {name}\n\n{text}")
        print(sections[-1], flush=True)

    with one_core(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # lightly's weight_norm is torch's old one
        for name, measure in (
            ("Last layer and loss", distillation_cases.measure_last_layer),
            ("Head, loss and centring", distillation_cases.measure_head),
        ):
            rows = measure(sizes)
            if settings.quick:
                rows = [replace(row, target=None) for row in rows]
            add(name, markdown_table(ROW_HEAD, [row.cells() for row in rows]))
        add("Memory", memory_table(sizes, settings.quick))
        add("Cost of the normaliser", share_table(sizes, settings.quick))
    add("Unique prototypes", unique_table(sizes, settings.quick))  # outside: with both cores

    absent = "" if is_installed("lightly") else " lightly: not installed."
    head = (
        "# Self-distillation's last layer against other ways\n\n"
        f"{sizes.crops} crops of {sizes.batch} images, {sizes.components:,} components in {sizes.dim} dimensions, "
        "float32; forward and backward. Times are processor time on one core, medians of "
        f"{sizes.rounds} alternating rounds; ratios are medians of the ratios within a round. Losses and gradients "
        f"of all ways were equal to {distillation_cases.TOLERANCE:g} (relative, in norm) in this run.\n\n"
        f"{environment('distillation.py', argv, PACKAGES)}{absent}\n"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "distillation.md").write_text("\n".join([head, *sections]), encoding="utf-8")
    print(f"written to distillation.md in {settings.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
