"""Classify by a weighted vote of the nearest training images (k = 10, 20, 100, 200; T = 0.07)."""

import argparse
from dataclasses import replace

from vmflearn.evaluate.extraction import extract
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.knn import knn_predict
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.report import Report
from vmflearn.evaluate.splits import open_splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    parser.add_argument("--test-data", help="the test images, where --data is the training images themselves")
    parser.add_argument("--data-root", help="where a set known by name lies")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 20, 100, 200], help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.07, help="default: %(default)s")


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Accuracies for every k."""
    assert model is not None
    train, test = open_splits(arguments.data, test_data=arguments.test_data, root=arguments.data_root)
    if arguments.data == "photos":
        model = replace(model, resized=model.size)
    (x, y), (x_test, y_test) = (
        extract(model, source, batch_size=arguments.batch_size, device=arguments.device) for source in (train, test)
    )
    rows: list[dict[str, object]] = []
    for k in arguments.k:
        right = knn_predict(x, y, x_test, k=k, temperature=arguments.temperature) == y_test
        low, high = bootstrap_interval(right.numpy())
        rows.append({"k": k, "top1": float(right.double().mean()), "top1_low": low, "top1_high": high})
    return Report("knn", rows, {"images": [len(y), len(y_test)]})
