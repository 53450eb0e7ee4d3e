"""The script as its user runs it, on real files in their published layout, made small."""

import contextlib
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import preloaded
import pytest
import torch
from PIL import Image

from vmflearn.data import load_photos
from vmflearn.train import load_config, pretrain

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_run):
    """A run's folder, of one short epoch on photographs."""
    folder = tmp_path_factory.mktemp("run")
    config = load_config(ROOT / "scripts" / "configs" / "photos_vit_tiny_dino_vmf.yaml", small_run)
    pretrain(config, folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """ImageNet's layout: train and val with a folder for each of three classes."""
    folder = tmp_path_factory.mktemp("images")
    for part, split in (("train", "train"), ("val", "test")):
        photos = load_photos(split)
        for label in (0, 1, 2):
            rows = torch.nonzero(photos.labels == label).flatten()[::4][:12].tolist()
            (folder / part / f"n0000000{label}").mkdir(parents=True)
            for row in rows:
                picture = Image.fromarray(photos.images[row].permute(1, 2, 0).numpy())
                picture.save(folder / part / f"n0000000{label}" / f"n0000000{label}_{row}.JPEG")
    return folder


def evaluate(monkeypatch, capsys, *arguments):
    """Exit status, output and errors."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    code = runpy.run_path(str(SCRIPT))["main"]()
    return code, *capsys.readouterr()


def test_knn_of_photographs_is_that_of_the_run(trained, tmp_path, monkeypatch, capsys):
    arguments = ["knn", "--checkpoint", trained, "--data", "photos", "--device", "cpu"]
    code, out, err = evaluate(monkeypatch, capsys, *arguments, "--output", tmp_path / "result.json", "--k", 20, 10)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["k", "20", "10"]
    content = json.loads((tmp_path / "result.json").read_text())
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    row = content["rows"][0]
    assert row["top1"] == pytest.approx(last["knn_top1"], abs=0.005)
    assert row["top1_low"] < row["top1"] < row["top1_high"] < row["top5"]
    assert len(content["details"]["k=20"]["rank_of_each_image"]) == 490
    assert len(content["settings"]["digest"]) == 64
    assert content["settings"]["seed"] == 0
    assert content["environment"]["command"][1] == "knn"


@pytest.mark.parametrize(
    ("protocol", "extra", "lines"),
    [
        ("features", (), ["train  36", "test   36"]),
        ("fewshot", ("--per-class", 1, 2, "--share", 0.2, "--penalty", 0.075), ["1 a class", "2 a class", "20%"]),
        ("linear", ("--frozen", "--epochs", 3, "--blocks", 2, "--rates", 0.1, 1), ["0.1", "1 "]),
        ("linear", ("--epochs", 1, "--blocks", 1, "--mean-patches", "--train-batch-size", 20, "--rates", 1), ["1 "]),
    ],
)
def test_protocols_run_on_class_folders(protocol, extra, lines, trained, images, tmp_path, monkeypatch, capsys):
    common = ["--checkpoint", trained, "--data", images, "--device", "cpu", "--cache", tmp_path, "--batch-size", 9]
    code, out, err = evaluate(monkeypatch, capsys, protocol, *common, *extra, "--output", tmp_path / "result.json")
    assert code == 0, err
    for line, start in zip(out.splitlines()[1:], lines, strict=True):
        assert line.startswith(start)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["protocol"] == protocol
    if protocol != "features":
        assert all(row["top1_low"] <= row["top1"] <= row["top1_high"] for row in content["rows"])
        again = evaluate(monkeypatch, capsys, protocol, *common, *extra)
        assert again[1] == out


def test_transfer_reads_torchvisions_folders(trained, tmp_path, monkeypatch, capsys):
    """DTD as its archive unpacks: images in class folders, parts in lists."""
    base = tmp_path / "data" / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    photos = load_photos("train")
    for p, part in enumerate(("train", "val", "test")):
        names = []
        for label, word in ((4, "banded"), (5, "dotted")):
            (base / "images" / word).mkdir(parents=True, exist_ok=True)
            for row in torch.nonzero(photos.labels == label).flatten()[p::30].tolist():
                name = f"{word}/{word}_{row:04d}.jpg"
                Image.fromarray(photos.images[row].permute(1, 2, 0).numpy()).save(base / "images" / name)
                names.append(name)
        (base / "labels" / f"{part}1.txt").write_text("\n".join(names) + "\n")
    common = ["transfer", "--checkpoint", trained, "--data", tmp_path / "data", "--device", "cpu", "--sets", "dtd"]
    for validation in ("five-fold", "ericsson"):
        code, out, err = evaluate(monkeypatch, capsys, *common, "--validation", validation)
        assert code == 0, err
        assert out.splitlines()[1].split()[0] == "dtd"
        assert float(out.splitlines()[1].split()[1]) > 0.7
        assert out.splitlines()[1].split()[-2:] == ["24", "12"]
    code, _, err = evaluate(monkeypatch, capsys, *common[:-1], "pets")
    assert code == 2
    assert err.startswith(f"error: the data set pets is not in {tmp_path / 'data'} as torchvision expects it")


def test_errors_are_one_line(trained, images, tmp_path, monkeypatch, capsys):
    for name in ("train/a", "train/b", "val/a", "val/c"):
        (tmp_path / "unlike" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "unlike" / name / "1.png")
    torch.save({"blocks.0.nothing": torch.zeros(2)}, tmp_path / "short.pth")
    whole = ["--checkpoint", trained, "--device", "cpu"]
    for arguments, words in (
        (["--checkpoint", tmp_path / "nowhere", "--data", images], "no such file or folder; give a run's folder"),
        (["--checkpoint", tmp_path / "short.pth", "--data", images], "missing: pos_embed"),
        (["--checkpoint", "timm:vit_nothing", "--data", images], "timm has no backbone named"),
        ([*whole, "--data", tmp_path / "unlike"], "it lacks b and it has c besides"),
        ([*whole, "--data", tmp_path], "has no folder val or test"),
        ([*whole, "--data", images, "--k", 37], "k must be 1 to the number of train images, 36, got 37"),
        ([*whole, "--data", images, "--device", "nonsense"], "--device nonsense cannot be used"),
        ([*whole, "--data", images, "--batch-size", 0], "--batch-size must be 1 or more"),
        ([*whole, "--data", tmp_path, "--output", tmp_path], "cannot be written (it is a folder)"),  # before all else
    ):
        code, out, err = evaluate(monkeypatch, capsys, "knn", *arguments)
        assert (code, out) == (2, ""), err
        assert words in err
        assert len(err.splitlines()) == 1, err


def test_a_result_is_written_though_nobody_reads_the_table(trained, images, tmp_path, monkeypatch, capsys):
    words = ["knn", "--checkpoint", trained, "--device", "cpu", "--data", images, "--output", tmp_path / "result.json"]
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:  # which cannot be closed either
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = evaluate(monkeypatch, capsys, *words)
    assert (code, err) == (2, "error: [Errno 28] No space left on device\n")
    assert json.loads((tmp_path / "result.json").read_text())["rows"]


def test_a_killed_command_goes_on_and_gives_the_same(trained, images, tmp_path):
    def command(cache):
        words = ["linear", "--frozen", "--epochs", "150", "--blocks", "1", "--rates", "0.1", "--cache", str(cache)]
        return [SCRIPT, *words, "--checkpoint", trained, "--data", images]

    def finish(cache):
        done = preloaded.run(command(cache))
        assert done.returncode == 0, done.stderr
        return done.stdout

    process = preloaded.start(command(tmp_path / "one"))
    end = time.monotonic() + 120
    while process.poll() is None and not list((tmp_path / "one").glob("linear-*.pt")):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (state,) = (tmp_path / "one").glob("linear-*.pt")
    assert 1 <= torch.load(state, weights_only=True)["sweep"]["epoch"] < 150
    assert finish(tmp_path / "one") == finish(tmp_path / "two")
