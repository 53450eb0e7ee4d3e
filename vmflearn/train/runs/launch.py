"""A training command among the processes that torchrun starts, and how it ends: an exit status, and one line on why.

Shared by ``scripts/pretrain.py`` and ``scripts/ablation.py``.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from vmflearn.distributed import ElsewhereError
from vmflearn.orphans import end_with_parent
from vmflearn.rendezvous import fresh_store
from vmflearn.train.checkpoints.checkpoint import CheckpointError
from vmflearn.train.config import ConfigError
from vmflearn.train.input.batches import DataError
from vmflearn.train.runs.stop import Interrupted
from vmflearn.train.step import TrainingError


def run_command(work: Callable[[], None], goes_on: str = "from the last checkpoint") -> int:
    """Do the work of a command, and say in one line on stderr what ended it early.

    A process that torchrun has started ends when torchrun is gone. When the run has saved because it was asked to stop,
    it makes the file that the environment variable ``VMFLEARN_SAVED`` names, if there is one.

    Parameters
    ----------
    work : callable
    goes_on : str
        From where the same command continues, for messages.

    Returns
    -------
    int
        The exit status: 0 if all was done, 2 after an error that has a line of its own, 3 where another process was
        lost, 128 + n after signal n.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    try:
        work()
    except Interrupted as stopped:
        if stopped.saved and "VMFLEARN_SAVED" in os.environ:  # the batch job asks
            Path(os.environ["VMFLEARN_SAVED"]).touch()
        if os.environ.get("RANK", "0") == "0":
            print(stopped, file=sys.stderr, flush=True)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"interrupted at once; the same command continues {goes_on}", file=sys.stderr)
        return 130
    except ElsewhereError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the process itself has said it: once more on every other node
            print(f"error: {error}", file=sys.stderr)
        return 2
    except (ConfigError, CheckpointError, DataError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not _lost_peer(error):
            raise
        print(
            f"error: another process was lost ({str(error).splitlines()[0][:200]}); torchrun --max-restarts starts all "
            f"of them again {goes_on}, as does the same command",
            file=sys.stderr,
        )
        return 3
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def join_processes(device: str) -> None:
    """Join the process group that torchrun has prepared; without torchrun do nothing.

    Parameters
    ----------
    device : str
        ``run.device`` of the configuration.
    """
    if "WORLD_SIZE" not in os.environ or "MASTER_ADDR" not in os.environ:
        return
    on_gpu = torch.cuda.is_available() and not device.startswith("cpu")
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, world_size = next(torch.distributed.rendezvous("env://"))
    torch.distributed.init_process_group(
        # Between GPUs nccl; gloo beside it for what processors tell one another, so that they need not wait for GPUs.
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=fresh_store(store, rank, world_size),
        rank=rank,
        world_size=world_size,
    )


def _lost_peer(error: RuntimeError) -> bool:
    """Whether an exchange failed because its other end is gone, which is no fault of this process."""
    signs = ("connection reset by peer", "connection closed by peer", "broken pipe")
    lost = isinstance(error, torch.distributed.DistError) or any(sign in str(error).lower() for sign in signs)
    return lost and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
