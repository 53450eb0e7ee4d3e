"""The script as its user runs it, in this process or in one of its own, and a small network for it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.backbones.creation import create_backbone
from vmflearn.weights.published import load_published

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

    def moved(self, cache, before):
        """How far each array that is new in a cache is from the nearest of those before."""
        old, new = [np.load(path) for path in before], [np.load(p) for p in cache.glob("*/*.npy") if p not in before]
        return [min(np.abs(a - b).max() / np.abs(b).max() for b in old if b.shape == a.shape) for a in new]

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
    weights = create_backbone("vit_small_patch16_224", **options).state_dict()
    weights["norm.weight"] += 0.4 * torch.randn(64)  # trained: what comes before the last norm is something else
    weights["norm.bias"] += 0.4 * torch.randn(64)
    torch.save(weights, path)
    return path


@pytest.fixture
def evaluate(tmp_path, checkpoint, capsys, monkeypatch):
    """`Evaluate`."""
    return Evaluate(tmp_path, checkpoint, capsys, monkeypatch)


@pytest.fixture(scope="session")
def classes(tmp_path_factory):
    """Three classes in folders of noise that the network above hardly tells apart; one training image is damaged.

    Images are as large as the network's are before the margin is cut, so that nothing has to be resized.
    """
    folder = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    tints = generator.normal(0, 25, (3, 37, 37, 3))
    for part, counts in (("train", (13, 12, 12)), ("val", (9, 4, 6))):
        for label, (name, n) in enumerate(zip("abc", counts, strict=True)):
            (folder / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = 128 + tints[label] + generator.normal(0, 60, (37, 37, 3))
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.save(folder / part / name / f"{part}_{name}_{i:02d}.png")
    (folder / "train" / "a" / "train_a_05.png").write_bytes(b"no picture")
    return folder


class Longhand:
    """Features of class folders, image by image, and their labels: those of the output, or of the token before it."""

    def __init__(self, checkpoint, folder):
        backbone, _ = load_published(checkpoint, num_heads=1)
        norm, mean, std = backbone.norm, np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
        for part in ("train", "val"):
            rows = [[], []]
            paths = [path for path in sorted((folder / part).glob("*/*.png")) if path.name != "train_a_05.png"]
            for path in paths:
                pixels = np.asarray(Image.open(path))[2:34, 2:34] / 255
                image = torch.tensor((pixels - mean) / std).float().permute(2, 0, 1)[None]
                with torch.no_grad():
                    for found, last in zip(rows, (norm, torch.nn.Identity()), strict=True):
                        backbone.norm = last
                        found.append(backbone(image)[0])
            labels = torch.tensor(["abc".index(path.parent.name) for path in paths])
            setattr(self, part, (torch.stack(rows[0]), labels))
            setattr(self, f"{part}_before", (torch.stack(rows[1]), labels))
            setattr(self, f"{part}_paths", paths)


@pytest.fixture(scope="session")
def longhand(checkpoint, classes):
    """`Longhand` of the two fixtures above."""
    return Longhand(checkpoint, classes)
