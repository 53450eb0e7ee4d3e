"""Copydays in its published layout, made small."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vmflearn.evaluate import parts


def write(folder, names, seed):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for name in names:
        pixels = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 40), Image.Resampling.BICUBIC).save(folder / f"{name}.jpg", quality=95)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 4)
    root = tmp_path / "copydays"
    write(root / "original", [f"{200 + i}000" for i in range(6)], seed=0)
    (root / "strong").mkdir()
    for i in range(6):
        image = Image.open(root / "original" / f"{200 + i}000.jpg")
        image.filter(ImageFilter.GaussianBlur(1)).save(root / "strong" / f"{200 + i}001.jpg", quality=30)
    write(tmp_path / "distractors", [f"d{i}" for i in range(5)], seed=1)
    write(tmp_path / "unrelated", [f"u{i}" for i in range(9)], seed=2)
    return root


def test_slight_alterations_are_found_among_distractors(evaluate, data, tmp_path):
    words = ("copies", "--data", data, "--size", 32, "--distractors", tmp_path / "distractors", "--workers", 1)
    result = evaluate.result(*words, "--whitening", tmp_path / "unrelated", "--cache", tmp_path / "cache")
    (row,) = result["rows"]
    assert (row["queries"], row["originals"], row["distractors"], row["whitening"]) == (6, 6, 5, 9)
    assert row["mAP"] == 1
    assert result["settings"]["size"] == 32
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*.npy")}
    plain = evaluate.result(*words, "--cache", tmp_path / "cache")  # the features are there
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*.npy")} == kept
    assert plain["rows"][0]["whitening"] == 0


def test_an_original_of_another_image_is_not_found_first(evaluate, data):
    """Names decide: with two of them exchanged, their images find each other's original."""
    a, b = (data / "strong" / f"20{i}001.jpg" for i in (0, 1))
    a.rename(data / "strong" / "x.jpg")
    b.rename(a)
    (data / "strong" / "x.jpg").rename(b)
    scores = evaluate.result("copies", "--data", data, "--size", 32)["details"]["average_precisions"]
    assert [scores[f"20{i}001.jpg"] for i in range(2, 6)] == [1] * 4
    assert all(scores[path.name] <= (0 + 1 / 2) / 2 for path in (a, b))


def test_bad_input_has_one_line(evaluate, data):
    (data / "strong" / "999901.jpg").write_bytes((data / "strong" / "200001.jpg").read_bytes())
    code, _, err = evaluate("copies", "--data", data)
    assert (code, err.count("\n")) == (2, 1)
    assert "999901.jpg has no original: no name in" in err
    code, _, err = evaluate("copies", "--data", data / "strong")
    assert code == 2
    assert "original does not exist" in err
