"""What chapters 8, 9 and 10 read besides the library: shipped models and stored results are what their recipes make."""

import json

import pytest
import ship_patches
import torch
import yaml
from chapters import BOOK
from ship_models import NAMES

from vmflearn import paper
from vmflearn.data import load_photos
from vmflearn.evaluate import extract_features, knn_accuracy
from vmflearn.ssl import load_published
from vmflearn.train import load_config
from vmflearn.train.runs.records import read_metrics

CONFIGS = BOOK.parent / "scripts" / "configs"
MODELS = BOOK / "models"


def test_the_shipped_models_are_small():
    assert sum(path.stat().st_size for path in MODELS.iterdir()) < 5_000_000


@pytest.mark.parametrize(("cell", "name"), NAMES.items())
def test_a_shipped_model_follows_its_recipe_and_reaches_what_its_log_says(cell, name):
    normalization, centering = cell.split("+")
    words = [f"head.normalization={normalization}", f"teacher.centering={centering}"]
    assert load_config(MODELS / f"{name}.yaml") == load_config(CONFIGS / "photos_book.yaml", words)
    backbone, head = load_published(MODELS / f"{name}.pt")
    assert head.prototypes.normalization == normalization
    log, train, test = read_metrics(MODELS / f"{name}.jsonl")[-1], load_photos("train"), load_photos("test")
    x, x_test = (extract_features(backbone, photos.images, size=32) for photos in (train, test))
    assert knn_accuracy(x, train.labels, x_test, test.labels, k=20) == pytest.approx(log["knn_top1"], abs=0.01)
    origin = json.loads((MODELS / "origin.json").read_text())[name]
    assert (origin["seed"], origin["step"], origin["knn_top1"]) == (0, log["step"], log["knn_top1"])


def test_the_stored_ablation_has_every_cell_and_seed():
    stored = BOOK / "results" / "photos_ablation"
    runs = json.loads((stored / "results.json").read_text())["runs"]
    cells = {f"{n}+{c}" for n in paper.NORMALIZATIONS for c in paper.CENTERINGS}
    assert {(run["cell"], run["seed"]) for run in runs} == {(cell, seed) for cell in cells for seed in range(4)}
    recipe = load_config(CONFIGS / "photos_ablation.yaml")
    assert {run["steps"] for run in runs} == {recipe.run.epochs * (1800 // recipe.optimizer.batch_size)}
    log = read_metrics(stored / "vmf+probability_seed-0.jsonl")[-1]
    (run,) = (run for run in runs if (run["cell"], run["seed"]) == ("vmf+probability", 0))
    assert {name: run[name] for name in run if name in log} == {name: log[name] for name in run if name in log}
    assert run["knn_top1"] == log["knn_top1"]


PATCHES = json.loads((BOOK / "results" / "photos_patches.json").read_text())


@pytest.mark.parametrize(("cell", "name"), ship_patches.NAMES.items())
def test_a_shipped_model_with_patches_follows_its_recipe_and_gives_what_is_stored(cell, name, tmp_path):
    normalization, centering = cell.split("+")
    words = [f"head.normalization={normalization}", f"teacher.centering={centering}"]
    path = MODELS / f"{name}.pt"
    saved = torch.load(path, weights_only=True)
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump(saved["config"]))
    assert load_config(tmp_path / "saved.yaml") == load_config(CONFIGS / "photos_patches.yaml", words)
    (run,) = (run for run in PATCHES["runs"] if (run["cell"], run["seed"]) == (cell, 0))
    backbone, head = load_published(path)
    found = ship_patches.measure(backbone, head, ship_patches.centering_of(saved, "patch_centering"))
    assert {key: run[key] for key in found} == pytest.approx(found, rel=0.02)
    train, test = load_photos("train"), load_photos("test")
    x, x_test = (extract_features(backbone, photos.images, size=32) for photos in (train, test))
    assert knn_accuracy(x, train.labels, x_test, test.labels, k=20) == pytest.approx(run["knn_top1"], abs=0.01)
    assert PATCHES["origin"][name]["seed"] == 0


def test_the_stored_runs_with_patches_have_every_cell_and_seed():
    runs = PATCHES["runs"]
    assert sorted((run["cell"], run["seed"]) for run in runs) == [
        (cell, seed) for cell in sorted(ship_patches.NAMES) for seed in range(3)
    ]
    recipe, without = (load_config(CONFIGS / f"photos_{name}.yaml") for name in ("patches", "ablation"))
    assert {run["step"] for run in runs} == {recipe.run.epochs * (1800 // recipe.optimizer.batch_size)}
    for section in ("data", "views", "model", "head", "teacher", "optimizer", "run"):  # as the chapter says
        assert getattr(recipe, section) == getattr(without, section)
    for run in runs:
        assert len(set(map(len, run["curves"].values()))) == 1
        assert run["curves"]["loss"][-1] == run["loss"]
