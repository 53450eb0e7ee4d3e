"""Repeat the ablation of the paper's Table 1: how prototypes are normalised, and in which space the teacher is centred.

    python scripts/ablation.py --config scripts/configs/photos_vit_tiny_dino_vmf.yaml --seeds 0 1
    python scripts/ablation.py --config CONFIG --cells none+logit vmf+probability --seeds 0 1 2 --section.key=value ...
    torchrun --nproc-per-node 8 scripts/ablation.py --config CONFIG ...

The recipe may be of any method. With ``teacher.centering: sinkhorn``, as MSN has it, the cells are the three ways of
normalising alone; else the six of the table.

Every cell and seed is a run of `scripts/pretrain.py` in a folder of its own below ``--run-dir``; under torchrun all
processes train one after the other, each a share of its batches. The same command goes
on where it was stopped: finished runs are read, an unfinished one continues. Seeds can be shared out over several
commands with the same ``--run-dir``; a last one with all seeds finds them and writes the whole table.

``results.json`` holds what every run reached, ``results.md`` means, spreads and, apart from them, the paper's numbers.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmflearn import paper

if TYPE_CHECKING:
    from vmflearn.train import Config

CELLS = tuple(
    f"{normalization}+{centering}" for normalization in paper.NORMALIZATIONS for centering in paper.CENTERINGS
)
BALANCED = tuple(f"{normalization}+sinkhorn" for normalization in paper.NORMALIZATIONS)
ALL = CELLS + BALANCED
KEPT = (
    "knn_top1",
    "linear_top1",
    "loss",
    "teacher_entropy",
    "teacher_information",
    "unique_prototypes",
    "largest_duplicate_set",
    "kappa_p5",
    "kappa_p50",
    "kappa_p95",
    "components_used",
    "void_prototypes",
    "feature_rank",
)
"""Of the last line of a run's metrics, what results.json keeps."""


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, required=True, help="the recipe that all cells share")
    parser.add_argument("--cells", nargs="+", choices=ALL, metavar="CELL", help=", ".join(ALL))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="SEED")
    parser.add_argument("--run-dir", type=Path, help="folder of the runs (default: runs/NAME_ablation)")
    known, rest = parser.parse_known_args()
    for name in ("cells", "seeds"):
        given = getattr(known, name) or []
        twice = [str(value) for value in dict.fromkeys(given) if given.count(value) > 1]
        if twice:
            parser.error(f"argument --{name}: {', '.join(twice)} is given more than once")

    from vmflearn.train.runs.launch import run_command

    return run_command(lambda: _train(known, rest))


def _train(known: argparse.Namespace, rest: list[str]) -> None:
    """Train all cells, and write what they reached."""
    import torch

    from vmflearn import distributed
    from vmflearn.train import load_config
    from vmflearn.train.config import join_overrides
    from vmflearn.train.runs.launch import join_processes

    overrides = join_overrides(rest)
    shared = load_config(known.config, overrides)
    folder = known.run_dir or Path("runs") / f"{shared.name}_ablation"
    cells = known.cells or (BALANCED if shared.teacher.centering == "sinkhorn" else CELLS)
    configs = {(cell, seed): cell_config(known.config, overrides, cell, seed) for seed in known.seeds for cell in cells}
    join_processes(shared.run.device)
    first, runs = distributed.rank() == 0, []
    for i, ((cell, seed), config) in enumerate(configs.items(), start=1):
        if first:
            print(f"[{i} of {len(configs)}] {cell}, seed {seed}", flush=True)
        runs.append(run_cell(config, cell, seed, folder))
    results = {
        "config": known.config.name,
        "method": shared.method.name,
        "overrides": overrides,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "runs": runs,
    }
    if first:
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        report = table(results)
        (folder / "results.md").write_text(report, encoding="utf-8")
        print(report)


def cell_config(path: Path, overrides: list[str], cell: str, seed: int) -> "Config":
    """The recipe of one cell: what makes it this cell comes last, so that nothing given for all can change it."""
    from vmflearn.train import ConfigError, load_config

    normalization, centering = cell.split("+")
    settings = {"head.normalization": normalization, "teacher.centering": centering, "seed": seed}
    for override in overrides:
        key = override.lstrip("-").partition("=")[0]
        if key in settings:
            raise ConfigError(f"{override}: the runs of an ablation differ in {key}; choose with --cells and --seeds")
    try:
        return load_config(path, [*overrides, *(f"{key}={value}" for key, value in settings.items())])
    except ConfigError as error:
        raise ConfigError(f"cell {cell}: {error}") from None


def run_cell(config: "Config", cell: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one cell with one seed, or go on with it, or read it; returns what it reached."""
    from vmflearn.train import pretrain

    result = pretrain(config, folder / cell / f"seed-{seed}")
    reached = {name: result.metrics[name] for name in KEPT if name in result.metrics}
    return {"cell": cell, "seed": seed, "steps": result.steps, **reached}


def summary(runs: list[dict[str, Any]], cell: str, name: str) -> tuple[float, float | None, int] | None:
    """Mean, standard deviation over seeds (None for one seed) and number of seeds; None where nothing was measured."""
    values = [run[name] for run in runs if run["cell"] == cell and name in run]
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    runs, cells = results["runs"], []
    for run in runs:
        if run["cell"] not in cells:
            cells.append(run["cell"])
    seeds = sorted({run["seed"] for run in runs})
    lines = [
        f"# Ablation: {results['config']}",
        "",
        f"Seeds {', '.join(map(str, seeds))}; ± is the standard deviation over seeds. torch {results['torch']}, "
        f"{results['threads']} thread(s)."
        + (f" Overrides: {' '.join(results['overrides'])}." * bool(results["overrides"])),
        "",
        "| prototypes + centring | kNN top-1, % | linear probe of the run, % | unique prototypes | "
        "largest duplicate set | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for cell in sorted(cells, key=ALL.index):
        accuracy, unique = summary(runs, cell, "knn_top1"), summary(runs, cell, "unique_prototypes")
        linear, largest = summary(runs, cell, "linear_top1"), summary(runs, cell, "largest_duplicate_set")
        n = sum(run["cell"] == cell for run in runs)
        lines.append(
            f"| {cell} | {_shown(accuracy, 100, 1)} | {_shown(linear, 100, 1)} | {_shown(unique, 1, 0)} | "
            f"{_shown(largest, 1, 0)} | {n} |"
        )
    if results.get("method", "dino") != "dino":  # Table 1 is DINO's
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "The paper reports (Table 1: ImageNet, ViT-Small/16, 100 epochs, two runs, kNN top-1, %; not measured here):",
        "",
        "| prototypes | logit centring | probability centring |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {n} | {paper.TABLE_1[n, 'logit']:.2f} | {paper.TABLE_1[n, 'probability']:.2f} |"
        for n in paper.NORMALIZATIONS
    ]
    return "\n".join(lines) + "\n"


def _shown(found: tuple[float, float | None, int] | None, scale: float, digits: int) -> str:
    """A mean and its spread."""
    if found is None:
        return "not measured"
    mean, spread, _ = found
    return f"{scale * mean:.{digits}f}" + ("" if spread is None else f" ± {scale * spread:.{digits}f}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while Python and PyTorch were loaded, or between two cells
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
