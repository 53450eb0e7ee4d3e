"""The ablation script: every cell its run, killed and continued, and the table that comes out."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import preloaded
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "ablation.py"
COMMAND = [
    str(SCRIPT),
    "--config",
    str(ROOT / "scripts" / "configs" / "photos_vit_tiny_dino_vmf.yaml"),
    "--cells",
    "l2+logit",
    "vmf+probability",
    "--seeds",
    "5",
    "--head.out_dim=32",
    "--model.options={img_size: 32, patch_size: 16, embed_dim: 16, depth: 1, num_heads: 1}",
    "--views.n_local=1",
    "--optimizer.batch_size=256",
    "--optimizer.warmup_epochs=0",
    "--run.epochs=2",
    "--run.save_every=1",
    "--run.log_every=1",
    "--run.device=cpu",
]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder, *more):
    return preloaded.run([*COMMAND, "--run-dir", folder, *more])


def test_a_killed_ablation_ends_as_one_that_was_left_alone(tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    process = preloaded.start([*COMMAND, "--run-dir", killed])
    second = killed / "vmf+probability" / "seed-5" / "metrics.jsonl"
    while not (second.exists() and second.read_text()):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()
    first = killed / "l2+logit" / "seed-5" / "metrics.jsonl"
    before = first.stat().st_mtime_ns
    assert not (killed / "results.json").exists()

    again = run(killed)
    assert again.returncode == 0, again.stderr
    assert first.stat().st_mtime_ns == before, "a finished cell was trained again"
    results = json.loads((killed / "results.json").read_text())
    assert results == json.loads((tmp_path / "whole" / "results.json").read_text())
    assert [(r["cell"], r["seed"]) for r in results["runs"]] == [("l2+logit", 5), ("vmf+probability", 5)]
    assert all(0 < r["knn_top1"] <= 1 and 1 <= r["unique_prototypes"] <= 32 for r in results["runs"])
    report = (killed / "results.md").read_text()
    assert report in again.stdout
    knn = results["runs"][0]["knn_top1"]
    assert f"| l2+logit | {100 * knn:.1f} | {100 * results['runs'][0]['linear_top1']:.1f} |" in report


def test_what_makes_a_cell_is_stronger_than_what_is_given_for_all(script):
    config = ROOT / "scripts" / "configs" / "photos_ablation.yaml"
    for cell in script.CELLS:
        section = "--head={normalization: l2, out_dim: 48}"
        found = script.cell_config(config, [section, "--teacher.temp=0.05"], cell, 3)
        assert (found.head.normalization, found.teacher.centering) == tuple(cell.split("+"))
        assert (found.seed, found.head.out_dim, found.teacher.temp) == (3, 48, 0.05)


SMALL = [argument for argument in COMMAND[7:] if argument.startswith("--")]
METHODS = {
    "ibot": ("none+logit", ["--method.patch_temp_warmup_epochs=0"]),
    "msn": ("vmf+sinkhorn", ["--run.max_steps=2"]),
}


@pytest.mark.parametrize("method", METHODS)
def test_cells_of_other_methods_are_trained(script, method, tmp_path, monkeypatch, capsys):
    cell, more = METHODS[method]
    small = [argument.replace("patch_size: 16", "patch_size: 8") for argument in SMALL]
    argv = ["--config", str(ROOT / "scripts" / "configs" / f"photos_vit_tiny_{method}.yaml"), "--cells", cell]
    argv += ["--seeds", "5", "--run-dir", str(tmp_path), *small, *more, "--run.max_steps=2"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *argv])
    assert script.main() == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(run["cell"], run["steps"]) for run in results["runs"]] == [(cell, 2)]
    report = capsys.readouterr().out
    assert f"| {cell} | " in report
    assert "Table 1" not in report  # which is DINO's


def test_the_cells_are_those_that_the_recipe_can_have(script, tmp_path, monkeypatch, capsys):
    seen = []

    def note(config, cell, seed, folder):
        folder.mkdir(exist_ok=True)
        seen.append((cell, config.method.name, config.head.normalization, config.teacher.centering))
        return {"cell": cell, "seed": seed, "steps": 0}

    monkeypatch.setattr(script, "run_cell", note)
    for name, cells in (("ibot_vmf", script.CELLS), ("msn", script.BALANCED)):
        seen.clear()
        config = str(ROOT / "scripts" / "configs" / f"photos_vit_tiny_{name}.yaml")
        monkeypatch.setattr(sys, "argv", ["ablation.py", "--config", config, "--seeds", "0", f"--run-dir={tmp_path}"])
        assert script.main() == 0
        assert [run[0] for run in seen] == list(cells)
        assert all(run == (run[0], name.partition("_")[0], *run[0].split("+")) for run in seen)
    config = str(ROOT / "scripts" / "configs" / "photos_vit_tiny_ibot.yaml")
    for argv, said in (
        (["--config", config, "--cells", "l2+sinkhorn"], "cell l2+sinkhorn: teacher.centering=sinkhorn: iBOT centres"),
        (
            ["--config", config.replace("ibot", "msn"), "--cells", "l2+logit"],
            "cell l2+logit: teacher.centering=logit: MSN",
        ),
    ):
        seen.clear()
        monkeypatch.setattr(sys, "argv", ["ablation.py", *argv, f"--run-dir={tmp_path}"])
        assert script.main() == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.strip().splitlines()) == 1
        assert seen == []


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_every_cell_together(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *COMMAND]
    short = ["--run.max_steps=4", "--model.drop_path=0", "--head.batch_norm=false", "--run.precision=float64"]
    for folder, command in (("one", [sys.executable, *COMMAND]), ("two", torchrun)):
        done = subprocess.run(
            [*command, *short, f"--run-dir={tmp_path / folder}"],
            env={**os.environ, **preloaded.FIXED},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("[2 of 2] vmf+probability, seed 5") == 1
        assert done.stdout.count("# Ablation") == 1
    one, two = (json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for ours, theirs in zip(one["runs"], two["runs"], strict=True):
        assert ours["cell"] == theirs["cell"]
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6)
    about = json.loads((tmp_path / "two" / "l2+logit" / "seed-5" / "environment.json").read_text())
    assert about["processes"] == 2


def test_the_table_gives_means_and_spreads_apart_from_the_papers_numbers(script):
    runs = [
        {"cell": "vmf+probability", "seed": 0, "knn_top1": 0.70, "unique_prototypes": 10, "largest_duplicate_set": 3},
        {"cell": "vmf+probability", "seed": 1, "knn_top1": 0.74, "unique_prototypes": 14, "largest_duplicate_set": 5},
        {"cell": "none+logit", "seed": 0, "linear_top1": 0.555, "unique_prototypes": 7, "largest_duplicate_set": 1},
    ]
    report = script.table({"config": "c.yaml", "overrides": [], "torch": "2", "threads": 1, "runs": runs})
    ours, papers = report.split("The paper reports")
    assert "| vmf+probability | 72.0 ± 2.8 | not measured | 12 ± 3 | 4 ± 1 | 2 |" in ours  # sd of 70, 74 is 2.83
    assert "| none+logit | not measured | 55.5 | 7 | 1 | 1 |" in ours
    assert ours.index("none+logit") < ours.index("vmf+probability")
    assert "| vmf | 70.21 | 70.87 |" in papers


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path):
    unknown = run(tmp_path / "a", "--cells", "l3+logit")
    assert unknown.returncode == 2
    assert "l3+logit" in unknown.stderr
    wrong = run(tmp_path / "b", "--head.out_dims=3")
    assert wrong.returncode == 2
    assert "did you mean head.out_dim?" in wrong.stderr
    for arguments, words in (
        (["--head.normalization", "vmf"], "the runs of an ablation differ in head.normalization; choose with --cells"),
        (["--seed=1"], "differ in seed; choose with --cells and --seeds"),
        (["--seeds", "1", "2", "1"], "argument --seeds: 1 is given more than once"),
        (["--seeds", "1", "-2"], "seed must be at least 0, not -2"),  # though its turn comes late
    ):
        wrong = run(tmp_path / "b", *arguments)
        assert wrong.returncode == 2
        assert words in wrong.stderr
    assert not (tmp_path / "b").exists()
