"""All five methods on the photographs: what kNN finds in what they learned, and whether a kill leaves a trace.

    python benchmarks/methods_on_photos.py            # a quarter of an hour on one core
    python benchmarks/methods_on_photos.py --quick    # a few steps each, to see that it runs

Each recipe ``scripts/configs/photos_vit_tiny_*.yaml`` is run by ``scripts/pretrain.py`` from beginning to end; DINO is
the recipe of DINO-vMF with free magnitudes and centring in logit space. Its first steps are run once more, killed with
SIGKILL on the way and started again: every line of ``metrics.jsonl`` must be that of the whole run, to the last bit.
Prints a table and writes it, with machine, versions and command, to methods_on_photos.md in benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measure import RESULTS, environment, markdown_table

from vmflearn.train import load_config
from vmflearn.train.runs.records import read_metrics
from vmflearn.train.state import State

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "scripts" / "configs"
PLAIN = ["--head.normalization=none", "--teacher.centering=logit"]
RECIPES: dict[str, tuple[str, list[str]]] = {
    "DINO": ("photos_vit_tiny_dino_vmf", PLAIN),
    "DINO-vMF": ("photos_vit_tiny_dino_vmf", []),
    "iBOT": ("photos_vit_tiny_ibot", []),
    "iBOT-vMF": ("photos_vit_tiny_ibot_vmf", []),
    "MSN": ("photos_vit_tiny_msn", []),
}
EVALUATED = {"knn_top1", "linear_top1", "unique_prototypes", "largest_duplicate_set"}
"""What a line has only where a run ends or evaluates."""


def command(recipe: str, settings: Sequence[str], folder: Path) -> list[str]:
    """The command that runs a recipe in a folder."""
    script = [sys.executable, str(ROOT / "scripts" / "pretrain.py")]
    return [*script, "--config", str(CONFIGS / f"{recipe}.yaml"), "--run-dir", str(folder), *settings]


def lines(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics; none if there is no file yet."""
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def untrained(recipe: str, settings: Sequence[str]) -> float:
    """Accuracy of kNN on the backbone that a run starts from."""
    config = load_config(CONFIGS / f"{recipe}.yaml", [*settings, "run.device=cpu"])
    torch.manual_seed(config.seed)
    state = State(config, torch.device("cpu"))
    assert state.probe is not None
    return state.probe(state.teacher.backbone)


def killed(recipe: str, settings: Sequence[str], folder: Path, kill_at: int, stop_at: int) -> list[dict[str, Any]]:
    """Metrics of the first steps of a run that is killed once at least so many have been recorded, and continued."""
    argv = [*command(recipe, settings, folder), "--run.save_every=1", f"--run.max_steps={stop_at}"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any(line["step"] >= kill_at for line in lines(folder)):
        if process.poll() is not None:
            raise RuntimeError(f"{recipe} ended with {process.returncode} before it could be killed")
        time.sleep(0.01)
    process.kill()
    process.wait()
    if lines(folder)[-1]["step"] >= stop_at:
        raise RuntimeError(f"{recipe} was killed after its last step: kill earlier")
    subprocess.run(argv, check=True, capture_output=True)
    return lines(folder)


def same(whole: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]]) -> bool:
    """Whether all lines of a run are the first ones of another, but for what evaluations add."""
    bare = [[{k: v for k, v in line.items() if k not in EVALUATED} for line in run] for run in (whole, again)]
    return len(again) > 0 and bare[0][: len(again)] == bare[1]


def measure(name: str, extra: Sequence[str]) -> list[str]:
    """Run one method as a whole, and its first two epochs once more with a kill in the second; its row of the table."""
    recipe, settings = RECIPES[name]
    settings = [*settings, *extra]
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command(recipe, settings, Path(folder) / "whole"), check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole = lines(Path(folder) / "whole")
        epoch = max(line["step"] for line in whole if line["epoch"] == 0)
        kill_at, stop_at = (1, 3) if len(whole) < 4 else (epoch + 1, 2 * epoch)
        again = killed(recipe, settings, Path(folder) / "killed", kill_at, stop_at)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    first, last = untrained(recipe, settings), whole[-1]
    named = sorted({finding for line in whole for finding in line.get("findings", [])})
    return [
        name,
        f"{last['step']}",
        f"{seconds:.0f} s",
        f"{first:.3f}",
        f"{last['knn_top1']:.3f}",
        f"{max(line['knn_top1'] for line in whole if 'knn_top1' in line):.3f}",
        ", ".join(named) or "nothing",
        "equal to the last bit" if same(whole, again) else "**differs**",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the methods, print the table and write it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps each, to see that it runs")
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="METHOD")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for methods_on_photos.md")
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = parser.parse_args(given)
    extra = ["--run.log_every=1", "--run.max_steps=3"] if known.quick else []
    rows = [measure(name, extra) for name in known.methods]
    head = ["method", "steps", "processor time", "random ViT", "kNN at the end", "best kNN", "the monitor names"]
    table = markdown_table([*head, "killed and continued"], rows)
    text = (
        "# Five methods on photographs\n\n"
        "Recipes `scripts/configs/photos_vit_tiny_*.yaml` from beginning to end on one thread; DINO is DINO-vMF's with "
        "`head.normalization=none` and `teacher.centering=logit`. Accuracies are those of kNN on held-out places of "
        "the photographs, with the teacher's features; a random ViT is the backbone before its first step. For the "
        "last column the first two epochs were run again, killed by SIGKILL in the second and continued by the same "
        "command: the metrics of all their steps are compared with those of the whole run.\n\n"
        f"{environment('methods_on_photos.py', given, ['torch', 'timm'])}\n\n{table}"
    )
    print(text)
    known.out.mkdir(parents=True, exist_ok=True)
    (known.out / "methods_on_photos.md").write_text(text, encoding="utf-8")
    bad = [row[0] for row in rows if row[-1].startswith("**") or (not known.quick and float(row[4]) <= float(row[3]))]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
