"""Pretrain a backbone with DINO, DINO-vMF or anything between, on one core or many GPUs.

    python scripts/pretrain.py --config scripts/configs/photos_vit_tiny_dino_vmf.yaml
    torchrun --nproc-per-node 8 scripts/pretrain.py --config scripts/configs/imagenet_vit_small16_dino_vmf.yaml \
        --data.root /data/imagenet/train --data.val_root /data/imagenet/val
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 scripts/pretrain.py ...

``--dry-run`` counts parameters, operations, memory and steps, and trains nothing; with ``--throughput`` or ``--mfu`` it
says how long the run takes, and with ``--images`` it needs no data:

    python scripts/pretrain.py --config scripts/configs/imagenet_vit_small16_dino_vmf.yaml --dry-run \
        --images 1281167 --devices 8 --throughput 8000

``--init-from FILE`` starts from a published checkpoint, from another run's (or its folder: the newest that can be
read), or from a backbone alone, and prints what was restored and what starts afresh.

``--method-file FILE`` executes a Python file that adds a method of your own (the book's page "Add a method" writes
one); ``method.name`` then chooses it.

Any setting of the configuration can be given as ``--section.key=value``. The same command continues a run that was
stopped or killed. Ctrl-C saves and exits with 130. ``torchrun --max-restarts N`` starts all processes again from the
last checkpoint when one of them is lost; ``scripts/slurm/pretrain.sbatch`` is a batch job that is put back into the
queue when its time is over.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, help="a YAML file, see scripts/configs (default: the built-in settings)")
    parser.add_argument("--run-dir", type=Path, help="folder of the run (default: runs/NAME of the configuration)")
    parser.add_argument(
        "--init-from", metavar="FILE", help="start from these weights: DINO's, iBOT's, MSN's or a run's (or its folder)"
    )
    parser.add_argument("--method-file", type=Path, metavar="FILE", help="a Python file that adds a method of your own")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="trace N steps into RUN_DIR/profile")
    plan = parser.add_argument_group("dry run")
    plan.add_argument("--dry-run", action="store_true", help="count what the run takes, and train nothing")
    plan.add_argument("--images", type=int, help="size of the training set, in place of counting it")
    plan.add_argument("--devices", type=int, default=int(os.environ.get("WORLD_SIZE", "1")), help="default: 1")
    plan.add_argument("--throughput", type=float, help="images a second of all devices together")
    plan.add_argument("--mfu", type=float, help="in its place: expected share of the matrix rate, measured here")
    known, rest = parser.parse_known_args()

    from vmflearn.train.runs.launch import run_command

    return run_command(lambda: _train(known, rest))


def _train(known: argparse.Namespace, rest: list[str]) -> None:
    """Pretrain as the command line says, or count what it would take."""
    from vmflearn.train import load_config, pretrain
    from vmflearn.train.config import join_overrides
    from vmflearn.train.methods.from_file import add_methods_from
    from vmflearn.train.runs.launch import join_processes

    if known.method_file is not None:
        add_methods_from(known.method_file)
    overrides = join_overrides(rest)
    if known.init_from is not None:
        overrides.append(f"run.init_from={json.dumps(known.init_from)}")
    if known.dry_run:
        _dry_run(known, overrides)
        return
    config = load_config(known.config, overrides)
    join_processes(config.run.device)
    result = pretrain(config, known.run_dir or Path("runs") / config.name, profile=known.profile)
    if int(os.environ.get("RANK", "0")) == 0:
        accuracy = result.metrics.get("knn_top1")
        print(
            f"finished after {result.steps} steps"
            + (f"; kNN top-1 {accuracy:.3f}" if accuracy is not None else "")
            + f"; backbone, metrics and checkpoints are in {result.run_dir}"
        )


def _dry_run(known: argparse.Namespace, overrides: list[str]) -> None:
    """Print what the run would take."""
    from vmflearn.train import load_config
    from vmflearn.train.cost.plan import describe, make_plan

    if known.images is not None:
        overrides = ["data.root=not-needed", *overrides]  # a recipe leaves it to the command line, and none is read
    config = load_config(known.config, overrides)
    plan = make_plan(config, images=known.images, devices=known.devices, throughput=known.throughput, mfu=known.mfu)
    if int(os.environ.get("RANK", "0")) == 0:
        print(describe(plan))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while Python and PyTorch were loaded
        print("interrupted before anything was started", file=sys.stderr)
        sys.exit(130)
