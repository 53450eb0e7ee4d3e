"""The few things that processes tell one another; in a single process all of them are the identity.

A run is distributed when ``torch.distributed`` is initialised, which ``scripts/pretrain.py`` does under torchrun.
Nothing here draws random numbers or depends on the order in which processes arrive.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class ElsewhereError(ValueError):
    """Work that was done here and failed on another process, which says so itself; the message names it."""


def is_distributed() -> bool:
    """Whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Index of this process, 0 in a single one."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of a tensor over all processes.

    Parameters
    ----------
    x : Tensor
        The same shape and dtype on every process.

    Returns
    -------
    Tensor
        A new tensor, equal on every process; ``x`` itself in a single process. Not differentiable.
    """
    if not is_distributed():
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes.

    Parameters
    ----------
    x : Tensor
        The same shape and dtype on every process, on any device.

    Returns
    -------
    Tensor
        A new tensor, equal on every process; ``x`` itself in a single process. Not differentiable.
    """
    if not is_distributed():
        return x
    total = x.detach().clone().to(_exchange_device(x))
    dist.all_reduce(total)
    return total.to(x.device)


def max_over_processes(number: int) -> int:
    """Largest of the processes' numbers; the device is not waited for where the group also joins processors (gloo)."""
    if not is_distributed():
        return number
    shared = torch.tensor(number)
    shared = shared.to(_exchange_device(shared))
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


def broadcast_from_first(x: Tensor) -> Tensor:
    """The first process's tensor, on every process.

    Parameters
    ----------
    x : Tensor
        The same shape and dtype on every process, on any device; its values matter on the first only.

    Returns
    -------
    Tensor
        A new tensor; ``x`` itself in a single process. Not differentiable.
    """
    if not is_distributed():
        return x
    sent = x.detach().clone().contiguous().to(_exchange_device(x))
    dist.broadcast(sent, src=0)
    return sent.to(x.device)


def all_or_none(work: Callable[[], T]) -> T:
    """Do local work that may fail, and let every process fail if one does.

    A process that raises alone leaves the others waiting in their next exchange. ``work`` must not exchange anything
    itself.

    Returns
    -------
    T
        What ``work`` returned.

    Raises
    ------
    Exception
        What ``work`` raised here.
    ElsewhereError
        On a process whose own work was done, with the rank and the message of the first that failed.
    """
    if not is_distributed():
        return work()
    result: list[T] = []
    error: Exception | None = None
    try:
        result.append(work())
    except Exception as raised:
        error = raised
    messages: list[str | None] = [None] * world_size()
    dist.all_gather_object(messages, None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise ElsewhereError(f"process {index} could not go on: {message}")
    return result[0]


def on_first(work: Callable[[], T]) -> T:
    """Do work on the first process alone: all get what it returned (a plain object), or fail if it failed.

    ``work`` must not exchange anything itself. Raises as `all_or_none`.
    """
    if not is_distributed():
        return work()
    found = [all_or_none(lambda: work() if rank() == 0 else None)]
    dist.broadcast_object_list(found, src=0)
    return cast(T, found[0])


def gather_objects(value: T) -> list[T]:
    """Plain objects of all processes, in the order of their ranks."""
    if not is_distributed():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def unlike(own: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the processes have not alike: names, each with the values of all processes, in the order of their ranks.

    Plain objects. Processes that are given different things may exchange a different number of times, and then one
    waits for ever: whatever decides on exchanges is compared before the first of them.
    """
    found = gather_objects(dict(own))
    names = dict.fromkeys(name for each in found for name in each)
    values = {name: [each.get(name, "(absent)") for each in found] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def differences(own: Mapping[str, Any]) -> str:
    """What the processes have not alike, in words: each name with its value on every process; empty if all is alike."""
    return "; ".join(
        f"{name} is " + ", ".join(f"{value} on process {rank}" for rank, value in enumerate(each))
        for name, each in unlike(own).items()
    )


def log_mean_exp_over_processes(x: Tensor) -> Tensor:
    """Logarithm of the mean over processes of ``exp(x)``, elementwise, without leaving the log domain.

    With ``m`` the largest ``x`` of any process: ``m + log(mean(exp(x - m)))``. No term overflows, and the largest does
    not underflow, so entries as low as -1e4 come through.
    """
    if not is_distributed():
        return x
    largest = x.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest + mean_over_processes(torch.exp(x.detach() - largest)).log()


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes, stacked in the order of their ranks.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        ``n`` may differ between processes; the other sizes and the dtype may not. On any device.

    Returns
    -------
    Tensor of shape (sum of n, ...)
    """
    if not is_distributed():
        return x
    device, x = x.device, x.to(_exchange_device(x))
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    lengths = [int(size) for size in sizes]
    padded = x.new_zeros((max(lengths), *x.shape[1:]))
    padded[: len(x)] = x
    pieces = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(pieces, padded)
    return torch.cat([piece[:length] for piece, length in zip(pieces, lengths, strict=True)]).to(device)


def _exchange_device(x: Tensor) -> torch.device:
    """Where the process group can read a tensor: nccl only on a GPU, gloo on the CPU, both of them anywhere."""
    backend = dist.get_backend()
    if backend == "nccl":
        return x.device if x.is_cuda else torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if backend == "gloo" else x.device
