"""The script as its user runs it; the layouts are tested in tests/data/imagenet."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import preloaded
import pytest
from PIL import Image

from vmflearn.data.shards import open_shards
from vmflearn.data.sources import open_images

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_imagenet.py"
MAKE_SHARDS = SCRIPT.with_name("make_shards.py")


def run(*arguments):
    done = preloaded.run(arguments)
    return done.returncode, done.stdout, done.stderr


def tar_bytes(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def downloads(tmp_path):
    """A tar of three tars with 400 images each."""
    classes = {}
    for k, synset in enumerate(("n01440764", "n01443537", "n01484850")):
        images = {}
        for i in range(400):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 4, 3), (k, i % 256, i // 256), dtype=np.uint8)).save(file, "PNG")
            images[f"{synset}_{i}.JPEG"] = file.getvalue()
        classes[f"{synset}.tar"] = tar_bytes(images)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(classes))
    return tmp_path / "downloads"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on(downloads, tmp_path, number):
    out = tmp_path / "out"
    process = preloaded.start([SCRIPT, downloads, out, "--subset"])
    while process.poll() is None and not (out / "train" / "n01440764" / "n01440764_5.JPEG").exists():
        time.sleep(0.001)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), err
    assert not (out / "classes.tsv").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / "train").rglob("*.JPEG")}
    assert 0 < len(kept) < 1200
    code, said, err = run(SCRIPT, downloads, out, "--subset")
    assert code == 0, err
    assert "train: 1,200 images of 3 classes in" in said
    assert "label 0 is n01440764" in said
    assert "note: the train part has 1,200 images of 3 classes, not 1,281,167 of 1,000" in err
    assert "note: there is no val part in the source" in err
    assert len(open_images(out / "train")) == 1200
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_shards_and_errors(downloads, tmp_path):
    command = [sys.executable, SCRIPT, downloads, tmp_path / "shards", "--shards", "--shard-size", "500", "--subset"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)  # a bare start
    assert done.returncode == 0, done.stderr
    assert len(open_shards(tmp_path / "shards" / "train")) == 1200
    assert len(list((tmp_path / "shards" / "train").glob("*.tar"))) == 3
    code, out, err = run(SCRIPT, downloads, tmp_path / "none")
    assert (code, out) == (2, "")
    assert "by --subset" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: the train part has")


def test_make_shards_points_here(downloads, tmp_path):
    """A user who gives the downloads to make_shards.py, or opens them as images or as shards, is sent here."""
    code, out, err = run(MAKE_SHARDS, downloads, tmp_path / "shards")
    assert (code, out) == (2, "")
    assert err.startswith("error: no images in")
    assert "scripts/prepare_imagenet.py" in err
    assert len(err.splitlines()) == 1
    for opened in (open_images, open_shards):
        with pytest.raises(FileNotFoundError, match=r"scripts/prepare_imagenet\.py"):
            opened(downloads)
