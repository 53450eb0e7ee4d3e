"""Logistic regression on 1, 2 and 5 images of each class over three splits, and on 1 % of all (the paper's Table 3)."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vmflearn.evaluate.commands.labelled import add_data_arguments, labelled_features
from vmflearn.evaluate.extraction import Features
from vmflearn.evaluate.few_shot import LAMBDAS, draw_per_class, few_shot_hits, rows_named
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.readouts import BEFORE_NORM, OUTPUT
from vmflearn.evaluate.report import Report
from vmflearn.evaluate.splits import open_splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    add_data_arguments(parser)
    parser.add_argument(
        "--reading",
        choices=tuple(LAMBDAS),
        default="msn",
        help="whose features and penalty: MSN's are those of the paper (default: %(default)s)",
    )
    parser.add_argument(
        "--penalty", type=float, nargs="+", help="lambda; default: 0.075 (the paper's) and 0.0025 for msn"
    )
    parser.add_argument("--per-class", type=int, nargs="*", default=[1, 2, 5], help="default: 1 2 5")
    parser.add_argument("--splits", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--share", type=float, default=0.01, help="of all images, drawn in each class; 0: none")
    parser.add_argument(
        "--subset",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="published lists of images instead, the splits of one row",
    )


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Mean and deviation over the splits; the interval is that of the test images."""
    assert model is not None
    if arguments.splits < 1:
        raise ValueError(f"--splits must be 1 or more, got {arguments.splits}")
    if not (arguments.per_class or arguments.share or arguments.subset):
        raise ValueError("nothing is asked for: give numbers with --per-class, a --share, or lists with --subset")
    readout = BEFORE_NORM if arguments.reading == "msn" else OUTPUT
    train, test, names, notes = labelled_features(arguments, model, readout)
    x_test = test.tensor(arguments.device)
    rows: list[dict[str, object]] = []
    for title, splits in _subsets(arguments, train, len(names), notes):
        for penalty in arguments.penalty or LAMBDAS[arguments.reading]:
            hits = []
            for split in splits:
                x = torch.from_numpy(np.array(train.values[split.numpy()])).to(arguments.device)
                settings = {"penalty": penalty, "reading": arguments.reading, "n_classes": len(names)}
                hits.append(few_shot_hits(x, train.labels[split], x_test, test.labels, **settings).double())
            accuracies = torch.stack([hit.mean() for hit in hits])
            low, high = bootstrap_interval(torch.stack(hits).mean(dim=0).numpy(), seed=arguments.seed)
            row = {"train": title, "penalty": penalty, "top1": float(accuracies.mean())}
            row |= {"top1_low": low, "top1_high": high, "splits": len(splits)}
            row["deviation"] = float(accuracies.std()) if len(splits) > 1 else None
            rows.append(row)
    return Report("fewshot", rows, {"features": readout.name, "test_images": len(test.labels)}, notes)


def _subsets(
    arguments: argparse.Namespace, train: Features, n_classes: int, notes: list[str]
) -> Iterator[tuple[str, list[Tensor]]]:
    """A name and the rows of each split, of everything that is asked for."""
    if arguments.subset:
        source, _ = open_splits(arguments.data, test_data=arguments.test_data, root=arguments.data_root)
        place = torch.full((len(source),), -1)
        place[torch.from_numpy(np.array(train.rows))] = torch.arange(len(train.rows))
        found = [place[rows_named(source, file)] for file in arguments.subset]
        lost = sum(int((rows < 0).sum()) for rows in found)
        if lost:
            notes.append(f"{lost} images of the lists cannot be read and were left out")
        yield ", ".join(file.name for file in arguments.subset), [rows[rows >= 0] for rows in found]
        return
    seeds = range(arguments.seed, arguments.seed + arguments.splits)
    for count in arguments.per_class:
        yield f"{count} a class", [draw_per_class(train.labels, count, seed, n_classes) for seed in seeds]
    if arguments.share:
        yield f"{arguments.share:.0%}", [draw_share(train.labels, arguments.share, arguments.seed)]


def draw_share(labels: Tensor, share: float, seed: int) -> Tensor:
    """Rows of a share of each class, one image at least."""
    if not 0 < share <= 1:
        raise ValueError(f"--share must be in (0, 1], got {share}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    members = (order[labels[order] == c] for c in range(int(labels.max()) + 1))
    return torch.cat([rows[: max(1, round(share * len(rows)))] for rows in members]).sort().values
