"""DAVIS-2017 in its published layout, made small: a scene of random blocks that moves by one patch a frame."""

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.shard_writing import alone
from vmflearn.evaluate.commands.segmentation import _features
from vmflearn.evaluate.davis import open_sequence, read_mask, write_mask
from vmflearn.evaluate.model import load_model
from vmflearn.evaluate.propagation import patch_labels, pixel_mask, propagate_labels
from vmflearn.weights.published import load_published

PATCH, HEIGHT, WIDTH = 8, 64, 128


def write_video(root, name, n, seed):
    images, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    rows, columns = HEIGHT // PATCH, WIDTH // PATCH + n
    scene = generator.integers(0, 256, (rows * PATCH // 2, columns * PATCH // 2, 3), dtype=np.uint8)
    scene = scene.repeat(2, axis=0).repeat(2, axis=1)
    truth = np.zeros(scene.shape[:2], np.uint8)
    truth[16:40, (n + 3) * PATCH : (n + 7) * PATCH] = 1
    truth[48:56, (n + 8) * PATCH : (n + 10) * PATCH] = 2
    for t in range(n):
        left = (n - t) * PATCH
        Image.fromarray(scene[:, left : left + WIDTH]).save(images / f"{t:05d}.jpg", quality=95)
        write_mask(masks / f"{t:05d}.png", truth[:, left : left + WIDTH])
    (root / "ImageSets" / "2017").mkdir(parents=True, exist_ok=True)
    with (root / "ImageSets" / "2017" / "val.txt").open("a") as file:
        file.write(f"{name}\n")


def still(root):
    """Mean J of masks that do not move."""
    found = []
    for folder in (root / "Annotations" / "480p").iterdir():
        first, *others, _ = (read_mask(path) for path in sorted(folder.iterdir()))
        for number in (1, 2):
            found.append(
                np.mean(
                    [
                        ((first == number) & (m == number)).sum() / ((first == number) | (m == number)).sum()
                        for m in others
                    ]
                )
            )
    return np.mean(found)


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "DAVIS"
    write_video(root, "blackswan", 5, seed=0)
    write_video(root, "camel", 6, seed=1)
    return root


def test_a_moving_scene_is_followed_and_its_masks_are_written(evaluate, data, tmp_path):
    result = evaluate.result("segmentation", "--data", data, "--masks", tmp_path / "masks", "--size", 64)
    assert [row["sequence"] for row in result["rows"]] == ["all", "blackswan", "camel"]
    everything = result["rows"][0]
    assert everything["objects"] == 4
    assert everything["J_mean"] > 0.8 > still(data) + 0.3  # not 1: corners are rounded between the patches
    assert everything["JF_mean"] == pytest.approx((everything["J_mean"] + everything["F_mean"]) / 2)
    assert everything["JF_mean_low"] <= everything["JF_mean"] <= everything["JF_mean_high"]
    assert set(result["details"]["objects"]) == {"blackswan_1", "blackswan_2", "camel_1", "camel_2"}
    assert (result["settings"]["n_last"], result["settings"]["radius"], result["settings"]["size"]) == (7, 12, 64)
    for name, n in (("blackswan", 5), ("camel", 6)):
        written = sorted((tmp_path / "masks" / name).iterdir())
        assert [path.name for path in written] == [f"{t:05d}.png" for t in range(n)]
        with Image.open(written[2]) as image:
            assert (image.mode, image.size) == ("P", (WIDTH, HEIGHT))
        np.testing.assert_array_equal(
            read_mask(written[0]), read_mask(data / "Annotations" / "480p" / name / "00000.png")
        )


def test_a_run_that_was_stopped_keeps_its_sequences_and_ends_as_one_that_was_not(evaluate, data, tmp_path):
    words = ("segmentation", "--data", data, "--size", 64, "--masks")
    frame = data / "JPEGImages" / "480p" / "camel" / "00004.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:200])
    code, _, err = evaluate(*words, tmp_path / "stopped")
    assert (code, err.splitlines()[-1].startswith(f"error: cannot read the image {frame}: ")) == (2, True)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "blackswan").iterdir()}
    assert len(kept) == 5
    partial = tmp_path / "stopped" / ".camel.partial"
    assert len(list(partial.iterdir())) == 4
    assert not (tmp_path / "stopped" / "camel").exists()
    frame.write_bytes(whole)
    resumed = evaluate.result(*words, tmp_path / "stopped")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not partial.exists()
    assert evaluate.result(*words, tmp_path / "whole")["rows"] == resumed["rows"]


def test_a_part_is_followed_with_the_settings_asked_for(evaluate, data, tmp_path):
    """The features image by image, and labels carried by the function that is tested against loops."""
    (data / "ImageSets" / "2017" / "some.txt").write_text("camel\n")
    settings = {"n_last": 1, "radius": 1, "k": 2, "temperature": 0.5}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = evaluate.result(
        *("segmentation", "--data", data, "--size", 64, "--part", "some", "--masks", tmp_path / "masks"), *words
    )
    assert [row["sequence"] for row in result["rows"]] == ["all", "camel"]
    backbone, _ = load_published(evaluate.checkpoint, num_heads=1)
    video = open_sequence(data, "camel")
    with torch.no_grad():
        tokens = [backbone.forward_features(video.frame(t, 64)[None])[0, 1:] for t in range(6)]
    features = [rows.unflatten(0, (HEIGHT // PATCH, WIDTH // PATCH)) for rows in tokens]
    labels = patch_labels(video.mask(0), (HEIGHT // PATCH, WIDTH // PATCH), 2)
    carried = propagate_labels(features, labels, **settings)
    for t, soft in enumerate(carried, 1):
        want = pixel_mask(soft, (PATCH, PATCH), (HEIGHT, WIDTH))
        np.testing.assert_array_equal(read_mask(tmp_path / "masks" / "camel" / f"{t:05d}.png"), want)


def test_features_are_made_in_the_precision_asked_for(evaluate, data):
    model, video = load_model(evaluate.checkpoint, num_heads=1), open_sequence(data, "camel")
    exact, half = (next(_features(video, model, 64, "cpu", precision)) for precision in ("float32", "bf16"))
    assert exact.shape == half.shape == (HEIGHT // PATCH, WIDTH // PATCH, 64)
    assert 0 < float((exact - half).abs().max()) < 0.05 * float(exact.abs().max())


def test_masks_of_other_settings_are_not_mixed(evaluate, data, tmp_path):
    words = ("segmentation", "--data", data, "--size", 64, "--masks", tmp_path / "masks")
    assert evaluate(*words)[0] == 0
    code, _, err = evaluate(*words, "--k", 7)
    assert code == 2
    assert err.splitlines()[-1].endswith("were made otherwise (k: 5 -> 7): give another folder, or remove it")
    weights = torch.load(evaluate.checkpoint, weights_only=True)
    torch.save({name: -value for name, value in weights.items()}, tmp_path / "other.pth")
    write_video(tmp_path / "other", "blackswan", 5, seed=7)
    before, evaluate.checkpoint = evaluate.checkpoint, tmp_path / "other.pth"
    assert "were made otherwise (weights: " in evaluate(*words)[2]
    evaluate.checkpoint = before
    for more, name in (
        (("--size", 128), "size: 64 -> 128"),
        (("--precision", "bf16"), "precision: float32 -> bf16"),
        (("--data", tmp_path / "other"), f"data: {data} -> {tmp_path / 'other'}"),
    ):
        code, _, err = evaluate(*words, *more)
        assert (code, f"were made otherwise ({name})" in err) == (2, True), err
    (tmp_path / "masks" / "settings.json").unlink()
    code, _, err = evaluate(*words)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"error: --masks {tmp_path / 'masks'} holds other things: give a folder of its own",
    )


def test_a_folder_has_one_command_and_is_not_spoiled_by_a_wrong_one(evaluate, data, tmp_path):
    masks = tmp_path / "masks"
    words = ("segmentation", "--data", data, "--size", 64, "--masks", masks)
    code, _, err = evaluate(*words, "--k", 0)
    assert (code, "k at least 1" in err) == (2, True)
    with alone(masks):
        code, _, err = evaluate(*words)
    assert (code, err) == (2, f"error: another process is writing to {masks}; wait for it, or give another folder\n")
    assert evaluate(*words)[0] == 0


def test_bad_input_has_one_line(evaluate, data, tmp_path):
    words = ("segmentation", "--data", data, "--size", 64, "--masks", tmp_path / "masks")
    mask = data / "Annotations" / "480p" / "camel" / "00003.png"
    write_mask(mask, read_mask(mask) * 3)
    code, _, err = evaluate(*words)
    assert code == 2
    assert err.splitlines()[-1] == f"error: {mask} holds object 6; the first mask shows objects up to 2"
    (data / "ImageSets" / "2017" / "val.txt").write_text("")
    code, _, err = evaluate(*words)
    assert code == 2
    assert err.splitlines()[-1].endswith("val.txt names no sequence")
