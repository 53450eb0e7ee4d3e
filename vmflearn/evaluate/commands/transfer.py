"""Logistic regression on the nine small data sets, the strength chosen by validation (the paper's Table 5)."""

import argparse

import numpy as np
import torch
from torch import Tensor

from vmflearn.data.small_sets import SETS, open_small_set
from vmflearn.evaluate.commands.knn import class_accuracies
from vmflearn.evaluate.commands.labelled import features_of
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.report import Report
from vmflearn.evaluate.transfer import cross_validation, transfer, validation_part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes; ``--data`` is the folder that torchvision is given."""
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS), help="default: all nine")
    parser.add_argument(
        "--validation",
        choices=("five-fold", "ericsson"),
        default="five-fold",
        help="how the strength is chosen: the paper's five folds, or Ericsson's one part (default: %(default)s)",
    )


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """A row for every set; its accuracy is the mean over classes where that is published."""
    assert model is not None
    rows: list[dict[str, object]] = []
    notes: list[str] = []
    details: dict[str, object] = {}
    for name in arguments.sets:
        small = open_small_set(name, arguments.data, seed=arguments.seed)
        parts = [("train", small.train), ("val", small.validation), ("test", small.test)]
        found = [
            (title, features_of(arguments, model, source, f"{name} {title}"))
            for title, source in parts
            if source is not None
        ]
        notes += [f"{name} {title}: {note}" for title, part in found for note in part.notes]
        *training, test = (part for _, part in found)
        x = torch.from_numpy(np.concatenate([part.values for part in training])).to(arguments.device)
        y = torch.cat([part.labels for part in training])
        if arguments.validation == "five-fold":
            folds = cross_validation(y, seed=arguments.seed)
        elif len(training) == 2:
            folds = (torch.arange(len(y)) < len(training[0].labels))[None]
        else:
            folds = validation_part(len(y), seed=arguments.seed)
        n_classes = len(small.train.class_names)
        result = transfer(x, y, test.tensor(arguments.device), folds=folds, n_classes=n_classes)
        right = result.predicted.cpu() == test.labels
        each = class_accuracies(right, test.labels, n_classes)
        accuracy, low, high = _with_interval(right, test.labels, small.per_class, arguments.seed)
        row: dict[str, object] = {"set": name, "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}
        row |= {"of": "mean of classes" if small.per_class else "images", "penalty": result.penalty}
        rows.append({**row, "train_images": len(y), "test_images": len(test.labels)})
        details[name] = {"validation": {f"{w:.4g}": a for w, a in result.validation.items()}, "classes": each}
    return Report("transfer", rows, {}, notes, details)


def _with_interval(right: Tensor, labels: Tensor, per_class: bool, seed: int) -> tuple[float, float, float]:
    """Accuracy and its interval; for the mean of classes every image weighs as much as its class lets it."""
    if not per_class:
        return float(right.double().mean()), *bootstrap_interval(right.numpy())
    counts = torch.bincount(labels)
    weights = len(labels) / (int((counts > 0).sum()) * counts[labels].double())
    values = right.double() * weights
    return float(values.mean()), *bootstrap_interval(values.numpy(), seed=seed)
