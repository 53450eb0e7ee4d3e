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

import torch


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
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="trace N steps into RUN_DIR/profile")
    plan = parser.add_argument_group("dry run")
    plan.add_argument("--dry-run", action="store_true", help="count what the run takes, and train nothing")
    plan.add_argument("--images", type=int, help="size of the training set, in place of counting it")
    plan.add_argument("--devices", type=int, default=int(os.environ.get("WORLD_SIZE", "1")), help="default: 1")
    plan.add_argument("--throughput", type=float, help="images a second of all devices together")
    plan.add_argument("--mfu", type=float, help="in its place: expected share of the matrix rate, measured here")
    known, rest = parser.parse_known_args()

    from vmflearn.train import CheckpointError, ConfigError, Interrupted, TrainingError, load_config, pretrain
    from vmflearn.train.loader import DataError

    try:
        overrides = _overrides(rest)
        if known.init_from is not None:
            overrides.append(f"run.init_from={json.dumps(known.init_from)}")
        if known.dry_run:
            return _dry_run(known, overrides)
        config = load_config(known.config, overrides)
        _join_processes(config.run.device)
        result = pretrain(config, known.run_dir or Path("runs") / config.name, profile=known.profile)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("interrupted at once; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except (ConfigError, CheckpointError, DataError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not _lost_peer(error):
            raise
        print(
            f"error: another process was lost ({str(error).splitlines()[0][:200]}); torchrun --max-restarts starts all "
            "of them again from the last checkpoint, as does the same command",
            file=sys.stderr,
        )
        return 3
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", "0")) == 0:
        accuracy = result.metrics.get("knn_top1")
        print(
            f"finished after {result.steps} steps"
            + (f"; kNN top-1 {accuracy:.3f}" if accuracy is not None else "")
            + f"; backbone, metrics and checkpoints are in {result.run_dir}"
        )
    return 0


def _dry_run(known: argparse.Namespace, overrides: list[str]) -> int:
    """Print what the run would take."""
    from vmflearn.train import load_config
    from vmflearn.train.plan import describe, make_plan

    if known.images is not None:
        overrides = ["data.root=not-needed", *overrides]  # a recipe leaves it to the command line, and none is read
    config = load_config(known.config, overrides)
    plan = make_plan(config, images=known.images, devices=known.devices, throughput=known.throughput, mfu=known.mfu)
    if int(os.environ.get("RANK", "0")) == 0:
        print(describe(plan))
    return 0


def _overrides(arguments: list[str]) -> list[str]:
    """Join ``--section.key value`` to ``--section.key=value``."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _lost_peer(error: RuntimeError) -> bool:
    """Whether an exchange failed because its other end is gone, which is no fault of this process."""
    signs = ("connection reset by peer", "connection closed by peer", "broken pipe")
    lost = isinstance(error, torch.distributed.DistError) or any(sign in str(error).lower() for sign in signs)
    return lost and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _join_processes(device: str) -> None:
    """Join the process group that torchrun has prepared; without torchrun do nothing."""
    if "WORLD_SIZE" not in os.environ or "MASTER_ADDR" not in os.environ:
        return
    on_gpu = torch.cuda.is_available() and not device.startswith("cpu")
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    from vmflearn.rendezvous import fresh_store

    store, rank, world_size = next(torch.distributed.rendezvous("env://"))
    torch.distributed.init_process_group(
        # Between GPUs nccl; gloo beside it for what processors tell one another, so that they need not wait for GPUs.
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=fresh_store(store, rank, world_size),
        rank=rank,
        world_size=world_size,
    )


if __name__ == "__main__":
    sys.exit(main())
