"""The rows of the table against scikit-learn on features made image by image."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from sklearn.linear_model import LogisticRegression

from vmflearn.evaluate.few_shot import draw_per_class

WORDS = ("fewshot", "--seed", 3, "--splits", 3)


def right(features, rows, test, *, strength, own_mean):
    """Which test images scikit-learn classifies rightly."""

    def units(x):
        x = x.double().numpy()
        x = x - x.mean(axis=1, keepdims=True) if own_mean else x
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    solver = LogisticRegression(C=strength, fit_intercept=False, solver="newton-cg", tol=1e-8, max_iter=1000)
    solver.fit(units(features[0][rows]), features[1][rows].numpy())
    return solver.predict(units(test[0])) == test[1].numpy()


@pytest.mark.parametrize("reading", ["msn", "dino"])
def test_splits_are_drawn_by_seeds_that_follow_each_other(evaluate, classes, longhand, reading):
    words = ("--reading", reading, "--penalty", 0.05, "--per-class", 2, "--share", 0)
    (row,) = evaluate.result(*WORDS, "--data", classes, *words)["rows"]
    msn = reading == "msn"
    train, test = (longhand.train_before, longhand.val_before) if msn else (longhand.train, longhand.val)
    hits = np.array(
        [
            right(train, draw_per_class(train[1], 2, seed), test, strength=20 if msn else 20 / 6, own_mean=msn)
            for seed in (3, 4, 5)
        ]
    )
    accuracies = hits.mean(axis=1)
    assert len(set(accuracies)) > 1
    assert (row["top1"], row["deviation"]) == pytest.approx((accuracies.mean(), accuracies.std(ddof=1)))
    # The interval is that of the test images, of each of which the mean over the splits counts.
    assert (row["train"], row["splits"]) == ("2 a class", 3)
    drawn = bootstrap(
        (hits.mean(axis=0),), np.mean, method="percentile", n_resamples=5000, random_state=0
    ).confidence_interval
    assert (row["top1_low"], row["top1_high"]) == pytest.approx(drawn, abs=0.03)


def test_splits_of_the_same_images_tell_no_more_than_one(evaluate, classes):
    """All there are of each class: neither a deviation nor a narrower interval."""
    words = ("--data", classes, "--penalty", 0.05, "--per-class", 12, "--share", 0)
    one, three = (evaluate.result("fewshot", *words, "--splits", n)["rows"][0] for n in (1, 3))
    assert (one["deviation"], three["deviation"]) == (None, 0)
    for name in ("top1", "top1_low", "top1_high"):
        assert three[name] == pytest.approx(one[name], abs=1e-12)


def test_a_share_is_of_each_class_and_rounded(evaluate, classes, longhand):
    """Of 12 images in each of three classes 0.3 are 3.6: four."""
    from vmflearn.evaluate.commands.fewshot import draw_share

    labels = torch.arange(36) % 3
    rows = draw_share(labels, 0.3, 0)
    assert torch.bincount(labels[rows]).tolist() == [4, 4, 4]
    assert len(set(rows.tolist())) == 12
    assert not torch.equal(rows, draw_share(labels, 0.3, 1))
    assert torch.bincount(labels[draw_share(labels, 0.01, 0)]).tolist() == [1, 1, 1]
    (row,) = evaluate.result(*WORDS, "--data", classes, "--penalty", 1, "--per-class", "--share", 0.3)["rows"]
    assert (row["train"], row["splits"], row["deviation"]) == ("30%", 1, None)
    found = [
        right(
            longhand.train_before,
            draw_share(longhand.train[1], 0.3, seed),
            longhand.val_before,
            strength=1,
            own_mean=True,
        )
        for seed in (3, 0)
    ]
    assert row["top1"] == pytest.approx(found[0].mean()) != found[1].mean()


def test_lists_mean_their_images_where_one_cannot_be_read(evaluate, classes, longhand):
    """The damaged one comes before most others: they would be off by one."""
    names = [path.name for path in longhand.train_paths]
    chosen = [names[i] for i in (0, 1, 8, 13, 15, 20, 25, 30, 35)]
    (evaluate.folder / "one.txt").write_text("\n".join([*chosen, "train_a_05.png"]) + "\n")
    words = ("--penalty", 0.05, "--subset", evaluate.folder / "one.txt")
    result = evaluate.result(*WORDS, "--data", classes, *words)
    hits = right(
        longhand.train_before,
        [names.index(name) for name in chosen],
        longhand.val_before,
        strength=20,
        own_mean=True,
    )
    assert result["rows"][0]["top1"] == pytest.approx(hits.mean())
    assert "1 images of the lists cannot be read and were left out" in result["notes"]


def test_nothing_to_do_has_one_line(evaluate, classes):
    for words, message in (
        (("--splits", 0), "--splits must be 1 or more, got 0"),
        (("--per-class", "--share", 0), "nothing is asked for: give numbers with --per-class, a --share, or lists"),
    ):
        code, out, err = evaluate("fewshot", "--data", classes, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {message}")
