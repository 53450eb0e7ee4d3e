"""The errors of scipy and TensorFlow Probability at the points of the accuracy table, for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from measure import markdown_table
from peers import TensorFlowProbability
from points import Point, group_of
from scipy.special import ive
from truth import Truth, log_normalizer_at_zero, relative_error

NOTHING = (0.0, 0, 0)  # worst finite error, values that are not finite, values


def peer_values(
    points: Sequence[Point], tfp: TensorFlowProbability | None, dtype: torch.dtype
) -> dict[str, np.ndarray]:
    """Log C and A of every peer at all points, in ``dtype``; kappa > 0."""
    name = str(dtype).removeprefix("torch.")
    dim = np.array([point.dim for point in points], dtype=name)
    kappa = np.array([point.kappa for point in points], dtype=name)
    order, log_circle = dim / 2 - 1, dim.dtype.type(math.log(2 * math.pi))

    def log_normalizer(log_bessel: np.ndarray) -> np.ndarray:
        return order * np.log(kappa) - dim / 2 * log_circle - (log_bessel + kappa)

    values = {}
    with np.errstate(all="ignore"):
        if dtype == torch.float64:  # in float32 scipy computes the same and rounds
            bessel = ive(order, kappa)
            values["log C, scipy"] = log_normalizer(np.log(bessel))
            values["A, scipy"] = ive(order + 1, kappa) / bessel
        if tfp is not None:
            log_bessel = np.asarray(tfp.tfp.math.log_bessel_ive(order, kappa))
            values[f"log C, TFP {name}"] = log_normalizer(log_bessel)
            values[f"A, TFP {name}"] = np.asarray(tfp.tfp.math.bessel_iv_ratio(order + 1, kappa))
    return values


def peers_table(
    points: dict[torch.dtype, Sequence[Point]],
    truths: dict[torch.dtype, Sequence[Truth]],
    tfp: TensorFlowProbability | None,
) -> str:
    """Table of each peer's worst finite error in groups of dimensions, and how often it gave no finite value."""
    found: dict[tuple[str, str], tuple[float, int, int]] = {}
    columns: list[str] = []
    for dtype, some in points.items():
        pairs = [(point, true) for point, true in zip(some, truths[dtype], strict=True) if point.kappa > 0]
        for column, values in peer_values([point for point, _ in pairs], tfp, dtype).items():
            columns.append(column)
            for (point, true), value in zip(pairs, values.tolist(), strict=True):
                wanted, scale = true.length, None
                if column.startswith("log C"):
                    at_zero = log_normalizer_at_zero(point.dim)
                    wanted, scale = at_zero - true.log_h, abs(at_zero) + true.log_h
                is_bad = not math.isfinite(value)
                error = 0.0 if is_bad else relative_error(value, wanted, scale)
                key = (group_of(point.dim), column)
                worst, bad, n = found.get(key, NOTHING)
                found[key] = (max(worst, error), bad + is_bad, n + 1)
    columns.sort(key=lambda column: column.split(",")[0], reverse=True)
    groups = sorted({group for group, _ in found}, key=lambda group: int(group.split("-")[0]))
    rows = [[group, *(_cell(*found.get((group, column), NOTHING)) for column in columns)] for group in groups]
    return markdown_table(["dim", *columns], rows)


def _cell(worst: float, bad: int, n: int) -> str:
    if bad == n:
        return "none finite"
    return f"{worst:.0e}" + (f", {bad / n:.0%} not finite" if bad else "")
