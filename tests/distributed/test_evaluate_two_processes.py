"""`scripts/evaluate.py` among two processes (gloo, started by torchrun): the result is that of one process."""

import json
import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data import load_photos
from vmflearn.train import load_config, pretrain

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "evaluate.py"
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PROTOCOLS = {
    "knn": ["--k", "5", "20"],
    "fewshot": ["--per-class", "1", "2", "--share", "0.2"],
    "linear": ["--frozen", "--epochs", "2", "--blocks", "1", "--rates", "0.1"],
    "prototypes": [],
    "features": [],
}


@pytest.fixture
def files(tmp_path, small_run):
    """A run's folder, and ImageNet's layout with three classes; a damaged file among the training images."""
    pretrain(load_config(ROOT / "scripts" / "configs" / "photos_vit_tiny_dino_vmf.yaml", small_run), tmp_path / "run")
    for part, split in (("train", "train"), ("val", "test")):
        photos = load_photos(split)
        for label in (0, 1, 2):
            folder = tmp_path / "images" / part / f"class{label}"
            folder.mkdir(parents=True)
            for row in torch.nonzero(photos.labels == label).flatten()[:40].tolist():
                Image.fromarray(photos.images[row].permute(1, 2, 0).numpy()).save(folder / f"{row:04d}.png")
    (tmp_path / "images" / "train" / "class1" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def arguments(protocol, files, name):
    """The command line of one protocol, with a cache of its own."""
    given = ["--checkpoint", files / "run", "--data", files / "images", "--device", "cpu", *PROTOCOLS[protocol]]
    cache = ["--cache", files / f"cache-{name}"]
    return [str(a) for a in (SCRIPT, protocol, *given, *cache, "--output", files / f"{protocol}-{name}.json")]


def torchrun(n, *command):
    """Run a script among n processes; returns what came of it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*launcher, *command], capture_output=True, text=True, env=environment, timeout=300)


def test_two_processes_find_what_one_finds(files, monkeypatch, capsys):
    script = files / "all.py"
    commands = [arguments(protocol, files, "two") for protocol in PROTOCOLS]
    script.write_text(
        textwrap.dedent(f"""
        import runpy, sys
        for command in {commands!r}:
            sys.argv = command
            assert runpy.run_path(command[0])["main"]() == 0, command
        """)
    )
    done = torchrun(2, str(script))  # whose store outlives the groups that the commands make one after the other
    assert done.returncode == 0, done.stderr[-3000:]
    tables = ""
    for protocol in PROTOCOLS:
        monkeypatch.setattr(sys, "argv", arguments(protocol, files, "one"))
        assert runpy.run_path(str(SCRIPT))["main"]() == 0
        tables += capsys.readouterr().out if protocol != "features" else ""
        one, two = (json.loads((files / f"{protocol}-{name}.json").read_text()) for name in ("one", "two"))
        assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
        assert one["notes"] == two["notes"]
        assert protocol not in ("knn", "features") or any("damaged.png" in note for note in one["notes"])
        if protocol != "features":  # whose rows hold images per second
            assert one["rows"] == two["rows"]
            assert one["details"] == two["details"]
    assert done.stdout.startswith(tables), "one process prints, and what one would print"
    made = [sorted((files / f"cache-{name}").glob("*/features.npy")) for name in ("one", "two")]
    assert len(made[0]) == len(made[1]) >= 2
    for one, two in zip(*made, strict=True):
        assert one.parent.name == two.parent.name, "the key does not depend on the number of processes"
        assert np.load(one).shape in {(119, 32), (120, 32)}
        np.testing.assert_allclose(np.load(two), np.load(one), rtol=0, atol=1e-5)


def test_an_error_is_said_and_nothing_is_waited_for(files):
    command = arguments("knn", files, "two")
    done = torchrun(2, *command[:-2], "--k", "500")
    assert done.returncode == 1
    assert "k must be" in done.stderr
    assert "Traceback" not in done.stderr.split("failed (exitcode")[0]
