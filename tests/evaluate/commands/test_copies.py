"""Copydays in its published layout, made small."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from vmflearn.evaluate import parts
from vmflearn.evaluate.copies import Whitening, copy_descriptors, copy_scores
from vmflearn.weights.published import load_published


def write(folder, names, seed):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for name in names:
        pixels = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 40), Image.Resampling.BICUBIC).save(folder / f"{name}.jpg", quality=95)


def altered(i):
    """Name of an altered image: of its original's it has the first four characters."""
    return f"20{i:02}{i + 8:02}.jpg"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 4)
    root = tmp_path / "copydays"
    write(root / "original", [f"20{i:02}00" for i in range(6)], seed=0)
    (root / "strong").mkdir()
    for i in range(6):
        image = Image.open(root / "original" / f"20{i:02}00.jpg")
        image.filter(ImageFilter.GaussianBlur(1)).save(root / "strong" / altered(i), quality=30)
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


def test_average_precisions_are_those_of_descriptors_made_one_by_one(evaluate, data, tmp_path):
    """Heavily altered, so that not all are found first; with distractors that have the originals' names."""
    for i in range(6):
        image = Image.open(data / "original" / f"20{i:02}00.jpg")
        image = image.transpose(Image.Transpose.ROTATE_180).filter(ImageFilter.GaussianBlur(4))
        image.save(data / "strong" / altered(i), quality=5)
    write(tmp_path / "same names", [f"20{i:02}00" for i in range(6)], seed=5)
    folders = {"distractors": tmp_path / "same names", "whitening": tmp_path / "unrelated"}
    words = ("copies", "--data", data, "--cache", tmp_path / "cache", "--distractors", folders["distractors"])
    backbone, _ = load_published(evaluate.checkpoint, num_heads=1)

    def descriptors(folder, size):
        rows = []
        for path in sorted(folder.iterdir()):
            image = Image.open(path).resize((size, size), Image.Resampling.BICUBIC)
            pixels = (np.asarray(image) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
            rows.append(copy_descriptors(backbone, torch.tensor(pixels).float().permute(2, 0, 1)[None]))
        return torch.cat(rows)

    found = []
    for size in (32, 48):  # one cache
        queries = descriptors(data / "strong", size)
        searched = torch.cat([descriptors(folder, size) for folder in (data / "original", folders["distractors"])])
        plain = copy_scores(queries, searched, [[i] for i in range(6)])
        whitening = Whitening(descriptors(folders["whitening"], size))
        white = copy_scores(whitening(queries), whitening(searched), [[i] for i in range(6)])
        for more, want in (((), plain), (("--whitening", folders["whitening"]), white)):
            result = evaluate.result(*words, "--size", size, *more)
            assert list(result["details"]["average_precisions"].values()) == pytest.approx(want.tolist(), abs=1e-9)
            assert result["rows"][0]["mAP"] == pytest.approx(want.mean())
            found.append(want.mean())
    assert len(set(found)) == 4
    kept = {*(tmp_path / "cache").glob("*/*.npy")}
    half = evaluate.result(*words, "--size", 32, "--precision", "bf16")
    uncached = [word for word in words if word not in ("--cache", tmp_path / "cache")]
    assert half["details"] == evaluate.result(*uncached, "--size", 32, "--precision", "bf16")["details"]
    assert all(0 < distance < 0.05 for distance in evaluate.moved(tmp_path / "cache", kept))
    assert len(list((tmp_path / "cache").iterdir())) == 4 + 4 + 3  # folders by two sizes; and in half precision


def test_an_original_of_another_image_is_not_found_first(evaluate, data):
    """Names decide: with two of them exchanged, their images find each other's original."""
    a, b = (data / "strong" / altered(i) for i in (0, 1))
    a.rename(data / "strong" / "x.jpg")
    b.rename(a)
    (data / "strong" / "x.jpg").rename(b)
    scores = evaluate.result("copies", "--data", data, "--size", 32)["details"]["average_precisions"]
    assert [scores[altered(i)] for i in range(2, 6)] == [1] * 4
    assert all(scores[path.name] <= (0 + 1 / 2) / 2 for path in (a, b))


def test_images_that_were_replaced_have_features_of_their_own(evaluate, data, tmp_path):
    words = ("copies", "--data", data, "--size", 32, "--cache", tmp_path / "cache")
    evaluate.result(*words)
    a, b = (data / "strong" / altered(i) for i in (0, 5))
    other = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(other)
    assert evaluate.result(*words)["details"] == evaluate.result(*words[:-2])["details"]


def test_bad_input_has_one_line(evaluate, data):
    (data / "strong" / "999901.jpg").write_bytes((data / "strong" / altered(0)).read_bytes())
    code, _, err = evaluate("copies", "--data", data)
    assert (code, err.count("\n")) == (2, 1)
    assert "999901.jpg has no original: no name in" in err
    code, _, err = evaluate("copies", "--data", data / "strong")
    assert code == 2
    assert "original does not exist" in err
