"""Pack the finished runs of `scripts/configs/photos_book.yaml` for chapter 9.

    python book/tools/ship_models.py runs/photos_book

Writes into book/models, for each cell: NAME.pt, the teacher with its centre in float16, which `load_published` reads;
NAME.yaml, the recipe with every setting; NAME.jsonl, the log; and one origin.json with versions and machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from chapters import BOOK

from vmflearn.train.checkpoints.checkpoint import load_newest
from vmflearn.train.runs.records import read_metrics

NAMES = {"none+logit": "dino", "vmf+probability": "dino_vmf"}
"""Cells of the ablation, and what the files are called."""

ORIGIN = ("python", "torch", "torchvision", "timm", "device", "threads", "processes")
"""Of a run's environment.json, what is stored: nothing that names a place on a machine."""


def halved(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with its floating-point tensors in float16."""
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def ship(run: Path, name: str, folder: Path) -> dict[str, Any]:
    """Pack one run; returns its versions, its seed and what it reached."""
    saved = load_newest(run / "checkpoints", lambda text: sys.exit(text))
    metrics = read_metrics(run / "metrics.jsonl") if saved is not None else []
    if saved is None or metrics[-1]["step"] != saved["step"] or "knn_top1" not in metrics[-1]:
        sys.exit(f"{run} is not a finished run: give the same command of scripts/ablation.py again")
    packed = {"step": saved["step"], "config": saved["config"], "teacher": halved(saved["teacher"])}
    torch.save(packed | {"centering": saved["centering"]}, folder / f"{name}.pt")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(saved["config"], sort_keys=False), encoding="utf-8")
    lines = [{k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()} for line in metrics]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    reached = {key: lines[-1][key] for key in ("step", "knn_top1", "linear_top1", "unique_prototypes")}
    return {"seed": saved["config"]["seed"], **{key: environment[key] for key in ORIGIN}, **reached}


def main(argv: list[str]) -> int:
    """Pack all runs below a folder."""
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        sys.exit("usage: python book/tools/ship_models.py FOLDER, that of scripts/ablation.py's --run-dir")
    folder = BOOK / "models"
    folder.mkdir(exist_ok=True)
    origin = {}
    for cell, name in NAMES.items():
        (run,) = (Path(argv[0]) / cell).glob("seed-*")
        origin[name] = ship(run, name, folder)
        print(f"{name}: {(folder / f'{name}.pt').stat().st_size / 1e6:.2f} MB, {origin[name]}")
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
