"""Rows of the sweep against the same sweep by hand, on features made image by image; what is kept of which settings."""

import pytest
import torch

from vmflearn.evaluate.linear import LinearSweep, epoch_order

WORDS = ("linear", "--frozen", "--blocks", 1, "--train-batch-size", 10)


def test_the_best_epoch_and_the_last_are_told_apart(evaluate, classes, longhand):
    rates, epochs = (10.0, 300.0), 6
    result = evaluate.result(*WORDS, "--data", classes, "--epochs", epochs, "--rates", *rates, "--seed", 2)
    (x, y), (x_test, truth) = longhand.train, longhand.val
    sweep = LinearSweep(rates, x.shape[1], 3, epochs=epochs, seed=2)
    found = []
    for epoch in range(epochs):
        for rows in epoch_order(len(y), 2, epoch).split(10):
            sweep.step(x[rows], y[rows])
        sweep.end_epoch()
        found.append([(scores.argmax(dim=1) == truth).double().mean().item() for scores in sweep.scores(x_test)])
    for row, curve in zip(result["rows"], zip(*found, strict=True), strict=True):
        best = max(range(epochs), key=lambda e: curve[e])
        assert (row["top1"], row["epoch"], row["last_top1"]) == pytest.approx((max(curve), best + 1, curve[-1]))
    assert any(row["last_top1"] < row["top1"] for row in result["rows"])
    assert [row["epoch"] for row in result["rows"]] == [3, 5]  # of equal ones the first


def test_classifiers_of_other_settings_are_not_taken_up(evaluate, classes):
    """Whatever decides on them is in their name: the same cache gives what no cache gives."""
    cache = evaluate.folder / "cache"
    words = (*WORDS, "--data", classes, "--rates", 100)
    evaluate.result(*words, "--epochs", 3, "--cache", cache)
    for other in (("--seed", 1), ("--epochs", 2), ("--rates", 1), ("--train-batch-size", 20), ("--precision", "bf16")):
        settings = (*words, "--epochs", 3, *other)
        assert evaluate.result(*settings, "--cache", cache)["rows"] == evaluate.result(*settings)["rows"], other
    assert len(list(cache.glob("linear-*.pt"))) == 6
    augmented = [word for word in words if word != "--frozen"]
    evaluate.result(*augmented, "--epochs", 3, "--cache", cache)
    assert len(list(cache.glob("linear-*.pt"))) == 7
    assert all(torch.load(path, weights_only=True)["sweep"]["epoch"] in (2, 3) for path in cache.glob("linear-*.pt"))
