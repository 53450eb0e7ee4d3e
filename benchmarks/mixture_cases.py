"""EM iterations against their two matrix products, scikit-learn's GaussianMixture, chemomae, spherecluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from measure import Peer, Row, compare, per_step, timed
from peers import TensorFlowProbability, chemomae_fit, spherecluster_step
from sklearn.mixture import GaussianMixture

from vmflearn.sphere import VonMisesFisherMixture

DIM = 64
CHUNK = 4096
FEW, MANY = 2, 10  # iterations of the short and the long fit; the iteration is their difference
NOISE = 1.5  # length of the noise added to each cluster's direction: the clusters overlap
FLOOR_TARGETS = {("soft", "float64"): 1.5, ("soft", "float32"): 1.7, ("hard", "float64"): 0.9, ("hard", "float32"): 1.1}
GAUSSIAN_TARGET = 3.0
SPHERECLUSTER_TARGET = 100.0
# spherecluster gets this share of the rows and its time is scaled: all its loops are over the rows.
SPHERECLUSTER_SHARE = 20


def measure(sizes: Any, tfp: TensorFlowProbability | None) -> list[Row]:
    """One iteration each, in seconds; TensorFlow Probability has no mixture to compare with."""
    del tfp
    rows, start = make_rows(sizes.rows, DIM, sizes.components)
    results = []
    for dtype in (np.float64, np.float32):
        typed, name = rows.astype(dtype), np.dtype(dtype).name
        for assignment in ("soft", "hard"):
            is_soft = assignment == "soft"
            floor = timed(products(typed, start.astype(dtype)), per=1)
            peers = [Peer("its two matrix products", floor, FLOOR_TARGETS[assignment, name], is_floor=True)]
            theirs = chemomae_fit(torch.from_numpy(typed), len(start), CHUNK) if is_soft else None
            if theirs is not None:
                peers.append(Peer("chemomae", per_step(theirs, FEW, MANY)))
            if is_soft and dtype == np.float64:
                peers += _rivals(rows, start)
            ours = per_step(_our_fit(typed, start, assignment), FEW, MANY)
            results += compare(f"EM iteration, {assignment}, {name}", ours, peers, sizes.rounds)
    return results


def make_rows(n: int, dim: int, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in overlapping clusters, and one row of each as a start."""
    rng = np.random.default_rng(0)
    centers = _unit(rng.normal(size=(n_components, dim)))
    labels = rng.integers(n_components, size=n)
    rows = _unit(centers[labels] + rng.normal(size=(n, dim)) * (NOISE / dim**0.5))
    return rows, rows[:n_components].copy()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _our_fit(rows: np.ndarray, start: np.ndarray, assignment: str) -> Any:
    def fit(max_iter: int) -> int:
        mixture = VonMisesFisherMixture(len(start), init=start, assignment=assignment, max_iter=max_iter, tol=0.0)
        return mixture.fit(rows).n_iter_

    return fit


def products(rows: np.ndarray, means: np.ndarray) -> Any:
    """The logits and the resultants of an iteration, by chunks, into buffers: what no EM can do without."""
    x, directions = torch.from_numpy(rows), torch.from_numpy(means)
    buffer, resultants = x.new_empty(CHUNK, len(directions)), torch.zeros_like(directions)

    def run() -> torch.Tensor:
        for chunk in x.split(CHUNK):
            scores = torch.mm(chunk, directions.T, out=buffer[: len(chunk)])
            resultants.addmm_(scores.T, chunk)
        return resultants

    return run


def _rivals(rows: np.ndarray, start: np.ndarray) -> list[Peer]:
    def gaussian_fit(max_iter: int) -> int:
        settings = {"covariance_type": "spherical", "means_init": start, "init_params": "random", "random_state": 0}
        return GaussianMixture(len(start), max_iter=max_iter, tol=0.0, **settings).fit(rows).n_iter_

    gaussian = per_step(gaussian_fit, FEW, MANY)
    rivals = [Peer("scikit-learn's spherical GaussianMixture", gaussian, GAUSSIAN_TARGET)]
    few = rows[: len(rows) // SPHERECLUSTER_SHARE]
    step = spherecluster_step(few, start, float(rows.shape[1]))
    if step is not None:
        scaled = timed(step)
        name = f"spherecluster, 1/{SPHERECLUSTER_SHARE} of the rows, scaled"
        rivals.append(Peer(name, lambda: scaled() * len(rows) / len(few), SPHERECLUSTER_TARGET))
    return rivals
