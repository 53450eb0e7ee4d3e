"""DTD in its published layout, made small: parts, folds and seeds, against features made image by image."""

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.evaluate.commands.transfer import _with_interval
from vmflearn.evaluate.transfer import cross_validation, transfer
from vmflearn.weights.published import load_published


@pytest.fixture
def data(tmp_path):
    """Noise of two textures, 9, 7 and 8 images of each in the parts."""
    base = tmp_path / "data" / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    generator = np.random.default_rng(0)
    tints = generator.normal(0, 12, (2, 37, 37, 3))
    for part, n in (("train", 9), ("val", 7), ("test", 8)):
        names = []
        for label, word in enumerate(("banded", "dotted")):
            (base / "images" / word).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                names.append(f"{word}/{word}_{part}_{i}.png")
                pixels = 128 + tints[label] + generator.normal(0, 60, (37, 37, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(base / "images" / names[-1])
        (base / "labels" / f"{part}1.txt").write_text("\n".join(names) + "\n")
    return tmp_path / "data"


def features(checkpoint, data, part):
    """Of a part, in the order of its list, and labels."""
    backbone, _ = load_published(checkpoint, num_heads=1)
    base = data / "dtd" / "dtd"
    names = (base / "labels" / f"{part}1.txt").read_text().split()
    rows = []
    for name in names:
        pixels = np.asarray(Image.open(base / "images" / name))[2:34, 2:34] / 255
        image = torch.tensor((pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).float()
        with torch.no_grad():
            rows.append(backbone(image.permute(2, 0, 1)[None])[0])
    return torch.stack(rows), torch.tensor(["dotted" in name for name in names]).long()


@pytest.mark.parametrize("validation", ["five-fold", "ericsson"])
def test_the_penalty_is_chosen_by_what_is_held_back(evaluate, data, validation):
    parts = [features(evaluate.checkpoint, data, part) for part in ("train", "val", "test")]
    x, y = (torch.cat([part[i] for part in parts[:2]]) for i in (0, 1))
    official = torch.tensor([[True] * 18 + [False] * 14])  # trained on train, chosen by val
    words = ("--data", data, "--sets", "dtd", "--validation", validation, "--seed", 4)
    result = evaluate.result("transfer", *words)
    folds = cross_validation(y, seed=4) if validation == "five-fold" else official
    want = transfer(x, y, parts[2][0], folds=folds)
    told = result["details"]["dtd"]["validation"]
    assert list(told.values()) == pytest.approx(list(want.validation.values()))
    assert len(set(told.values())) > 1
    (row,) = result["rows"]
    right = (want.predicted == parts[2][1]).tolist()
    assert (row["penalty"], row["accuracy"]) == pytest.approx((want.penalty, sum(right) / 16))
    assert (row["of"], row["train_images"], row["test_images"]) == ("images", 32, 16)
    assert result["details"]["dtd"]["classes"] == [sum(right[:8]) / 8, sum(right[8:]) / 8]


def test_parts_that_are_drawn_are_drawn_by_the_seed(evaluate, tmp_path):
    """Caltech101; without an official part a fifth is held back. A cache takes no part of one seed for another's."""
    generator = np.random.default_rng(0)
    for word in ("accordion", "yin_yang"):
        folder = tmp_path / "data" / "caltech101" / "101_ObjectCategories" / word
        folder.mkdir(parents=True)
        for i in range(1, 37):
            Image.fromarray(generator.integers(0, 256, (37, 37, 3), dtype=np.uint8)).save(
                folder / f"image_{i:04d}.jpg", quality=95
            )
    (tmp_path / "data" / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir()
    words = ("transfer", "--data", tmp_path / "data", "--sets", "caltech101", "--validation", "ericsson")
    found = []
    for seed in (0, 1):
        result = evaluate.result(*words, "--seed", seed, "--cache", tmp_path / "cache")
        (row,) = result["rows"]
        assert (row["of"], row["train_images"], row["test_images"]) == ("mean of classes", 60, 12)
        found.append(result["details"])
    assert found[0] != found[1]
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_the_mean_of_classes_by_hand():
    right, labels = torch.tensor([True, True, False, True, False, False]), torch.tensor([0, 0, 0, 0, 1, 3])
    assert _with_interval(right, labels, True, 0)[0] == pytest.approx((3 / 4 + 0 + 0) / 3)  # no image of class 2
    assert _with_interval(right, labels, False, 0)[0] == 0.5
    accuracy, low, high = _with_interval(torch.arange(40) % 5 > 0, (torch.arange(40) > 29).long(), True, 0)
    assert low < accuracy < high
    assert accuracy == pytest.approx(0.8)
