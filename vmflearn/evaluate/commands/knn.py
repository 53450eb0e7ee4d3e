"""Classify by a weighted vote of the nearest training images, for several numbers of neighbours at once."""

import argparse

import torch

from vmflearn.evaluate.commands.labelled import add_data_arguments, labelled_features
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.knn import KS, TEMPERATURE, knn_votes
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    add_data_arguments(parser)
    parser.add_argument(
        "--k", type=int, nargs="+", help=f"default: those of {' '.join(map(str, KS))} for which there are images"
    )
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="default: %(default)s")


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Accuracies for every k; among the details those of each class, and every image's rank of its class."""
    assert model is not None
    train, test, names, notes = labelled_features(arguments, model)
    ks = arguments.k or [k for k in KS if k <= len(train.labels)] or [1]
    votes = knn_votes(
        train.values,
        train.labels,
        test.tensor(arguments.device),
        test.labels,
        ks=ks,
        temperature=arguments.temperature,
        n_classes=len(names),
    )
    rows: list[dict[str, object]] = []
    details: dict[str, object] = {"class_names": list(names)}
    for vote in votes:
        row: dict[str, object] = {"k": vote.k}
        for top in (1, 5):
            right = vote.hits(top).cpu()
            low, high = bootstrap_interval(right.numpy())
            row |= {f"top{top}": float(right.double().mean()), f"top{top}_low": low, f"top{top}_high": high}
        rows.append(row)
        details[f"k={vote.k}"] = {
            "top1_of_each_class": class_accuracies(vote.hits().cpu(), test.labels, len(names)),
            "rank_of_each_image": vote.rank.tolist(),
        }
    settings = {"k": list(ks), "train_images": len(train.labels), "test_images": len(test.labels)}
    return Report("knn", rows, settings, notes, details)


def class_accuracies(right: torch.Tensor, labels: torch.Tensor, n_classes: int) -> list[float | None]:
    """Share of right answers among the images of each class; None where it has none."""
    counts = torch.bincount(labels, minlength=n_classes).tolist()
    hits = torch.bincount(labels[right], minlength=n_classes).tolist()
    return [hit / count if count else None for hit, count in zip(hits, counts, strict=True)]
