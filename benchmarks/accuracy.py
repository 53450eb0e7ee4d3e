r"""How accurate the sphere is: every function at thousands of points against ball arithmetic.

    python benchmarks/accuracy.py

Draws points (dim, kappa) from a fixed seed, dim 2 to 65,536 and kappa 0 to 1e12, and compares log H = log C(0) - log C,
kappa - log H, A, 1 - A, A', log C, and the first and second derivatives that autograd delivers, in float64 and float32,
with `truth`; then the inverse of A. float32 is compared at the rounded kappa. Prints the worst relative error of each
quantity in groups of dimensions, with the point where it happens, and writes accuracy.md and accuracy.png to
benchmarks/results. The exit status is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measure import RESULTS, environment, markdown_table
from peer_accuracy import peers_table
from peers import tensorflow_probability
from points import GROUPS, SEED, Point, any_dim, draw_points, group_of
from torch import Tensor
from truth import (
    Truth,
    by_mpmath,
    disagreement,
    log_normalizer_at_zero,
    mpmath_converges,
    relative_error,
    truth,
)

from vmflearn.sphere.bessel import (
    concentration_from_length,
    log_hypergeometric,
    log_normalizer,
    mean_resultant_length,
    mean_resultant_length_complement,
    mean_resultant_length_derivative,
)
from vmflearn.sphere.kernels import excess_kernel

TARGETS = {torch.float64: 2e-15, torch.float32: 1e-6}
CIRCLE_SLOPE_TARGET = 3e-6  # A' at dim 2 in float32
INVERSE_TARGET = 1e-12
AGREEMENT_TARGET = 1e-40  # of arb and mpmath

PACKAGES = ["torch", "numpy", "python-flint", "mpmath", "scipy", "tfp-nightly", "jax"]


class Error(NamedTuple):
    """A relative error and where it was made."""

    quantity: str
    point: Point
    error: float


# --- what is measured ---


def _derivative(function: Callable[[Tensor, int], Tensor], order: int) -> Callable[[Tensor, int], Tensor]:
    """Return the derivative of ``function`` as autograd delivers it."""

    def derivative(kappa: Tensor, dim: int) -> Tensor:
        kappa = kappa.clone().requires_grad_()
        value = function(kappa, dim)
        for remaining in range(order, 0, -1):
            (value,) = torch.autograd.grad(value.sum(), kappa, create_graph=remaining > 1)
        return value.detach()

    return derivative


def _minus(function: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda kappa, dim: -function(kappa, dim)


# name: (what the library computes, where the truth has it); the error of log C is relative to |log C(0)| + log H.
QUANTITIES: dict[str, tuple[Callable[[Tensor, int], Tensor], Callable[[Truth], object]]] = {
    "log H": (log_hypergeometric, lambda true: true.log_h),
    "κ - log H": (excess_kernel, lambda true: true.excess),
    "A": (mean_resultant_length, lambda true: true.length),
    "1 - A": (mean_resultant_length_complement, lambda true: true.complement),
    "A'": (mean_resultant_length_derivative, lambda true: true.slope),
    "log C": (log_normalizer, lambda true: true.log_h),
    "A, gradient": (_minus(_derivative(log_normalizer, 1)), lambda true: true.length),
    "A', gradient of A": (_derivative(mean_resultant_length, 1), lambda true: true.slope),
    "A', second gradient": (_minus(_derivative(log_normalizer, 2)), lambda true: true.slope),
    "1 - A, gradient": (_derivative(excess_kernel, 1), lambda true: true.complement),
}


def target_of(quantity: str, dim: int, dtype: torch.dtype) -> float:
    """Return the largest relative error that is allowed."""
    if dtype == torch.float32 and dim == 2 and quantity.startswith("A'"):
        return CIRCLE_SLOPE_TARGET
    return TARGETS[dtype]


def measure(points: list[Point], truths: list[Truth], dtype: torch.dtype) -> list[Error]:
    """Errors of every quantity at every point; ``points`` sorted by dimension."""
    errors = []
    for dim, group in groupby(zip(points, truths, strict=True), key=lambda pair: pair[0].dim):
        here, true = zip(*group, strict=True)
        kappa = torch.tensor([point.kappa for point in here], dtype=dtype)
        at_zero = log_normalizer_at_zero(dim)
        for name, (function, expected) in QUANTITIES.items():
            values = function(kappa, dim).double().tolist()
            for point, t, value in zip(here, true, values, strict=True):
                wanted, scale = expected(t), None
                if name == "log C":
                    wanted, scale = at_zero - wanted, abs(at_zero) + wanted
                errors.append(Error(name, point, relative_error(value, wanted, scale)))
    return errors


def measure_inverse(n: int) -> list[Error]:
    """Errors of kappa(r), r from 1e-6 to 1 - 1e-9, the complement given; a point holds r, or r - 1 if r > 1/2.

    The error is (A(kappa) - r) / (kappa A'(kappa)), with A and A' enclosed at the kappa that was returned.
    """
    rng = np.random.default_rng(SEED + 1)
    errors = []
    for dim in any_dim(rng, n // 2).tolist():
        for below in (True, False):
            part = float(10 ** rng.uniform(-6 if below else -9, math.log10(0.5)))
            r, q = (part, 1 - part) if below else (1 - part, part)
            kappa = float(concentration_from_length(r, dim, complement=q))
            true = truth(dim, kappa)
            wrong = true.length if below else true.complement
            error = relative_error(part, wrong, kappa * true.slope)
            errors.append(Error("κ from r", Point(dim, part if below else -part), error))
    return errors


# --- report ---


def worst_table(errors: list[Error]) -> str:
    """Table of the worst error in each group of dimensions, a column a quantity (derivatives aside)."""
    names = [name for name in QUANTITIES if "gradient" not in name]
    worst: dict[tuple[str, str], float] = {}
    for quantity, point, error in errors:
        for group in (group_of(point.dim), "all"):
            worst[group, quantity] = max(worst.get((group, quantity), 0.0), error)
    groups = [group_of(last) for last in GROUPS if (group_of(last), names[0]) in worst]
    rows = [[group, *(f"{worst[group, name]:.1e}" for name in names)] for group in [*groups, "all"]]
    return markdown_table(["dim", *names], rows)


def places_table(errors: list[Error], dtype: torch.dtype) -> tuple[str, int]:
    """Table of the point where each quantity is worst, by its target, and the number of quantities that miss it."""
    rows, missed = [], 0
    for name in QUANTITIES:
        for circle in (False, True) if dtype == torch.float32 and name.startswith("A'") else (None,):
            some = [e for e in errors if e.quantity == name and (circle is None or (e.point.dim == 2) == circle)]
            if not some:
                continue
            at = max(some, key=lambda e: e.error)
            target = target_of(name, at.point.dim, dtype)
            n_over = sum(e.error > target for e in some)
            missed += n_over > 0
            where = {None: "", True: ", dim 2", False: ", dim > 2"}[circle]
            verdict = "met" if not n_over else f"missed at {n_over} points"
            place = [str(at.point.dim), f"{at.point.kappa:.9g}"]
            rows.append([name + where, f"{at.error:.2e}", f"{target:.0e}", verdict, *place])
    return markdown_table(["quantity", "worst", "target", "", "at dim", "at κ"], rows), missed


def cross_check(points: Iterable[Point], truths: Iterable[Truth]) -> tuple[int, float]:
    """Count the points where mpmath converges, and return the largest relative difference from arb there."""
    differences = [
        max(map(disagreement, true, by_mpmath(*point)))
        for point, true in zip(points, truths, strict=True)
        if point.kappa > 0 and mpmath_converges(*point)
    ]
    return len(differences), max(differences)


def draw_figure(errors: dict[torch.dtype, list[Error]], path: Path) -> None:
    """Every point, dark where its worst quantity comes close to the target."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, constrained_layout=True)
    for axis, (dtype, some) in zip(axes, errors.items(), strict=True):
        worst: dict[Point, float] = {}
        for quantity, point, error in some:
            share = error / target_of(quantity, point.dim, dtype)
            worst[point] = max(worst.get(point, 0.0), share)
        drawn = sorted((p for p in worst if p.kappa > 0), key=lambda p: worst[p])
        shade = {"c": [worst[p] for p in drawn], "cmap": "Greys", "vmin": -0.15, "vmax": 1}
        dots = axis.scatter([p.kappa for p in drawn], [p.dim for p in drawn], s=9, **shade)
        over = [p for p in drawn if worst[p] > 1]
        axis.scatter([p.kappa for p in over], [p.dim for p in over], marker="x", color="tab:red", label="target missed")
        if over:
            axis.legend()
        axis.set(xscale="log", yscale="log", xlabel="concentration κ", title=str(dtype).removeprefix("torch."))
    axes[0].set_yscale("log", base=2)
    axes[0].set_ylabel("dimension")
    bar = figure.colorbar(dots, ax=axes, label="worst error / target")
    bar.ax.set_ylim(0, 1)  # the shades below are left out, so that no point is white
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> int:
    """Measure, print, write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=4000, help="points for each precision (default 4000)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for accuracy.md and accuracy.png")
    settings = parser.parse_args(argv)
    start = time.perf_counter()
    text, missed = [], 0
    points = {dtype: draw_points(settings.points, dtype) for dtype in TARGETS}
    truths = {dtype: [truth(*point) for point in points[dtype]] for dtype in TARGETS}
    errors = {dtype: measure(points[dtype], truths[dtype], dtype) for dtype in TARGETS}
    for dtype, some in errors.items():
        places, n_missed = places_table(some, dtype)
        missed += n_missed
        name = str(dtype).removeprefix("torch.")
        text.append(f"## {name}, {len(points[dtype])} points\n\n{worst_table(some)}\n{places}")
    n_checked, difference = cross_check(points[torch.float64], truths[torch.float64])
    inverse = measure_inverse(settings.points // 2)
    at = max(inverse, key=lambda e: e.error)
    missed += (at.error > INVERSE_TARGET) + (difference > AGREEMENT_TARGET)
    r = f"{at.point.kappa:.9g}" if at.point.kappa > 0 else f"1 - {-at.point.kappa:.9g}"
    text.append(
        f"## The inverse of A, float64, {len(inverse)} points\n\nr from 1e-6 to 1 - 1e-9, with its complement. Worst "
        f"relative error of kappa {at.error:.2e} (target {INVERSE_TARGET:.0e}), at dim {at.point.dim}, r = {r}.\n"
    )
    tfp = tensorflow_probability()
    text.append(
        "## Peers at the same points\n\nscipy through `ive`, TensorFlow Probability (TFP) through `log_bessel_ive` and "
        f"`bessel_iv_ratio`{' (not installed)' if tfp is None else ''}; kappa > 0; errors of the finite values.\n\n"
        + peers_table(points, truths, tfp)
    )
    head = (
        "# Accuracy of the sphere\n\n"
        "Worst relative errors against ball arithmetic (arb, at least 48 digits). The error of log C, which crosses "
        "zero, is relative to |log C(0)| + log H. A quantity marked 'gradient' is a derivative as autograd delivers "
        f"it.\n\n{environment('accuracy.py', argv, PACKAGES)}\n\n"
        f"At the {n_checked} float64 points where mpmath's series converges in a moment, arb and mpmath agree to "
        f"{difference:.0e} (relative, all five quantities).\n"
    )
    verdict = "All targets are met." if not missed else f"{missed} targets are missed."
    report = "\n".join([head, *text, verdict]) + "\n"
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "accuracy.md").write_text(report, encoding="utf-8")
    draw_figure(errors, settings.out / "accuracy.png")
    print(report)
    print(f"{time.perf_counter() - start:.0f} s; written to accuracy.md and accuracy.png in {settings.out}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
