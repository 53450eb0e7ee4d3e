"""A trace of a few training steps: which operators take the time, and on which device (``--profile N``)."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from vmflearn import distributed

WARM_UP = 3
"""Steps before the trace: they allocate, choose kernels, compile; the profiler itself is switched on for the last."""

TOLD = 15
"""Operators in the printed table."""

Item = TypeVar("Item")


def profiled(
    batches: Iterable[Item], run_dir: Path, steps: int, device: torch.device, say: Callable[[str], None]
) -> Iterator[Item]:
    """Pass the batches of a run through, and trace what is done between them.

    Writes ``profile/process-R.json`` (for Perfetto or chrome://tracing) and ``profile/process-R.txt``, the table of
    operators, below ``run_dir``, and says where, with the top of the table.

    Parameters
    ----------
    batches : iterable
        One for each step.
    run_dir : Path
    steps : int
        Steps to trace, after `WARM_UP` steps that are not.
    device : torch.device
    say : callable
        Takes a text for the reader.

    Raises
    ------
    ValueError
        If ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps to profile must be at least 1, not {steps}")
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    folder, name, written, passed = run_dir / "profile", f"process-{distributed.rank()}", False, 0

    def write(trace: profile) -> None:
        nonlocal written
        traced = min(steps, passed - WARM_UP)
        if traced < 1:
            return
        folder.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(folder / f"{name}.json"))
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        operators = trace.key_averages()
        (folder / f"{name}.txt").write_text(operators.table(sort_by=order, row_limit=200), encoding="utf-8")
        say(
            f"profile of {traced} steps: {folder / name}.json (for ui.perfetto.dev); the operators that take most\n"
            + operators.table(sort_by=order, row_limit=TOLD, max_name_column_width=40)
        )
        written = True

    plan = schedule(wait=WARM_UP - 1, warmup=1, active=steps, repeat=1)
    items = iter(batches)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as trace:
        for item in items:
            yield item
            passed += 1
            trace.step()
            if written:
                break
    yield from items  # the rest of the run without the profiler, which costs time even when it waits
    if not written:
        say(f"no profile: the run ended in the {WARM_UP} steps of warm-up")
