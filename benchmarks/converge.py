"""EM to its end: how many steps it takes with and without strides, and what a second process saves.

    python benchmarks/converge.py            # 100,000 x 384 rows, K = 200; a quarter of an hour
    python benchmarks/converge.py --quick    # tiny sizes, to see that it runs

Rows are planted: K random directions, equal weights, and a noise that leaves the true mixture itself in doubt about a
stated share of the rows. Fits start from K of the rows, the hard way, or from the default; they end when a step of EM
raises the objective by no more than a millionth of its absolute value. A stride counts as a step, kept or not. Then the
same fit by one process with all the rows and by two with half of them each (torchrun, gloo), one thread each, in turn:
seconds of the clock for the fit alone, of the processor above. Writes converge.md in benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from measure import RESULTS, Timer, duration, environment, markdown_table, one_core

from vmflearn import distributed
from vmflearn.sphere import VonMisesFisherMixture, concentration_from_length

RELATIVE = 1e-6
MOST_STEPS = 300
TARGET_STEPS, TARGET_SPEED = 60, 1.8


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int
    dim: int
    components: int
    lengths: tuple[float, ...]  # mean resultant lengths: the shorter, the more components overlap
    rounds: int


FULL = Sizes(100_000, 384, 200, (0.2, 0.17), 5)
QUICK = Sizes(400, 8, 3, (0.6,), 1)


def planted(sizes: Sizes, length: float) -> tuple[np.ndarray, VonMisesFisherMixture, float]:
    """Float32 rows, the mixture that they are of, and the share that it gives to another component than their own."""
    torch.manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(sizes.components, sizes.dim, dtype=torch.float64), dim=1)
    kappa = concentration_from_length(torch.tensor(length, dtype=torch.float64), sizes.dim)
    truth = VonMisesFisherMixture(
        sizes.components, init=means, concentrations_init=float(kappa), max_iter=0, random_state=0
    )
    truth.fit(means)
    rows, labels = truth.sample(sizes.rows)
    return rows.astype(np.float32), truth, float((truth.predict(rows) != labels).mean())


def fitted(
    rows: np.ndarray, n_components: int, tol: float, clock: Timer, **settings: object
) -> tuple[VonMisesFisherMixture, float]:
    """Fit, and seconds."""
    mixture = VonMisesFisherMixture(n_components, tol=tol, max_iter=MOST_STEPS, random_state=0, **settings)
    begin = clock()
    mixture.fit(rows)
    return mixture, clock() - begin


def steps_table(sizes: Sizes) -> Iterator[list[str]]:
    """Lines: overlap, start, strides or not, and what became of it."""
    for length in sizes.lengths:
        rows, truth, doubt = planted(sizes, length)
        best = truth.score(rows)
        tol = RELATIVE * abs(best)
        for start, init in (("rows", rows[: sizes.components]), ("the default", None)):
            for accelerated in (True, False):
                settings = {"accelerated": accelerated} if init is None else {"accelerated": accelerated, "init": init}
                mixture, seconds = fitted(rows, sizes.components, tol, time.process_time, **settings)
                steps = f"{mixture.n_iter_}" if mixture.converged_ else f"over {MOST_STEPS}"
                is_met = mixture.converged_ and mixture.n_iter_ <= TARGET_STEPS
                yield [
                    f"{length:g}",
                    f"{doubt:.1%}",
                    start,
                    "strides" if accelerated else "steps alone",
                    steps,
                    f"{'met' if is_met else '**missed**'}" if accelerated else "",
                    duration(seconds),
                    f"{mixture.score(rows) - best:+.4f}",
                ]


def fit_own_rows(sizes: Sizes, length: float) -> None:
    """In a process of torchrun, or alone: fit this process's share of the rows; the first prints steps and seconds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows, truth, _ = planted(sizes, length)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    own = np.array_split(rows, distributed.world_size())[distributed.rank()]
    tol = RELATIVE * abs(truth.score(rows))
    distributed.max_over_processes(0)  # all are ready
    mixture, seconds = fitted(own, sizes.components, tol, time.perf_counter, init=rows[: sizes.components])
    if distributed.rank() == 0:
        print(mixture.n_iter_, mixture.log_likelihoods_[-1], seconds)
    if dist.is_initialized():
        dist.destroy_process_group()


def processes_line(sizes: Sizes, arguments: list[str]) -> list[str]:
    """One process and two, in turn."""
    alone = [sys.executable, __file__, *arguments, "--worker"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *alone[1:]]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    seconds: list[tuple[float, float]] = []
    for _ in range(sizes.rounds):
        found = []
        for command in (alone, launcher):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
            steps, objective, took = map(float, done.stdout.split())
            found.append((steps, objective, took))
        if not np.isclose(found[0][1], found[1][1], rtol=RELATIVE):
            raise RuntimeError(f"one process and two end elsewhere: {found}")
        seconds.append((found[0][2], found[1][2]))
    ratios = sorted(one / two for one, two in seconds)
    speed = statistics.median(ratios)
    return [
        f"{steps:.0f}",
        *(duration(statistics.median(column)) for column in zip(*seconds, strict=True)),
        f"{speed:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"≥ {TARGET_SPEED:g}",
        "met" if speed >= TARGET_SPEED else "**missed**",
    ]


def main(argv: list[str]) -> None:
    """Measure both, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes; targets mean nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for converge.md")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    settings = parser.parse_args(argv)
    sizes = QUICK if settings.quick else FULL
    if settings.worker:
        return fit_own_rows(sizes, sizes.lengths[-1])
    with one_core(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some do not converge
        head = [
            "mean length",
            "in doubt",
            "start",
            "by",
            "steps",
            f"≤ {TARGET_STEPS}",
            "time",
            "nats a row above truth",
        ]
        lines = []
        for line in steps_table(sizes):
            lines.append(line)
            print(" | ".join(line), flush=True)
        steps = markdown_table(head, lines)
    head = ["steps", "one process", "two", "one / two", "target", ""]
    processes = markdown_table(head, [processes_line(sizes, ["--quick"] if settings.quick else [])])
    text = (
        f"# EM to its end\n\n{sizes.rows:,} x {sizes.dim} float32 rows, K = {sizes.components}, to a relative "
        f"{RELATIVE:g} of the objective.\n\n{environment('converge.py', argv, ['torch', 'numpy', 'scipy'])}\n\n"
        f"## Steps\n\n{steps}\n## Two processes\n\nThe last mean length, from rows, one thread a process; medians of "
        f"{sizes.rounds} turns and of their ratios, and the smallest and largest ratio.\n\n{processes}"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "converge.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
