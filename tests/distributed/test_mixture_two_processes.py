"""The mixture on two processes (gloo) against one process with all the rows."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from vmflearn.sphere import VonMisesFisherMixture, initialization

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# name: settings, beside random_state=3 and tol=1e-4
CASES = {
    "array, free, soft": {"init": "rows"},
    "merged, then k-means++, tied, soft": {"concentration": "tied", "n_init": 2},
    "merged, free, hard, shrunk": {"assignment": "hard", "shrinkage": 0.5},
    "many strides": {"tol": 1e-9, "max_iter": 300},
    "random, free, soft": {"init": "random", "n_init": 2},
    "array, reseeded": {"init": "rows", "assignment": "hard", "empty": "reseed"},
    "a sample for the seeds": {"n_init": 2},
    "sparse": {"concentration": "tied"},
    "float32": {"init": "rows"},
    "online": {},
}
SPLIT = 57  # of 200 rows: the two processes have unequal numbers

SCRIPT = """
import sys, warnings
import numpy as np, torch, torch.distributed as dist
from scipy import sparse
from vmflearn import distributed
from vmflearn.sphere import VonMisesFisherMixture, initialization
sys.path.insert(0, sys.argv[2])
from cases import CASES, SPLIT, fitted, problem

dist.init_process_group("gloo")
first = distributed.rank() == 0
assert torch.equal(distributed.sum_over_processes(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 4.0]))
assert distributed.broadcast_from_first(torch.tensor([1 + distributed.rank()])).item() == 1
own = slice(None, SPLIT) if first else slice(SPLIT, None)
found = {}
for name in CASES:
    mixture = fitted(name, own)
    found[name + "/means"], found[name + "/weights"] = mixture.means_, mixture.weights_
    found[name + "/concentrations"] = mixture.concentrations_
    found[name + "/objectives"] = getattr(mixture, "log_likelihoods_", [])
np.savez(sys.argv[1] + f"/{distributed.rank()}.npz", **found)

X, weight = problem()
def error(**changes):
    try:
        VonMisesFisherMixture(**changes.pop("settings", {})).fit(**{"X": X[own], **changes})
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"
    return "none"

bad = X[own].copy()
if first:
    bad[3, 1] = np.nan
message = error(X=bad)
assert "X contains NaN or infinity in 1 rows, first [3]" in message, message
elsewhere = "ElsewhereError: process 0 could not go on: ValueError: X"
assert message.startswith("ValueError: X" if first else elsewhere), message
message = error(sample_weight=None if first else -weight[own])
assert "sample_weight is negative" in message, message
assert message.startswith("ElsewhereError: process 1" if first else "ValueError: sample_weight"), message
message = error(X=X[own] if first else X[own][:, :3])
assert "n_features differs between processes, [4, 3]" in message, message
message = error(X=X[own] if first else X[own].astype(np.float32))
assert "bytes of a number differs between processes, [8, 4]" in message, message
message = error(settings={"n_components": 2 + first})
assert "n_components differs between processes, [3, 2]" in message, message
message = error(settings={"n_components": 2, "init": np.eye(4)[: 3 - first]})
assert "init differs between processes, array (2, 4), array (3, 4)" in message, message
message = error(X=X[own][:2], settings={"n_components": 5})
assert "n_samples=4 rows" in message, message
# What all must have alike, or one would end before the other: it is named, and nobody waits.
rule = "differs between processes"
message = error(settings={"max_iter": 5 + first})
assert f"max_iter {rule}, 6, 5" in message, message
message = error(settings={"concentration": "tied" if first else "free"})
assert f"concentration {rule}, tied, free" in message, message
message = error(settings={"n_components": 2, "init": np.eye(4)[:2] + 1.0 * first})
assert f"init {rule}, array (2, 4), array (2, 4): give all the same values" in message, message
message = error(settings={"weights_init": [1, 2, 3] if first else None})
assert f"weights_init {rule}, array (3,), None" in message, message
warm = VonMisesFisherMixture(2, random_state=0, tol=1e-2, warm_start=True).fit(X[own])
warm.concentrations_ = warm.concentrations_ + first
for fit in (warm.fit, warm.partial_fit):
    try:
        fit(X[own])
    except ValueError as raised:
        assert f"concentrations_ {rule}" in str(raised), raised
    else:
        raise AssertionError(fit)
VonMisesFisherMixture(2, random_state=int(first), chunk_size=50 + first, max_iter=2).fit(X[own])
# all other verbs are local: the second process does not call this one
mixture = VonMisesFisherMixture(2, random_state=0, tol=1e-2, verbose=1).fit(X[own])
if first:
    assert np.isfinite(mixture.score(X)) and len(mixture.sample(3)[0]) == 3
dist.destroy_process_group()
"""


def problem():
    """200 rows around four directions, and weights."""
    rng = np.random.default_rng(0)
    X = np.eye(4)[rng.integers(0, 4, size=200)] * 2 + rng.normal(size=(200, 4)) * 0.7
    return X, rng.random(200) + 0.5


def fitted(name, own):
    """The mixture of one case, fitted to some of the rows."""
    X, weight = problem()
    settings = {"random_state": 3, "tol": 1e-4, "max_iter": 60, **CASES[name]}
    if name == "array, reseeded":
        settings["init"] = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.7, 0.7, 0.1, 0]])
    elif "init" in settings and settings["init"] == "rows":
        settings["init"] = X[[0, 60, 120, 180]]
    mixture = VonMisesFisherMixture(4, chunk_size=50, **settings)
    if name == "online":
        for batch in range(3):  # every third row
            rows = np.arange(200)[own]
            rows = rows[rows % 3 == batch]
            mixture.partial_fit(X[rows], sample_weight=weight[rows])
        return mixture
    rows = X[own].astype(np.float32) if name == "float32" else X[own]
    initialization.SEED_ROWS = 80 if name == "a sample for the seeds" else 2**16
    return mixture.fit(sparse.csr_array(np.maximum(rows, 0)) if name == "sparse" else rows, sample_weight=weight[own])


@pytest.mark.filterwarnings("ignore")
def test_two_processes_fit_like_one(tmp_path, monkeypatch):
    monkeypatch.setattr(initialization, "SEED_ROWS", initialization.SEED_ROWS)  # put back what fitted() changes
    source = Path(__file__).read_text(encoding="utf-8")
    (tmp_path / "cases.py").write_text(source, encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    import preloaded  # the processes import this file too, where there is none

    done = preloaded.together(2, [tmp_path / "script.py", tmp_path, tmp_path], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("EM, start 1 of 1: ") > 0  # the bar of the first process
    zero, one = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    for key in zero.files:
        np.testing.assert_array_equal(zero[key], one[key], err_msg=key)
    for name in CASES:
        expected = fitted(name, slice(None))
        loose = name == "float32"
        for key, values in {
            "means": expected.means_,
            "weights": expected.weights_,
            "concentrations": expected.concentrations_,
            "objectives": getattr(expected, "log_likelihoods_", []),
        }.items():
            tolerance = {"rtol": 1e-4, "atol": 1e-4} if loose else {"rtol": 1e-10, "atol": 1e-10}
            found = zero[f"{name}/{key}"]
            np.testing.assert_allclose(found, values, err_msg=f"{name}, {key}", **tolerance)
