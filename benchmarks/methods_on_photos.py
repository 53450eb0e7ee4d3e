"""All five methods on the photographs: what kNN finds in what they learned, and whether a kill leaves a trace.

    python benchmarks/methods_on_photos.py            # five seeds of each: an hour on one core
    python benchmarks/methods_on_photos.py --quick    # a few steps each, to see that it runs

Each recipe ``scripts/configs/photos_vit_tiny_*.yaml`` is run by ``scripts/pretrain.py`` from beginning to end; DINO is
the recipe of DINO-vMF with free magnitudes and centring in logit space. The first steps of the first seed are run once
more, killed with SIGKILL on the way and started again: every line of ``metrics.jsonl`` must be that of the whole run,
to the last bit. Seeds are paired: run i of every method sees the same crops and starts from the same backbone. Prints
tables and writes them, with machine, versions and command, to methods_on_photos.md in benchmarks/results, after each
seed: a run that is stopped leaves what its whole seeds have given.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measure import RESULTS, environment, markdown_table
from scipy import stats

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
PAIRS = [("DINO", "DINO-vMF"), ("iBOT", "iBOT-vMF"), ("DINO", "iBOT"), ("DINO-vMF", "iBOT-vMF"), ("DINO", "MSN")]
"""What is compared with what: the second minus the first."""
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


class Run(NamedTuple):
    """What is kept of one run: its lines, its processor time, and whether a kill left no trace (None: not tried)."""

    seed: int
    lines: list[dict[str, Any]]
    seconds: float
    untrained: float
    unharmed: bool | None


def measure(name: str, seed: int, extra: Sequence[str], with_kill: bool) -> Run:
    """Run one method as a whole and, if asked, its first two epochs once more with a kill in the second."""
    recipe, settings = RECIPES[name]
    settings = [*settings, f"--seed={seed}", *extra]
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command(recipe, settings, Path(folder) / "whole"), check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole = lines(Path(folder) / "whole")
        unharmed = None
        if with_kill:
            epoch = max(line["step"] for line in whole if line["epoch"] == 0)
            kill_at, stop_at = (1, 3) if len(whole) < 4 else (epoch + 1, 2 * epoch)
            unharmed = same(whole, killed(recipe, settings, Path(folder) / "killed", kill_at, stop_at))
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seed, whole, seconds, untrained(recipe, settings), unharmed)


def row(name: str, runs: Sequence[Run]) -> list[str]:
    """One method's row of the first table: means over the seeds, and the standard deviation of kNN."""
    last = [run.lines[-1] for run in runs]
    named = sorted({finding for run in runs for line in run.lines for finding in line.get("findings", [])})
    return [
        name,
        f"{last[0]['step']}",
        f"{statistics.median(run.seconds for run in runs):.0f} s",
        f"{statistics.mean(run.untrained for run in runs):.3f}",
        spread([line["knn_top1"] for line in last]),
        spread([line["linear_top1"] for line in last]),
        f"{statistics.mean(line['unique_prototypes'] for line in last):.0f}",
        ", ".join(named) or "nothing",
        "equal to the last bit" if all(run.unharmed is not False for run in runs) else "**differs**",
    ]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds; with one seed the value."""
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def against(first: str, name: str, runs: dict[str, list[Run]]) -> list[str]:
    """Difference of two methods in points of kNN, paired by seed, with Student's 95 % interval."""
    pairs = zip(runs[name], runs[first], strict=True)
    points = [100 * (a.lines[-1]["knn_top1"] - b.lines[-1]["knn_top1"]) for a, b in pairs]
    mean, error = statistics.mean(points), statistics.stdev(points) / len(points) ** 0.5
    half = float(stats.t.ppf(0.975, len(points) - 1)) * error
    verdict = "resolved" if abs(mean) > half else "not resolved"
    return [f"{name} - {first}", f"{mean:+.1f}", f"{mean - half:+.1f} to {mean + half:+.1f}", verdict]


def report(runs: dict[str, list[Run]], given: Sequence[str]) -> str:
    """The page: what so many whole seeds have given."""
    seeds = min(len(own) for own in runs.values())
    head = ["method", "steps", "processor time", "random ViT", "kNN", "linear", "unique prototypes"]
    table = markdown_table(
        [*head, "the monitor names", "killed and continued"], [row(name, own) for name, own in runs.items()]
    )
    pairs = [(a, b) for a, b in PAIRS if a in runs and b in runs] if seeds > 1 else []
    text = (
        "# Five methods on photographs\n\n"
        "Recipes `scripts/configs/photos_vit_tiny_*.yaml` from beginning to end on one thread; DINO is DINO-vMF's with "
        "`head.normalization=none` and `teacher.centering=logit`. Accuracies are those at the end, on held-out places "
        "of the photographs, with the teacher's features: means over the seeds and the standard deviation of one seed; "
        "a random ViT is the backbone before its first step. For the last column the first two epochs of seed 0 were "
        "run again, killed by SIGKILL in the second and continued by the same command: the metrics of all their steps "
        "are compared with those of the whole run.\n\n"
        f"{environment('methods_on_photos.py', given, ['torch', 'timm'])} Seeds 0 to {seeds - 1}.\n\n{table}"
    )
    if pairs:
        head = ["kNN, points", "mean difference", "95 % interval", ""]
        text += (
            "\n## What the seeds can tell\n\n"
            "Differences are paired by seed (the same first backbone, the same crops), the intervals Student's with "
            f"{seeds - 1} degrees of freedom. A comparison whose interval holds 0 is not resolved by these runs, "
            "whatever its sign: the runs are short, the network small, and the ten photographs are not ImageNet.\n\n"
            + markdown_table(head, [against(a, b, runs) for a, b in pairs])
        )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the methods, print the table and write it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps each, to see that it runs")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 of every method")
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="METHOD")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for methods_on_photos.md")
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = parser.parse_args(given)
    extra = ["--run.log_every=1", "--run.max_steps=3"] if known.quick else []
    runs: dict[str, list[Run]] = {name: [] for name in known.methods}
    for seed in range(known.seeds):  # a seed of every method before the next: a stopped run has whole seeds
        for name in known.methods:
            runs[name].append(measure(name, seed, extra, with_kill=seed == 0))
            done = runs[name][-1]
            print(f"seed {seed}, {name}: kNN {done.lines[-1]['knn_top1']:.3f}, {done.seconds:.0f} s", flush=True)
        known.out.mkdir(parents=True, exist_ok=True)
        (known.out / "methods_on_photos.md").write_text(report(runs, given), encoding="utf-8")
    print(report(runs, given))
    last = [run for own in runs.values() for run in own]
    worse = [run for run in last if not known.quick and run.lines[-1]["knn_top1"] <= run.untrained]
    return 1 if worse or any(run.unharmed is False for run in last) else 0


if __name__ == "__main__":
    sys.exit(main())
