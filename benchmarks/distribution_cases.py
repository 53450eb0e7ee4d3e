"""Sampling and maximum likelihood, against scipy.stats.vonmises_fisher, TensorFlow Probability and power_spherical."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import Peer, Row, Timer, compare, duration, markdown_table, timed
from peers import TensorFlowProbability, power_spherical
from scipy.stats import vonmises_fisher

from vmflearn.sphere import VonMisesFisher

# Times faster than scipy, by dimension and type.
SAMPLING_TARGET = {
    (3, torch.float64): 3.0,
    (3, torch.float32): 3.0,
    (64, torch.float64): 4.0,
    (1024, torch.float64): 60.0,
    (1024, torch.float32): 60.0,
}
GRADIENT_TARGET = {3: 1.0, 64: 1.0}  # times as fast as power_spherical, by dimension
LARGEST_DRAW = 2**20  # coordinates drawn at once
KAPPA_PER_DIM = 4.47  # of the fits: A is about 0.9
FIT_TARGET = {1024: 0.01}  # relative error of kappa, by dimension


def measure_sampling(sizes: Any, tfp: TensorFlowProbability | None) -> list[Row]:
    """Time a sample, in blocks of many; concentration dim / 2."""
    rows = []
    for dim in sizes.dims:
        n = min(sizes.samples, LARGEST_DRAW // dim)
        mean, kappa = np.full(dim, dim**-0.5), dim / 2
        random, theirs = np.random.default_rng(0), vonmises_fisher(mean, kappa)
        scipy = timed(lambda theirs=theirs, random=random, n=n: theirs.rvs(n, random_state=random), n)
        for dtype in (torch.float64, torch.float32):
            ours = VonMisesFisher(torch.from_numpy(mean).to(dtype), torch.tensor(kappa, dtype=dtype))
            name, normal = _normal_numbers(n, dim, dtype)
            peers = [
                Peer("scipy.stats.vonmises_fisher", scipy, SAMPLING_TARGET.get((dim, dtype))),
                Peer(name, timed(normal, n), is_floor=True),
            ]
            if tfp is not None:
                peers.append(Peer("TensorFlow Probability", timed(tfp.samples(ours.loc.numpy(), kappa, n), n)))
            what = f"{n:,} samples, dim {dim}, {str(dtype).removeprefix('torch.')}"
            rows += compare(what, timed(lambda ours=ours, n=n: ours.sample((n,)), n), peers, sizes.rounds)
        rows += _reparameterized(mean, kappa, n, sizes.rounds)
    return rows


def _normal_numbers(n: int, dim: int, dtype: torch.dtype) -> tuple[str, Callable[[], object]]:
    """The floor: as many normal numbers, from the faster of torch's and NumPy's generators."""
    if dtype == torch.float64:
        random = np.random.default_rng(1)
        return "numpy's normal numbers", lambda: random.standard_normal((n, dim))
    return "torch.randn", lambda: torch.randn(n, dim, dtype=dtype)


def _reparameterized(mean: np.ndarray, kappa: float, n: int, rounds: int) -> list[Row]:
    """`rsample` in float32 and the gradients of both parameters, over `sample`, and against power_spherical's."""
    loc = torch.from_numpy(mean).float().requires_grad_()
    concentration = torch.tensor(kappa, dtype=torch.float32, requires_grad=True)
    plain = VonMisesFisher(loc.detach(), concentration.detach())

    def with_gradients(tracked: torch.distributions.Distribution) -> Timer:
        return timed(lambda: torch.autograd.grad(tracked.rsample((n,)).square().sum(), (loc, concentration)), n)

    peers = [Peer("sample", timed(lambda: plain.sample((n,)), n), is_floor=True)]
    theirs = power_spherical(loc, concentration)
    if theirs is not None:
        peers.append(Peer("power_spherical", with_gradients(theirs), GRADIENT_TARGET.get(len(mean))))
    what = f"{n:,} rsamples and gradients, dim {len(mean)}, float32"
    return compare(what, with_gradients(VonMisesFisher(loc, concentration)), peers, rounds)


def fit_table(sizes: Any) -> str:
    """Concentrations recovered by both from samples drawn here, with their relative errors and times."""
    head = ["dim", "true κ", "ours", "relative error", "time", "scipy's fit", "relative error", "time", "target"]
    rows = []
    for dim in sizes.fit_dims:
        torch.manual_seed(dim)
        kappa = KAPPA_PER_DIM * dim
        mean = torch.full((dim,), dim**-0.5, dtype=torch.float64)
        data = VonMisesFisher(mean, torch.tensor(kappa, dtype=torch.float64)).sample((sizes.fit_rows,))
        start = time.perf_counter()
        ours = float(VonMisesFisher.fit(data).concentration)
        middle = time.perf_counter()
        theirs = float(vonmises_fisher.fit(data.numpy())[1])
        end = time.perf_counter()
        cells = []
        for found, took in ((ours, middle - start), (theirs, end - middle)):
            cells += [f"{found:.6g}", f"{abs(found / kappa - 1):.2%}", duration(took)]
        target = FIT_TARGET.get(dim)
        is_met = target is not None and abs(ours / kappa - 1) <= target
        verdict = "" if target is None else f"ours ≤ {target:.0%}: {'met' if is_met else '**missed**'}"
        rows.append([str(dim), f"{kappa:.6g}", *cells, verdict])
    return f"{sizes.fit_rows:,} samples.\n\n" + markdown_table(head, rows)
