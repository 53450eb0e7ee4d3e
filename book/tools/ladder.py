"""What the lower rungs of chapter 13's ladder took and reached, from the folders of runs that were made.

    python scripts/pretrain.py --config scripts/configs/photos_vit_tiny_dino_vmf.yaml
    OMP_NUM_THREADS=1 python scripts/pretrain.py --config scripts/configs/photos_book.yaml --run-dir runs/photos_book
    python book/tools/ladder.py runs/photos runs/photos_book

Writes book/results/ladder.json: of each run its command, versions, time, memory, throughput, and some columns of its
records. Times are sums over timing.jsonl, evaluations included; what lies before the first step is not in them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from chapters import BOOK

from vmflearn.train.runs.records import read_metrics

KEPT = ("step", "loss", "teacher_entropy", "teacher_information", "components_used", "knn_top1", "linear_top1")
"""Columns of metrics.jsonl that the chapter draws."""


def summarise(folder: Path) -> dict[str, Any]:
    """One rung."""
    about = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    metrics, timing = read_metrics(folder / "metrics.jsonl"), read_metrics(folder / "timing.jsonl")
    config, command = about["command"][2], " ".join(["python", *about["command"]])
    versions = {name: about[name] for name in ("python", "torch", "torchvision", "timm")}
    return {
        "recipe": Path(config).stem,
        "command": command,
        **versions,
        "device": about["device"],
        "cores": os.cpu_count(),
        "threads": about["threads"],
        "steps": metrics[-1]["step"],
        "seconds": round(sum(line["seconds"] + line.get("evaluation_seconds", 0) for line in timing), 1),
        "images_per_second": round(statistics.median(line["images_per_second"] for line in timing), 1),
        "data_wait": round(statistics.median(line["data_wait"] for line in timing), 3),
        "mfu": round(statistics.median(line["mfu"] for line in timing), 3),
        "memory_gib": round(max(line["memory_gib"] for line in timing), 2),
        "records": [{name: round(line[name], 4) for name in KEPT if name in line} for line in metrics],
    }


def main(argv: list[str]) -> int:
    """Summarise the runs named on the command line."""
    if not argv:
        sys.exit("usage: python book/tools/ladder.py RUN_DIR ...")
    rungs = [summarise(Path(folder)) for folder in argv]
    text = json.dumps(rungs, indent=1)
    (BOOK / "results" / "ladder.json").write_text(text + "\n", encoding="utf-8")
    for rung in rungs:
        print({name: value for name, value in rung.items() if name != "records"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
