"""The sphere against its peers, side by side in one run, on one core.

    python benchmarks/sphere.py            # about ten minutes
    python benchmarks/sphere.py --large    # and one EM iteration on 10,000,000 x 256 rows in a file, K = 1,000
    python benchmarks/sphere.py --quick    # tiny sizes, to see that it runs; targets are not judged

Prints tables of times and ratios and writes them, with machine, versions and command, to sphere.md and sphere.png in
benchmarks/results. Trust the ratios over the times. Peers that are not installed are named as such (README.md tells
how to install them).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

# Before anything starts a pool of threads: peers that have one of their own are kept on the same core below.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import distribution_cases
import mixture_cases
import normalizer_cases
from measure import RESULTS, ROW_HEAD, Row, environment, is_installed, markdown_table, one_core
from peers import tensorflow_probability

PACKAGES = [
    *("torch", "numpy", "scipy", "scikit-learn", "mpmath"),
    *("tfp-nightly", "jax", "power-spherical", "chemomae", "pyrecest", "spherecluster"),
]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    values: int  # concentrations
    dims: tuple[int, ...]  # of samples
    samples: int  # at most; fewer in high dimensions
    fit_dims: tuple[int, ...]
    fit_rows: int
    rows: int  # of the mixture
    components: int
    large_rows: int
    large_dim: int
    large_components: int


FULL = Sizes(7, 65_536, (3, 64, 256, 1024), 10_000, (64, 256, 1024), 10_000, 100_000, 50, 10_000_000, 256, 1000)
QUICK = Sizes(1, 512, (3, 16), 100, (8,), 500, 2000, 4, 4000, 16, 8)

Cases = Callable[..., list[Row]]
GROUPS: dict[str, Cases] = {
    "Normaliser": normalizer_cases.measure,
    "Sampling": distribution_cases.measure_sampling,
    "Mixture": mixture_cases.measure,
}


def large_mixture(sizes: Sizes) -> str:
    """One EM iteration that fills memory, in a process of its own with two threads; see `large_mixture.py`."""
    script = Path(__file__).with_name("large_mixture.py")
    numbers = [str(n) for n in (sizes.large_rows, sizes.large_dim, sizes.large_components)]
    environ = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, str(script), *numbers], check=True, capture_output=True, text=True, env=environ
    )
    found = json.loads(done.stdout)
    ratio, gib = found["seconds"] / found["products"], found["peak_gib"] - found["before_gib"]
    verdicts = [
        f"≤ {target:g}{unit}: {'met' if value <= target else '**missed**'}"
        for value, target, unit in ((ratio, found["target_ratio"], ""), (gib, found["target_gib"], " GiB"))
    ]
    return markdown_table(
        ["rows", "one EM iteration", "its products", "ratio", "target", "memory before", "more at its peak", "target"],
        [
            [
                f"{sizes.large_rows:,} x {sizes.large_dim} float32 in a file, "
                f"K = {sizes.large_components:,}, two threads",
                *(f"{found[name]:.3g} s" for name in ("seconds", "products")),
                f"{ratio:.2f}",
                verdicts[0],
                *(f"{size:.2f} GiB" for size in (found["before_gib"], gib)),
                verdicts[1],
            ]
        ],
    )


def draw_figure(groups: dict[str, list[Row]], path: Path) -> None:
    """Bars of the ratios, in grey: above, times faster than a peer; below, cost over a floor that has a target."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for group in groups.values() for row in group if not row.is_floor or row.target is not None]
    parts = [[row for row in rows if row.is_floor == is_floor] for is_floor in (False, True)]
    figure, axes = plt.subplots(
        2,
        1,
        figsize=(9, 1.6 + 0.27 * len(rows)),
        height_ratios=[max(len(part), 1) for part in parts],
        constrained_layout=True,
    )
    labels = ("times faster than the peer (mark: target, at least)", "time over the floor's (mark: target, at most)")
    for axis, part, label in zip(axes, parts, labels, strict=True):
        for i, row in enumerate(part):
            shade = {None: "0.8", True: "0.5", False: "white"}[row.met]
            axis.barh(i, row.ratio, color=shade, edgecolor="0.3", hatch="////" if row.met is False else None)
            number = f"{row.ratio:.3g}" if row.ratio < 100 else f"{row.ratio:,.0f}"
            axis.text(max(row.ratio, row.target or 0), i, f"  {number}", va="center", fontsize=8)
            if row.target is not None:
                axis.plot([row.target] * 2, [i - 0.45, i + 0.45], color="black", linewidth=2.5)
        axis.set_yticks(range(len(part)), [f"{row.what}: {row.peer}" for row in part], fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("linear" if axis is axes[1] else "log")
        axis.axvline(1, color="0.3", linewidth=0.8)
        axis.set_xlabel(label)
        axis.margins(x=0.12, y=0.01)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("dark: target met, hatched: missed, light: no target", fontsize=9)
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> None:
    """Measure everything, print and store tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; targets are not judged")
    parser.add_argument("--large", action="store_true", help="add the large mixture, on two threads")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for sphere.md and sphere.png")
    settings = parser.parse_args(argv)
    sizes = QUICK if settings.quick else FULL

    sections: dict[str, str] = {}
    groups: dict[str, list[Row]] = {}

    def add(name: str, text: str) -> None:
        sections[name] = f"## {name}\n\n{text}"
        print(sections[name], flush=True)

    with one_core(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations do not converge, and scipy's Bessel function underflows
        tfp = tensorflow_probability()
        for name, measure in GROUPS.items():
            groups[name] = measure(sizes, tfp)
            if settings.quick:  # the targets are for the full sizes
                groups[name] = [replace(row, target=None) for row in groups[name]]
            add(name, markdown_table(ROW_HEAD, [row.cells() for row in groups[name]]))
        add("Fit", distribution_cases.fit_table(sizes))
    if settings.large:
        add("A large mixture", large_mixture(sizes))

    peers = {name: is_installed(name) for name in ("power-spherical", "chemomae", "pyrecest", "spherecluster")}
    peers["TensorFlow Probability"] = tfp is not None
    absent = [f" {name}: not installed." for name, is_there in peers.items() if not is_there]
    judged = [row.met for group in groups.values() for row in group if row.met is not None]
    head = (
        "# The sphere against its peers\n\n"
        f"Medians of {sizes.rounds} alternating rounds on one core; ratios are medians of the ratios within a round. "
        "Times are processor time for one value, sample or iteration.\n\n"
        f"{environment('sphere.py', argv, PACKAGES)}{''.join(absent)}\n\n"
        f"{sum(judged)} of {len(judged)} targets of the tables with ratios are met.\n"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "sphere.md").write_text("\n".join([head, *sections.values()]), encoding="utf-8")
    draw_figure(groups, settings.out / "sphere.png")
    print(f"{sum(judged)} of {len(judged)} targets met; written to sphere.md and sphere.png in {settings.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
