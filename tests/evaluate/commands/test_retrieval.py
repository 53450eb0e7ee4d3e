"""Revisited Oxford in its published layout, made small."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vmflearn.evaluate import parts
from vmflearn.weights.published import load_published

N_IMAGES, N_QUERIES = 7, 3
BOXES = [[8, 4, 60, 40], [0, 0, 64, 48], [10, 10, 50, 42]]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 3)
    folder = tmp_path / "roxford5k"
    (folder / "jpg").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(N_IMAGES + N_QUERIES):
        pixels = generator.integers(0, 256, (48, 64 + 8 * (i % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "jpg" / f"image_{i}.jpg")
    gnd = [
        {"bbx": BOXES[0], "easy": np.array([0, 3]), "hard": np.array([1]), "junk": np.array([6])},
        {"bbx": BOXES[1], "easy": np.array([2]), "hard": np.array([], int), "junk": np.array([4, 5])},
        {"bbx": BOXES[2], "easy": np.array([], int), "hard": np.array([4, 0]), "junk": np.array([], int)},
    ]
    names = [f"image_{i}" for i in range(N_IMAGES + N_QUERIES)]
    content = {"imlist": names[:N_IMAGES], "qimlist": names[N_IMAGES:], "gnd": gnd}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, 2))
    return folder


def longhand(data, checkpoint, *, size, scales, crop):
    """Average precisions (medium) and precisions among the first five, from the files themselves, step by step."""
    backbone, _ = load_published(checkpoint, num_heads=1)
    mean, std = (np.array(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def feature(name, box):
        image = Image.open(data / "jpg" / f"{name}.jpg").convert("RGB")
        image = image.crop(box) if box else image
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        x = torch.tensor((np.asarray(image).transpose(2, 0, 1) / 255 - mean) / std).float()[None]
        rows = []
        for scale in scales:
            y = x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear")
            rows.append(backbone(y[..., : y.shape[-2] // 8 * 8, : y.shape[-1] // 8 * 8])[0])
        total = torch.stack(rows).sum(dim=0).detach().double().numpy()
        return total / np.linalg.norm(total)

    gnd = pickle.loads((data / "gnd_roxford5k.pkl").read_bytes())["gnd"]
    images = [feature(f"image_{i}", None) for i in range(N_IMAGES)]
    found, five = [], []
    for i, query in enumerate(gnd):
        x = feature(f"image_{N_IMAGES + i}", BOXES[i] if crop else None)
        order = [j for j in sorted(range(N_IMAGES), key=lambda j: -(images[j] @ x)) if j not in query["junk"]]
        positives = {*query["easy"], *query["hard"]}
        area, right, before = 0.0, 0, 1.0
        for place, j in enumerate(order, 1):
            right += j in positives
            area += (before + right / place) / 2 / len(positives) * (j in positives)
            before = right / place
        found.append(area)
        flags = [j in positives for j in order]
        end = min(5, max(place for place, flag in enumerate(flags, 1) if flag))
        five.append(sum(flags[:end]) / end)
    return found, five


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ([], {"size": 512, "scales": [1, 2**-0.5, 0.5], "crop": True}),
        (["--size", 40, "--scales", 1, "--whole-queries"], {"size": 40, "scales": [1], "crop": False}),
    ],
)
def test_mean_average_precision_equals_the_longhand(evaluate, data, checkpoint, words, settings):
    result = evaluate.result("retrieval", "--data", data, *words)
    want, five = longhand(data, checkpoint, **settings)
    easy, medium, hard = result["rows"]
    assert [row["set"] for row in result["rows"]] == [f"roxford5k {name}" for name in ("easy", "medium", "hard")]
    assert medium["mAP"] == pytest.approx(np.mean(want), abs=1e-9)
    assert medium["mAP_low"] <= medium["mAP"] <= medium["mAP_high"]
    assert list(result["details"]["average_precisions"]["medium"].values()) == pytest.approx(want, abs=1e-9)
    assert [row["queries"] for row in result["rows"]] == [2, 3, 2]
    assert {"mP@1", "mP@5", "mP@10"} < easy.keys()
    assert medium["mP@5"] == pytest.approx(np.mean(five))
    assert "1 queries have no positive that is hard, and do not count" in result["notes"]
    assert result["settings"]["size"] == settings["size"]
    assert result["settings"]["queries_cropped"] == settings["crop"]
    assert len(result["settings"]["digest"]) == 64
    assert "git_commit" in result["environment"]
    assert hard["mAP"] > 0


def test_an_unreadable_image_stops_it_and_the_same_command_goes_on(evaluate, data):
    words = ("retrieval", "--data", data, "--cache", evaluate.folder / "cache", "--workers", 2)
    last = data / "jpg" / "image_6.jpg"
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    code, _, err = evaluate(*words)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: cannot read the image {last}: ")
    last.write_bytes(whole)
    kept = {path: path.stat().st_mtime_ns for path in (evaluate.folder / "cache").glob("*/*.npy")}
    assert len(kept) == 3  # of the queries, and two of three parts of the images
    first = evaluate.result(*words)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert evaluate.result("retrieval", "--data", data)["rows"] == first["rows"]
    other = evaluate.result(*words, "--size", 40)  # other settings have other features
    assert other["rows"] != first["rows"]
    before = {*(evaluate.folder / "cache").glob("*/*.npy")}
    evaluate.result(*words, "--precision", "bf16")
    assert all(0 < distance < 0.05 for distance in evaluate.moved(evaluate.folder / "cache", before))
    for settings in (("--whole-queries",), ("--scales", 1), ("--size", 40), ("--precision", "bf16")):
        rows = evaluate.result(*words, *settings)["rows"]
        assert rows == evaluate.result("retrieval", "--data", data, *settings)["rows"], settings
    (next(iter(kept))).write_bytes(b"damaged")
    assert evaluate.result(*words)["rows"] == first["rows"]


def test_images_that_were_replaced_have_features_of_their_own(evaluate, data, tmp_path):
    words = ("retrieval", "--data", data, "--size", 48, "--cache", tmp_path / "cache")
    evaluate.result(*words)
    for number in (0, N_IMAGES):
        place = data / "jpg" / f"image_{number}.jpg"
        place.write_bytes((data / "jpg" / f"image_{number + 1}.jpg").read_bytes())
    assert evaluate.result(*words)["details"] == evaluate.result(*words[:-2])["details"]


def test_bad_input_has_one_line(evaluate, data):
    (data / "jpg" / "image_2.jpg").unlink()
    code, _, err = evaluate("retrieval", "--data", data)
    assert (code, err.count("\n")) == (2, 1)
    assert "names 1 images in imlist that are not there" in err
    code, _, err = evaluate("retrieval", "--data", data, "--scales", 2)
    assert (code, err) == (2, "error: --scales must lie in (0, 1], got [2.0]\n")
