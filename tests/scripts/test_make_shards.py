"""The script as its user runs it; what it writes is tested in tests/data/test_shard_writing.py."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import preloaded
import pytest
from PIL import Image

from vmflearn.data.shards import open_shards

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_shards.py"


def start(*arguments):
    return preloaded.start([SCRIPT, *arguments])


def run(*arguments):
    done = preloaded.run([SCRIPT, *arguments])
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path):
    for i in range(300):
        path = tmp_path / "images" / f"class_{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i % 256, 0, 0)).save(path)
    return tmp_path / "images"


def test_a_folder_becomes_shards(tmp_path, folder):
    command = [sys.executable, SCRIPT, folder, tmp_path / "shards", "--shard-size", "120"]  # a bare start
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "300 images of 2 classes in 3 shards" in done.stdout
    assert len(open_shards(tmp_path / "shards")) == 300


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_conversion_goes_on(tmp_path, folder, number):
    out = tmp_path / "shards"
    process = start(folder, out, "--shard-size", 1)
    while process.poll() is None and not (out / "shard-000010.tar").exists():
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert not (out / "manifest.json").exists()
    code, _, err = run(folder, out, "--shard-size", 1)
    assert code == 0, err
    assert len(open_shards(out)) == 300
    assert {path.suffix for path in out.iterdir()} == {".tar", ".json", ".npy"}


def test_errors_are_one_line(tmp_path, folder, monkeypatch, capsys):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "parts" / "val").mkdir(parents=True)
    (folder / "class_0").rename(tmp_path / "parts" / "train")
    (tmp_path / "parts" / "val" / "1.png").touch()
    for arguments, words in (
        ((tmp_path / "nowhere", tmp_path / "out"), "nowhere does not exist"),
        ((folder, tmp_path), "is not empty and holds no shards"),
        ((folder, tmp_path / "out", "--shard-size", 0), "shard_size must be at least 1 image"),
        ((tmp_path / "loop", tmp_path / "out"), "loop is a link that leads back to itself"),
        ((folder, tmp_path / "loop"), "loop"),
        ((tmp_path / "parts", tmp_path / "out"), "parts of one data set"),
    ):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        code = runpy.run_path(str(SCRIPT))["main"]()
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.splitlines()) == 1


def test_what_is_passed_over_is_said(tmp_path, folder, monkeypatch, capsys):
    (folder / "class_0" / "loop").symlink_to(folder)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder), str(tmp_path / "out")])
    assert runpy.run_path(str(SCRIPT))["main"]() == 0
    out, err = capsys.readouterr()
    assert "300 images of 2 classes in 1 shards" in out
    assert "note: skipped because the link leads to a folder that is read already: class_0/loop" in err
