"""The sphere against its peers, side by side in one run, on one thread: `make bench`.

Prints a table of times and ratios and writes it, with machine, versions and command, to benchmarks/results/sphere.md.
Ratios are worth more than milliseconds: both sides of each are measured in alternation on the same machine.
"""

import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch
from scipy.special import ive
from scipy.stats import vonmises_fisher
from sklearn.mixture import GaussianMixture

from vmflearn.sphere import VonMisesFisher, VonMisesFisherMixture, log_normalizer
from vmflearn.sphere.bessel import log_hypergeometric_kernel

RESULTS = Path(__file__).parent / "results" / "sphere.md"
ROUNDS = 7


def alternate(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of each, and the median ratio theirs / ours of the paired rounds."""
    pairs = []
    for _ in range(ROUNDS + 1):
        seconds = []
        for work in (ours, theirs):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        pairs.append(seconds)
    pairs = pairs[1:]  # the first round fills caches
    a, b = zip(*pairs, strict=True)
    return statistics.median(a), statistics.median(b), statistics.median(y / x for x, y in pairs)


def normalizer() -> list[tuple[str, str, Callable[[], object], Callable[[], object]]]:
    """65,536 values of log C_256 against scipy's scaled Bessel function; scipy has no gradient."""
    kappa = torch.linspace(1, 1001, 65536, dtype=torch.float64)
    cases = []
    for dtype in (torch.float64, torch.float32):
        values = kappa.to(dtype)
        tracked = values.clone().requires_grad_()

        def with_gradient(tracked: torch.Tensor = tracked) -> None:
            torch.autograd.grad(log_hypergeometric_kernel(tracked, 256).sum(), tracked)

        def scipy_way() -> object:
            return np.log(ive(127, kappa.numpy()))

        name = str(dtype).removeprefix("torch.")
        cases += [
            (f"log C_256, {name}", "scipy ive", lambda v=values: log_normalizer(v, 256), scipy_way),
            (f"log C_256 with gradient, {name}", "scipy ive, no gradient", with_gradient, scipy_way),
        ]
    return cases


def mixture() -> list[tuple[str, str, Callable[[], object], Callable[[], object]]]:
    """Ten EM iterations on 100,000 rows of 64 dimensions with 50 components."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100_000, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    start = rows[:50].copy()

    def ours(rows: np.ndarray) -> None:
        VonMisesFisherMixture(50, init=start.astype(rows.dtype), max_iter=10, tol=0.0).fit(rows)

    def products(rows: np.ndarray) -> None:
        x, means = torch.from_numpy(rows), torch.from_numpy(start.astype(rows.dtype))
        for _ in range(10):
            for chunk in x.split(4096):
                scores = chunk @ means.T
                scores.T @ chunk

    def gaussian() -> None:
        settings = {"covariance_type": "spherical", "means_init": start, "init_params": "random"}
        GaussianMixture(50, max_iter=10, tol=0.0, **settings).fit(rows)

    single = rows.astype(np.float32)
    floor = "the two matrix products of each"
    return [
        ("10 EM iterations, float64", floor, lambda: ours(rows), lambda: products(rows)),
        ("10 EM iterations, float32", floor, lambda: ours(single), lambda: products(single)),
        ("10 EM iterations, float64", "scikit-learn's spherical GaussianMixture", lambda: ours(rows), gaussian),
    ]


def sampling() -> list[tuple[str, str, Callable[[], object], Callable[[], object]]]:
    """1,000 samples in 1,024 dimensions."""
    mean = np.eye(1024)[0]
    distribution = VonMisesFisher(torch.from_numpy(mean), torch.tensor(500.0, dtype=torch.float64))
    rng = np.random.default_rng(0)
    return [
        (
            "1,000 samples, dim 1024",
            "scipy.stats.vonmises_fisher",
            lambda: distribution.sample((1000,)),
            lambda: vonmises_fisher(mean, 500.0).rvs(1000, random_state=rng),
        )
    ]


def main() -> None:
    """Measure everything, print and store the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # ten iterations do not converge, and scipy's Bessel function underflows
    lines = ["| ours | peer | ours (ms) | peer (ms) | peer / ours |", "|---|---|---|---|---|"]
    for group in (normalizer, mixture, sampling):
        for ours, peer, run, other in group():
            a, b, ratio = alternate(run, other)
            lines.append(f"| {ours} | {peer} | {a * 1e3:.2f} | {b * 1e3:.2f} | {ratio:.2f} |")
            print(lines[-1], flush=True)
    about = (
        f"Medians of {ROUNDS} alternating rounds, one thread. {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}, scikit-learn {sklearn.__version__}. Command: `OMP_NUM_THREADS=1 python "
        f"{' '.join(sys.argv)}`.\n"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("# The sphere against its peers\n\n" + about + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
