"""The script as its user runs it, in this process or in one of its own, and a small network for it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vmflearn.backbones.creation import create_backbone

SCRIPT = Path(__file__).parents[3] / "scripts" / "evaluate.py"


class Evaluate:
    """Runs the script, on the processor."""

    def __init__(self, folder, checkpoint, capsys, monkeypatch):
        self.folder, self.checkpoint, self.capsys, self.monkeypatch = folder, checkpoint, capsys, monkeypatch

    def words(self, protocol, *arguments):
        """The command line."""
        network = ["--checkpoint", self.checkpoint, "--num-heads", 1, "--device", "cpu"]
        return [str(word) for word in (SCRIPT, protocol, *network, *arguments)]

    def __call__(self, protocol, *arguments):
        """Run it here; returns the exit status, what it printed, and what it said on stderr."""
        self.monkeypatch.setattr(sys, "argv", self.words(protocol, *arguments))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        said = self.capsys.readouterr()
        return ended.value.code, said.out, said.err

    def result(self, protocol, *arguments):
        """Run it here to a good end; returns the JSON that it wrote."""
        output = self.folder / "result.json"
        code, _, err = self(protocol, *arguments, "--output", output)
        assert code == 0, err
        return json.loads(output.read_text())

    def start(self, protocol, *arguments):
        """Start it as a process."""
        return subprocess.Popen(
            [sys.executable, *self.words(protocol, *arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A backbone of one block, as DINO publishes backbones."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 1}
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(create_backbone("vit_small_patch16_224", **options).state_dict(), path)
    return path


@pytest.fixture
def evaluate(tmp_path, checkpoint, capsys, monkeypatch):
    """`Evaluate`."""
    return Evaluate(tmp_path, checkpoint, capsys, monkeypatch)
