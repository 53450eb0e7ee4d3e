"""Two processes (gloo) that are given different things: both are told so, or it makes no difference; neither waits.

An exchange that the other process does not take part in ends here after ten seconds, and fails the test.
"""

import os
import subprocess
import sys

import numpy as np
import preloaded
import pytest
from PIL import Image

from vmflearn.sphere import VonMisesFisherMixture, choose_components

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

START = """
import datetime, sys, warnings
from pathlib import Path
import numpy as np, torch, torch.distributed as dist
from vmflearn.distributed import ElsewhereError
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=10))
rank, folder = dist.get_rank(), Path(sys.argv[1])

def refused(work, words, by=0):
    try:
        work()
    except ElsewhereError as error:
        assert rank != by and str(error).startswith(f"process {by} could not go on: ") and words in str(error), error
    except (ValueError, OSError) as error:
        assert rank == by and words in str(error), error
    else:
        raise AssertionError("not refused")
"""

CHOICE = """
from vmflearn.sphere import VonMisesFisherMixture, choose_components
X, weight = np.load(folder / "rows.npy"), np.load(folder / "weights.npy")
own = slice(None, 4) if rank == 0 else slice(4, None)  # fewer rows than folds on the first one
mixture = VonMisesFisherMixture(random_state=5 * (rank == 0), tol=1e-3)  # the first process draws
for criterion in ("bic", "aic", "held-out"):
    found = choose_components(mixture, X[own], [1, 2, 3], criterion, sample_weight=weight[own])
    np.savez(folder / f"{criterion}-{rank}.npz", scores=found.scores, best=found.best, means=found.mixture.means_)

refused(lambda: choose_components(mixture, X[own], [1, "2"] if rank else [1, 2]), "each of candidates must be", by=1)
refused(lambda: choose_components(mixture, X[own], [1], sample_weight=weight if rank else weight[own]),
        "sample_weight has shape (60,)", by=1)
for given in ({"candidates": [1, 2, 3][: 2 + rank]}, {"candidates": [1], "criterion": ("bic", "aic")[rank]}):
    try:
        choose_components(mixture, X[own], **given)
    except ValueError as error:
        assert "differs between processes" in str(error), error
    else:
        raise AssertionError("not refused")
settings = {"random_state": "a" if rank else 0}
refused(lambda: VonMisesFisherMixture(**settings).fit(X[own]), "random_state must be an integer from 0", by=1)
settings = {"init": (lambda: 0) if rank else "merge"}
refused(lambda: VonMisesFisherMixture(**settings).fit(X[own]), "init must be a real number, an array or", by=1)
"""

TRAINING = """
from vmflearn.train import load_config, pretrain
SETTINGS = ["views.global_size=16", "views.n_local=0", "head.out_dim=16", "head.hidden_dim=16",
    "head.bottleneck_dim=8", "optimizer.batch_size=4", "optimizer.warmup_epochs=0", "run.epochs=1", "run.knn_k=1",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}", "run.max_steps=1"]

def train(name, *more, device="cpu", **settings):
    pretrain(load_config(None, [*SETTINGS, f"run.device={device}", *more]), folder / name, **settings)

images = ["data.source=folder", f"data.root={folder}/a", f"data.val_root={folder}/a"]
train("run", quiet=rank == 1)
refused(lambda: train("none", quiet=True, profile=-rank), "--profile must be a number of steps", by=1)
refused(lambda: train("none", quiet=True, device=("cpu", "cuda:99")[rank]), "run.device=cuda:99 cannot be used", by=1)
refused(lambda: train("none", *images[:2], f"data.val_root={folder}/{'ab'[rank]}", quiet=True),
        "process 1 sees other images in data.val_root than the first one; give all nodes the same")
refused(lambda: train("none", images[0], f"data.root={folder}/{'ac'[rank]}", quiet=True),
        "c does not exist; give a folder", by=1)
"""

EVALUATION = """
import runpy
from vmflearn.backbones.creation import create_backbone
from vmflearn.data.sources import open_images
from vmflearn.evaluate.extraction import extract
from vmflearn.evaluate.model import load_model
from vmflearn.evaluate.parts import rows_in_parts
model = load_model(folder / "run")
sources = [open_images(folder / name) for name in "ab"]
differ = "processes that work together differ: "
refused(lambda: extract(model, sources[rank]), differ + "images is ")
refused(lambda: extract(model, sources[0], cache=folder / "cache" if rank else None),
        differ + "cache is none on process 0, given on process 1")
refused(lambda: rows_in_parts(3 + rank, lambda numbers: torch.zeros(len(numbers), 2), what=""),
        differ + "images is 3 on process 0, 4 on process 1")
key = {"size": 8 + rank, "folder": f"/node{rank}"}
refused(lambda: rows_in_parts(3, lambda numbers: torch.zeros(len(numbers), 2), what="", key=key),
        differ + "size is 8 on process 0, 9 on process 1; give all the same")
dist.destroy_process_group()  # the command makes its own
script = runpy.run_path(sys.argv[2])
def evaluate(protocol, *more):
    sys.argv = ["evaluate.py", protocol, "--checkpoint", str(folder / "run"), "--device", "cpu", *map(str, more)]
    return script["main"]()
data = ["--data", "photos"]
assert evaluate("linear", *data, "--blocks", "1", "--frozen", "--epochs", 1 + rank) == 2
assert evaluate("prototypes", *(data if rank else [])) == 2
"""


def folders(path):
    """Two folders of images in two classes, the second with one image more."""
    rng = np.random.default_rng(0)
    for name, count in (("a", 4), ("b", 5)):
        for label in ("x", "y"):
            (path / name / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, size=(16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / name / label / f"{i}.png")


def torchrun(script, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([str(w) for w in command], capture_output=True, text=True, env=environment, timeout=200)


def test_a_choice_is_that_of_one_process_with_all_rows(tmp_path):
    rng = np.random.default_rng(1)
    X, weight = np.eye(3)[rng.integers(0, 2, size=60)] + 0.3 * rng.normal(size=(60, 3)), rng.random(60) + 0.5
    np.save(tmp_path / "rows.npy", X)
    np.save(tmp_path / "weights.npy", weight)
    (tmp_path / "choose.py").write_text(START + CHOICE + "dist.destroy_process_group()\n")
    done = preloaded.together(2, [tmp_path / "choose.py", tmp_path])
    assert done.returncode == 0, done.stderr[-3000:]
    mixture = VonMisesFisherMixture(random_state=5, tol=1e-3)
    for criterion in ("bic", "aic", "held-out"):
        alone = choose_components(mixture, X, [1, 2, 3], criterion, sample_weight=weight)
        for rank in (0, 1):
            found = np.load(tmp_path / f"{criterion}-{rank}.npz")
            np.testing.assert_allclose(found["scores"], alone.scores, rtol=1e-9)
            np.testing.assert_allclose(found["means"], alone.mixture.means_, rtol=1e-6, atol=1e-9)
            assert found["best"] == alone.best == 2


def test_training_and_evaluation(tmp_path, request):
    folders(tmp_path)
    (tmp_path / "work.py").write_text(START + TRAINING + EVALUATION)
    done = torchrun(tmp_path / "work.py", tmp_path, request.config.rootpath / "scripts" / "evaluate.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("kNN top-1 before training") == 1, "the first process says it, if it says anything"
    assert "--epochs is 1 on process 0, 2 on process 1" in done.stderr
    assert "--data is none on process 0, given on process 1; give all the same" in done.stderr
