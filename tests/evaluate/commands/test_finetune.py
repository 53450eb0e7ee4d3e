import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.photo_source import PhotoImages
from vmflearn.data.shard_writing import alone
from vmflearn.evaluate.commands.finetune import _report
from vmflearn.evaluate.recipes import RECIPES

WORDS = (
    *("finetune", "--size", 32, "--recipe", "beit-small", "--batch", 16, "--batch-size", 8, "--lr", 0.003),
    *("--epochs", 6, "--warmup-epochs", 1, "--head-std", 0.02),
)


@pytest.fixture
def data(tmp_path):
    """Two classes that only the layout of an image tells apart: stripes that stand, and stripes that lie."""
    generator = np.random.default_rng(0)
    for part, n in (("train", 48), ("val", 20)):
        for i in range(n):
            stripes = np.where(np.arange(40) // 4 % 2 == 0, 40, 215)[:, None, None] * np.ones((1, 40, 3))
            pixels = stripes + generator.normal(0, 20, (40, 40, 3))
            if i % 2:
                pixels = pixels.swapaxes(0, 1)
            folder = tmp_path / "stripes" / part / ("standing" if i % 2 else "lying")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "stripes"


def network(folder):
    return torch.load(folder / "state.pt", weights_only=True)["network"]


def test_what_can_be_learned_is_learned_and_a_killed_run_ends_the_same(evaluate, data, tmp_path):
    """Killed after its first epoch and taken up by another number of workers, to the last bit."""
    words = (*WORDS, "--data", data, "--run-dir")
    whole = evaluate.result(*words, tmp_path / "whole")
    (row,) = whole["rows"]
    assert row["top1"] > 0.9
    assert row["top1_low"] <= row["top1"] <= row["top1_high"]
    assert row["mean_per_class"] == pytest.approx(np.mean(list(whole["details"]["class_accuracies"].values())))
    assert len(whole["details"]["losses"]) == 6
    assert (whole["settings"]["batch"], whole["settings"]["layer_decay"], whole["settings"]["classes"]) == (16, 0.75, 2)

    process = evaluate.start(*words, tmp_path / "killed")
    try:
        end = time.monotonic() + 100
        while not (tmp_path / "killed" / "state.pt").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["losses"]) < 6
    resumed = evaluate.result(*words, tmp_path / "killed", "--workers", 1)
    assert resumed["rows"] == whole["rows"]
    assert resumed["details"] == whole["details"]
    torch.testing.assert_close(network(tmp_path / "killed"), network(tmp_path / "whole"), atol=0, rtol=0)


def test_the_mean_over_classes_is_not_that_over_images():
    """The classes of the photographs' first hundred are not equally many; all of the first are taken for right ones."""
    source = PhotoImages("test")
    source.labels = source.labels[:100]
    counts = torch.bincount(source.labels, minlength=10).tolist()
    predicted = np.zeros(100, dtype=np.int64)
    report = _report("deit", RECIPES["deit"], predicted, source, {}, [1.0])
    (row,) = report.rows
    assert row["top1"] == pytest.approx(counts[0] / 100)
    assert row["mean_per_class"] == pytest.approx(1 / sum(count > 0 for count in counts))
    assert row["mean_per_class"] != pytest.approx(row["top1"])
    assert row["top1_low"] < row["top1"] < row["top1_high"]


def test_bad_input_has_one_line(evaluate, data, tmp_path):
    words = (*WORDS, "--data", data, "--run-dir", tmp_path / "run", "--epochs", 2)

    def line(*more):
        code, _, err = evaluate(*words, *more)
        assert code == 2
        return err.splitlines()[-1]

    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        assert line() == f"error: another process is writing to {tmp_path / 'run'}; wait for it, or give another folder"
    assert evaluate(*words)[0] == 0
    assert line("--lr", 0.1).endswith("(lr: 0.003 -> 0.1): give another --run-dir, or remove it")
    last = data / "train" / "standing" / "47.png"
    last.rename(data / "47.png")
    (data / "train" / "standing" / "45.png").rename(last)
    assert "belongs to another fine-tuning (images: " in line()
    (data / "47.png").rename(data / "train" / "standing" / "45.png")
    assert "belongs to another fine-tuning (images: " in line(), "their names are what they were, and two are exchanged"
    (tmp_path / "run" / "state.pt").write_bytes(b"damaged")
    assert "state.pt cannot be read" in line()
    assert "larger than the training set" in line("--batch", 64)
    damaged = data / "train" / "lying" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    (tmp_path / "run" / "state.pt").unlink()
    assert line().startswith(f"error: cannot read the image {damaged}")
    (data / "val" / "standing").rename(data / "val" / "slanting")
    assert "it lacks standing and it has slanting besides" in line()
