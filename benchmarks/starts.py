"""Where expectation-maximisation starts, and where it ends: the default start against others.

    python benchmarks/starts.py             # eight draws of each case, three minutes on one core
    python benchmarks/starts.py --seeds 3

Planted cases have K components of random directions, weights from a Dirichlet distribution with parameter 5 and mean
resultant lengths uniform in an interval, so that they overlap. The figure is by how much the log-likelihood of half as
many new rows, in nats a row, lies below that of the true parameters; "the truth" is where EM ends that starts from
them, which no start can be asked to beat by much. For real rows it is the log-likelihood of a third of them, left out,
below the best of all starts. Judged are the first three planted cases: what lies below, and the time beside that of
k-means++, which was the default before. Writes starts.md in benchmarks/results.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import RESULTS, duration, environment, markdown_table, one_core
from sklearn.datasets import load_digits

from vmflearn.sphere import VonMisesFisher, VonMisesFisherMixture, concentration_from_length

PACKAGES = ["torch", "numpy", "scipy", "scikit-learn"]
# dim, components, rows, interval of mean resultant lengths
PLANTED = [
    (64, 50, 8000, (0.35, 0.7)),
    (384, 20, 4000, (0.3, 0.6)),
    (16, 8, 4000, (0.5, 0.9)),
    (3, 5, 2000, (0.6, 0.95)),
]
JUDGED = PLANTED[:3]
DEFAULT, BEFORE = "merged groups (the default)", "k-means++"
MOST_BELOW, MOST_TIME = 0.05, 1.5
DIGITS = [(10, False), (20, True)]  # components, whether the mean is taken off

Fit = Callable[[np.ndarray, int, int], VonMisesFisherMixture]


def _fit(rows: np.ndarray, n_components: int, seed: int, **settings: object) -> VonMisesFisherMixture:
    return VonMisesFisherMixture(n_components, random_state=seed, **settings).fit(rows)


def _tied_first(rows: np.ndarray, n_components: int, seed: int) -> VonMisesFisherMixture:
    first = _fit(rows, n_components, seed, init="k-means++", concentration="tied", max_iter=10)
    return _fit(rows, n_components, seed, init=first.means_)


def _best_of_short(rows: np.ndarray, n_components: int, seed: int) -> VonMisesFisherMixture:
    first = _fit(rows, n_components, seed, init="k-means++", concentration="tied", max_iter=5, n_init=4)
    return _fit(rows, n_components, seed, init=first.means_)


STARTS: dict[str, Fit] = {
    DEFAULT: lambda rows, k, seed: _fit(rows, k, seed),
    BEFORE: lambda rows, k, seed: _fit(rows, k, seed, init="k-means++"),
    "k-means++, ten steps tied first": _tied_first,
    "k-means++, best of four of five steps": _best_of_short,
    "random responsibilities": lambda rows, k, seed: _fit(rows, k, seed, init="random"),
}


def planted(
    dim: int, n_components: int, n: int, lengths: tuple[float, float], seed: int
) -> tuple[np.ndarray, np.ndarray, VonMisesFisherMixture]:
    """Rows, new rows, and the mixture that they are of."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    truth = VonMisesFisherMixture(n_components)
    means = rng.normal(size=(n_components, dim))
    truth.means_ = means / np.linalg.norm(means, axis=1, keepdims=True)
    truth.weights_ = rng.dirichlet(np.full(n_components, 5.0))
    truth.concentrations_ = concentration_from_length(rng.uniform(*lengths, size=n_components), dim).numpy()
    truth.n_features_in_ = dim
    labels = rng.choice(n_components, size=n + n // 2, p=truth.weights_)
    rows = VonMisesFisher(truth.means_[labels], torch.from_numpy(truth.concentrations_[labels])).sample().numpy()
    return rows[:n], rows[n:], truth


def compare_planted(case: tuple[int, int, int, tuple[float, float]], seeds: int) -> list[list[str]]:
    """Lines of the table for one planted case."""
    dim, n_components, n, lengths = case
    found: dict[str, list[tuple[float, float, int]]] = {}
    for seed in range(seeds):
        rows, new, truth = planted(dim, n_components, n, lengths, seed)
        starts = {**STARTS, "the truth": lambda rows, k, s, truth=truth: _fit(rows, k, s, init=truth.means_)}
        for name, fit in starts.items():
            begin = time.process_time()
            mixture = fit(rows, n_components, seed)
            seconds = time.process_time() - begin
            found.setdefault(name, []).append((truth.score(new) - mixture.score(new), seconds, mixture.n_iter_))
    return _lines(f"planted, {n:,} x {dim}, K = {n_components}", found, case in JUDGED)


def compare_digits(n_components: int, centred: bool, seeds: int) -> list[list[str]]:
    """Lines of the table for scikit-learn's 1,797 digits of 8 x 8 pixels."""
    found: dict[str, list[tuple[float, float, int]]] = {}
    for seed in range(seeds):
        rows = np.random.default_rng(seed).permutation(load_digits().data)
        rows = rows - rows.mean(axis=0) if centred else rows
        scores = {}
        for name, fit in STARTS.items():
            begin = time.process_time()
            mixture = fit(rows[599:], n_components, seed)
            scores[name] = (mixture.score(rows[:599]), time.process_time() - begin, mixture.n_iter_)
        best = max(score for score, _, _ in scores.values())
        for name, (score, seconds, steps) in scores.items():
            found.setdefault(name, []).append((best - score, seconds, steps))
    return _lines(f"digits{', less their mean' if centred else ''}, 1,198 x 64, K = {n_components}", found, False)


def _lines(case: str, found: dict[str, list[tuple[float, float, int]]], is_judged: bool) -> list[list[str]]:
    lines = []
    before = statistics.mean(seconds for _, seconds, _ in found[BEFORE])
    for name, results in found.items():
        gaps, seconds, steps = (list(column) for column in zip(*results, strict=True))
        below, share = statistics.mean(gaps), statistics.mean(seconds) / before
        verdicts = ["met" if is_met else "**missed**" for is_met in (below <= MOST_BELOW, share <= MOST_TIME)]
        if not is_judged or name != DEFAULT:
            verdicts = ["", ""]
        time_taken = [duration(statistics.mean(seconds)), f"{share:.2f}", verdicts[1]]
        figures = [f"{below:.3f}", verdicts[0], f"{max(gaps):.3f}", *time_taken, f"{statistics.mean(steps):.0f}"]
        lines.append([case, name, *figures])
    return lines


def main(argv: list[str]) -> None:
    """Fit every case from every start, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, help="draws of each case")
    parser.add_argument("--quick", action="store_true", help="one small case, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for starts.md")
    settings = parser.parse_args(argv)
    lines = []
    with one_core(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps do not converge
        for case in [(3, 2, 200, (0.6, 0.9))] if settings.quick else PLANTED:
            lines += compare_planted(case, settings.seeds)
        for n_components, centred in [] if settings.quick else DIGITS:
            lines += compare_digits(n_components, centred, settings.seeds)
    head = ["rows", "start", "below, mean", f"≤ {MOST_BELOW:g}", "below, worst"]
    head += ["time", f"over that of {BEFORE}", f"≤ {MOST_TIME:g}", "steps"]
    text = (
        f"# Where EM starts, and where it ends\n\nNats a row of left-out rows below the true parameters (planted) or "
        f"below the best start (real), over {settings.seeds} draws; processor time to convergence, start included.\n\n"
        f"{environment('starts.py', argv, PACKAGES)}\n\n{markdown_table(head, lines)}"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "starts.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
