"""Rows of the sweep against the same sweep by hand, on features made image by image; what is kept of which settings."""

import pytest
import torch

from vmflearn.data.sources import open_images
from vmflearn.evaluate.augmented import Augmented
from vmflearn.evaluate.linear import LinearSweep, epoch_order
from vmflearn.weights.published import load_published

WORDS = ("linear", "--frozen", "--blocks", 1, "--train-batch-size", 10)


def test_the_best_epoch_and_the_last_are_told_apart(evaluate, classes, longhand):
    rates, epochs = (10.0, 1.0), 6
    result = evaluate.result(*WORDS, "--data", classes, "--epochs", epochs, "--rates", *rates, "--seed", 3)
    (x, y), (x_test, truth) = longhand.train, longhand.val
    sweep = LinearSweep(rates, x.shape[1], 3, epochs=epochs, seed=3)
    found = []
    for epoch in range(epochs):
        for rows in epoch_order(len(y), 3, epoch).split(10):
            sweep.step(x[rows], y[rows])
        sweep.end_epoch()
        found.append([(scores.argmax(dim=1) == truth).double().mean().item() for scores in sweep.scores(x_test)])
    for row, curve in zip(result["rows"], zip(*found, strict=True), strict=True):
        best = max(range(epochs), key=lambda e: curve[e])
        assert (row["top1"], row["epoch"], row["last_top1"]) == pytest.approx((max(curve), best + 1, curve[-1]))
    assert any(row["last_top1"] < row["top1"] for row in result["rows"])
    assert [row["epoch"] for row in result["rows"]] == [4, 3]  # of equal ones the first


def test_what_has_diverged_has_answered_nothing(evaluate, classes):
    words = (*WORDS, "--data", classes, "--epochs", 3, "--rates", 1e39, 1)
    diverged, fine = (result := evaluate.result(*words))["rows"]
    assert (diverged["top1"], diverged["last_top1"]) == (0, 0)
    assert fine["top1"] > 0.3
    assert [note for note in result["notes"] if "diverged" in note] == [
        "diverged, their answers count as wrong from then on: learning rates 1e+39"
    ]


def test_augmented_images_are_drawn_anew_in_every_epoch(evaluate, classes, longhand):
    """Views one by one, through the network and the sweep by hand; the damaged image is passed over."""
    words = ("--epochs", 3, "--blocks", 1, "--train-batch-size", 10, "--batch-size", 4, "--rates", 1, "--seed", 5)
    result = evaluate.result("linear", "--data", classes, *words, "--cache", evaluate.folder / "cache")
    source = open_images(classes / "train")
    backbone, _ = load_published(evaluate.checkpoint, num_heads=1)
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    sweep, (x_test, truth) = LinearSweep([1.0], 64, 3, epochs=3, seed=5), longhand.val
    curve = []
    for epoch in range(3):
        for rows in epoch_order(37, 5, epoch).split(10):
            views = [Augmented(source, 32, 5, epoch)[i] for i in rows.tolist()]
            images = torch.stack([(view / 255 - mean) / std for view, _, readable in views if readable])
            labels = torch.tensor([int(source.labels[i]) for _, i, readable in views if readable])
            with torch.no_grad():
                sweep.step(backbone(images), labels)
        sweep.end_epoch()
        curve.append((sweep.scores(x_test)[0].argmax(dim=1) == truth).double().mean().item())
    (row,) = result["rows"]
    assert (row["top1"], row["last_top1"]) == pytest.approx((max(curve), curve[-1]))
    (state,) = (evaluate.folder / "cache").glob("linear-*.pt")
    found = torch.load(state, weights_only=True)["sweep"]["weights"]
    torch.testing.assert_close(found, sweep.weights, atol=1e-3, rtol=1e-3)


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


def test_classifiers_that_were_damaged_are_named(evaluate, classes, tmp_path):
    words = ("linear", "--data", classes, "--frozen", "--epochs", 1, "--blocks", 1, "--cache", tmp_path)
    assert evaluate(*words)[0] == 0
    (kept,) = tmp_path.glob("linear-*.pt")
    kept.write_bytes(kept.read_bytes()[:500])
    code, _, err = evaluate(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {kept} cannot be read (")
    assert err.endswith("): remove it to train anew\n")
