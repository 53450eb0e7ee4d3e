"""Protocols against the bare arithmetic under them, and against scikit-learn and faiss.

    python benchmarks/evaluation.py               # the sizes of the targets: about an hour on two idle cores
    python benchmarks/evaluation.py --reduced     # fewer test images, and smaller paths: some minutes
    python benchmarks/evaluation.py --quick       # tiny sizes, to see that it runs; targets are not judged
    python benchmarks/evaluation.py --only path   # one part; printed, and not written
    python benchmarks/evaluation.py --large       # memory alone, of ImageNet's numbers: half an hour, 4 GB of disk

Before anything is timed, classes are asserted to be equal, and scikit-learn's tolerance is lowered until its objectives
are within a millionth of ours, or come no lower. Prints a table and writes it, with machine, versions and command, to
evaluation.md in benchmarks/results.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from loss_memory import resident_mib
from measure import RESULTS, ROW_HEAD, Peer, Row, compare, environment, markdown_table, one_core, timed
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from vmflearn.backbones.creation import create_backbone
from vmflearn.data.sources import open_images
from vmflearn.evaluate.extraction import extract
from vmflearn.evaluate.knn import knn_predict, knn_votes
from vmflearn.evaluate.linear import RATES, LinearSweep
from vmflearn.evaluate.logistic import logistic_path
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.readouts import last_blocks
from vmflearn.evaluate.transfer import cross_validation

CLOSE = 1e-6


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    train: int
    test: int
    width: int
    path: tuple[int, int, int]  # images, features, classes
    penalties: int
    backbone: str
    images: int
    classes: int


FULL = Sizes(3, 100_000, 10_000, 384, (5000, 384, 100), 45, "vit_small_patch16_224", 64, 1000)
REDUCED = Sizes(2, 100_000, 1000, 384, (500, 48, 10), 45, "vit_small_patch16_224", 16, 1000)
QUICK = Sizes(1, 300, 50, 16, (60, 8, 3), 3, "test_vit", 4, 10)


def clusters(n: int, width: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of overlapping classes, their variance falling a hundredfold over the axes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (n,), generator=generator)
    x = 0.5 * centres[labels] + torch.randn(n, width, generator=generator)
    return x * torch.logspace(0.5, -0.5, width), labels


def measure_knn(sizes: Sizes) -> tuple[list[Row], float]:
    """K = 20 against the product alone, scikit-learn and faiss; and mebibytes above the features."""
    (train, labels), (test, _) = (clusters(n, sizes.width, 100, i) for i, n in enumerate((sizes.train, sizes.test)))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: making the features took more
    before = resident_mib("VmRSS")
    ours = knn_predict(train, labels, test)
    memory = resident_mib("VmHWM") - before
    unit, unit_test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    theirs = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    theirs.fit(train.numpy(), labels.numpy())
    part = slice(0, 200)
    agree = float(np.mean(theirs.predict(test[part].numpy()) == ours[part].numpy()))
    assert agree > 0.99, agree

    products = torch.empty(1024, len(unit))  # fresh memory for each chunk would take half as long again

    def product() -> None:
        for chunk in unit_test.split(1024):
            torch.mm(chunk, unit.T, out=products[: len(chunk)])

    peers = [
        Peer("the product alone", timed(product), 1.4, is_floor=True),
        Peer("scikit-learn, brute force", timed(lambda: theirs.predict(test.numpy())), 3.0),
    ]
    try:
        import faiss
    except ImportError:
        print("faiss cannot be imported, and is left out")
    else:
        faiss.omp_set_num_threads(1)

        def search() -> None:
            index = faiss.IndexFlatIP(sizes.width)
            index.add(unit.numpy())
            index.search(unit_test.numpy(), 20)

        peers.append(Peer("faiss, flat index (neighbours alone)", timed(search), 1.0))
    what = f"kNN, {sizes.train:,} x {sizes.test:,} x {sizes.width}, k = 20"
    return compare(what, timed(lambda: knn_predict(train, labels, test)), peers, sizes.rounds), memory


def measure_large(n: int, m: int, width: int, folder: Path) -> str:
    """Memory of kNN with as many images as ImageNet has, the training features in a memory-mapped file."""
    path = folder / "train.npy"
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, width))
    generator = np.random.default_rng(0)
    for start in range(0, n, 65_536):
        rows[start : start + 65_536] = generator.standard_normal((len(rows[start : start + 65_536]), width), np.float32)
    rows.flush()
    del rows
    train = np.load(path, mmap_mode="r")
    labels, classes = torch.arange(n) % 1000, torch.arange(m) % 1000
    test = torch.from_numpy(train[:m] + np.float32(0.5) * generator.standard_normal((m, width), np.float32))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident_mib("VmRSS"), time.process_time()
    votes = knn_votes(train, labels, test, classes, ks=(10, 20, 100, 200))
    seconds, peak = time.process_time() - start, resident_mib("VmHWM")
    share = float(votes[0].hits().float().mean())
    assert share > 0.99, f"{share}: each test row is a disturbed training row of its class"
    return (
        f"kNN of {m:,} x {n:,} x {width}, k = 10, 20, 100 and 200 in one search, the training features in a file of "
        f"{path.stat().st_size / 2**30:.2f} GiB: {(peak - before) / 1024:.2f} GiB above what was there, pages of "
        f"the file counted; the whole process {peak / 1024:.2f} GiB at most (target: 8). {seconds:,.0f} s of processor "
        f"time. {100 * share:.2f} % of the test rows, which are disturbed training rows, were given their class.\n"
    )


def measure_path(sizes: Sizes) -> list[Row]:
    """A path of penalties times five folds, against a loop over scikit-learn that ends as low, or as low as it can."""
    (n, width, classes), penalties = sizes.path, np.logspace(-1, 5, sizes.penalties)
    x, y = clusters(n, width, classes, 2)
    strengths = sorted(1 / penalties)
    folds = cross_validation(y, 5)
    rows, targets = x.double().numpy(), y.numpy()
    tolerance = 1e-6

    def ours() -> list[float]:
        return [float(fit.objectives[0]) for fit in logistic_path(x, y, strengths, folds=folds, intercept=True)]

    def loop(kept: np.ndarray) -> list[float]:
        """Objectives of one fold by scikit-learn, each from the solution before."""
        solver = LogisticRegression(solver="lbfgs", warm_start=True, tol=tolerance, max_iter=100_000)
        found = []
        for strength in strengths:
            solver.set_params(C=strength).fit(rows[kept], targets[kept])
            scores = torch.from_numpy(solver.decision_function(rows[kept]))
            loss = F.cross_entropy(scores, y[torch.from_numpy(kept)], reduction="sum")
            found.append(float(loss) + (solver.coef_**2).sum() / (2 * strength))
        return found

    first = folds[0].numpy()
    low = np.array(ours())
    excess = float(np.max(np.array(loop(first)) / low - 1))
    while excess >= CLOSE:  # as exact as it must be, and no more
        print(f"tolerance of scikit-learn {tolerance:g}: objectives at most {excess:.2g} above ours", flush=True)
        before, tolerance = excess, tolerance / 10
        excess = float(np.max(np.array(loop(first)) / low - 1))
        if excess > 0.9 * before:  # it ends where a step lowers the objective by less than 64 times the rounding
            excess, tolerance = before, tolerance * 10
            break
    print(f"tolerance of scikit-learn {tolerance:g}: objectives at most {excess:.2g} above ours", flush=True)
    name = f"scikit-learn, lbfgs, tol = {tolerance:g}, objectives at most {excess:.2g} above ours"
    peer = Peer(name, timed(lambda: [loop(fold.numpy()) for fold in folds]), 5.0)
    what = f"path, {sizes.penalties} penalties from 0.1 to 1e5 x 5 folds, {n:,} x {width}, {classes} classes"
    return compare(what, timed(ours), [peer], 1)


def measure_network(sizes: Sizes) -> list[Row]:
    """A step of ten learning rates against one, and extraction from files against the forward pass."""
    torch.manual_seed(0)
    model = Model(create_backbone(sizes.backbone).eval(), None, "", "")
    images = torch.randn(sizes.images, 3, 224, 224)
    labels, readout = torch.arange(sizes.images) % sizes.classes, last_blocks(4)
    width = 4 * model.backbone.num_features

    def step(rates: tuple[float, ...]) -> object:
        sweep = LinearSweep(rates, width, sizes.classes, epochs=10)

        def work() -> None:
            with torch.no_grad():
                sweep.step(readout.read(model.backbone, images), labels)

        return timed(work)

    one = Peer("one learning rate", step(RATES[:1]), 1.2, is_floor=True)
    rows = compare(f"linear step of ten learning rates, batch {sizes.images}", step(RATES), [one], sizes.rounds)

    def forward() -> None:
        with torch.no_grad():
            for batch in images.split(16):
                model.backbone(batch)

    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC)
        for i in range(sizes.images):
            picture.save(Path(folder) / f"{i}.jpg", quality=90)
        source = open_images(folder)
        bare = Peer("the forward pass alone", timed(forward), 1 / 0.9, is_floor=True)
        what = f"features of {sizes.images} JPEG files of 500 x 375, {sizes.backbone}"
        return rows + compare(what, timed(lambda: extract(model, source, batch_size=16)), [bare], sizes.rounds)


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit status is 1 where a target is missed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("knn", "network", "path"))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    settings = parser.parse_args(arguments)
    if settings.large:
        numbers = (3000, 200, 64) if settings.quick else (1_281_167, 50_000, 768)
        with tempfile.TemporaryDirectory() as folder:
            print(measure_large(*numbers, Path(folder)))
        return 0
    sizes = QUICK if settings.quick else REDUCED if settings.reduced else FULL
    rows: list[Row] = []
    memory = 0.0
    with one_core():
        if settings.only in (None, "knn"):
            rows, memory = measure_knn(sizes)
            print(markdown_table(ROW_HEAD, [row.cells() for row in rows]), flush=True)
        if settings.only in (None, "network"):
            rows += measure_network(sizes)
            print(markdown_table(ROW_HEAD, [row.cells() for row in rows]), flush=True)
        if settings.only in (None, "path"):
            rows += measure_path(sizes)
    if settings.only:
        print(markdown_table(ROW_HEAD, [row.cells() for row in rows]), f"memory of kNN: {memory:,.0f} MiB", sep="\n")
        return 0
    if settings.quick:
        rows = [replace(row, target=None) for row in rows]
    text = (
        "# Judging a representation\n\n"
        f"Processor time on one core: medians of {sizes.rounds} alternating rounds (the path: one), and of the ratios "
        "within a round. Before anything was timed, predictions agreed with scikit-learn's, and its tolerance was "
        "lowered until its objectives came within a millionth of ours, or came no lower. kNN took "
        f"{memory:,.0f} MiB above the features (target: 2,048).\n\n"
        + environment("evaluation.py", arguments, ["torch", "scikit-learn", "faiss-cpu", "timm"])
        + "\n\n"
        + markdown_table(ROW_HEAD, [row.cells() for row in rows])
    )
    print(text)
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "evaluation.md").write_text(text, encoding="utf-8")
    missed = memory > 2048 or any(row.met is False for row in rows)
    return int(missed and not settings.quick)


if __name__ == "__main__":
    sys.exit(main())
