"""Measuring side by side: alternating rounds and medians, the machine and its versions, tables.

Times are of the processor (all threads of the process, which is kept on one core): other processes on the machine
lengthen the wait for a core, which is not counted, and the traffic in its caches, which is.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"

# Seconds that a turn lasts at least, and the most calls in it.
TURN = 0.02
MOST_REPEATS = 1000

Timer = Callable[[], float]


def timed(work: Callable[[], object], per: int = 1) -> Timer:
    """Return a timer: processor seconds of one call of ``work``, divided by ``per``.

    A quick call is repeated until a turn lasts `TURN` seconds, as ``timeit`` does, so that all are measured with
    caches filled by themselves and not by the one whose turn it was before. The first turn finds the number.
    """
    repeats = 1

    def run() -> float:
        nonlocal repeats
        start = time.process_time()
        for _ in range(repeats):
            work()
        seconds = (time.process_time() - start) / repeats
        repeats = max(repeats, math.ceil(TURN / max(seconds, TURN / MOST_REPEATS)))
        return seconds / per

    return run


def per_step(fit: Callable[[int], int], few: int, many: int, clock: Timer = time.process_time) -> Timer:
    """Return a timer of one iteration: the difference of a long and a short run, so that checks and start drop out.

    ``fit`` takes the largest number of iterations and returns how many it made.
    """

    def run() -> float:
        start = clock()
        n_few = fit(few)
        middle = clock()
        n_many = fit(many)
        end = clock()
        if n_many <= n_few:
            raise RuntimeError(f"the longer fit stopped after {n_many} iterations, the shorter after {n_few}")
        return ((end - middle) - (middle - start)) / (n_many - n_few)

    return run


@dataclass(frozen=True)
class Peer:
    """Something to compare with: a rival that we want to be faster than, or a floor that we cannot go below."""

    name: str
    timer: Timer
    target: float | None = None  # rival: peer / ours at least this; floor: ours / peer at most this
    is_floor: bool = False


@dataclass(frozen=True)
class Row:
    """One comparison, in seconds; the ratio is peer / ours, or ours / floor."""

    what: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    target: float | None
    is_floor: bool

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.is_floor else self.ratio >= self.target

    def cells(self) -> list[str]:
        """Cells of the table."""
        sign = "≤" if self.is_floor else "≥"
        target = "" if self.target is None else f"{sign} {self.target:g}"
        verdict = {None: "", True: "met", False: "**missed**"}[self.met]
        ratio = f"{self.ratio:.2f}" + (" (ours / floor)" if self.is_floor else "")
        return [self.what, duration(self.ours), self.peer, duration(self.theirs), ratio, target, verdict]


ROW_HEAD = ["what", "ours", "peer", "peer's", "peer / ours", "target", ""]


def compare(what: str, ours: Timer, peers: Sequence[Peer], rounds: int) -> list[Row]:
    """Measure ours and every peer in alternating rounds: medians, and medians of the ratios within a round.

    All take their turn in every round, so that what disturbs the machine disturbs them alike. A first round fills
    caches, compiles, and does not count.
    """
    timers = [ours, *(peer.timer for peer in peers)]
    times = [[timer() for timer in timers] for _ in range(rounds + 1)][1:]
    mine = statistics.median(row[0] for row in times)
    rows = []
    for i, peer in enumerate(peers, start=1):
        ratio = statistics.median(row[i] / row[0] for row in times)
        if peer.is_floor:
            ratio = statistics.median(row[0] / row[i] for row in times)
        theirs = statistics.median(row[i] for row in times)
        rows.append(Row(what, peer.name, mine, theirs, ratio, peer.target, peer.is_floor))
    return rows


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and every thread that a peer starts, on one core (where the system lets us)."""
    n_threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
        if cores:
            os.sched_setaffinity(0, cores)


def processor() -> str:
    """Model of the processor and number of its cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        entries = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        model = {key.strip(): value.strip() for key, value in entries.items()}.get("model name", model)
    return f"{model}, {os.cpu_count()} cores"


def environment(script: str, arguments: Sequence[str], packages: Sequence[str]) -> str:
    """One paragraph: machine, system, versions and the command, without the folder of ``--out``."""
    versions = [f"{name} {metadata.version(name)}" for name in packages if is_installed(name)]
    shown = [a for i, a in enumerate(arguments) if "--out" not in (a, arguments[i - 1] if i else "")]
    command = " ".join(["python", f"benchmarks/{script}", *shown])
    return (
        f"{processor()}; {platform.system()} {platform.machine()}; Python {platform.python_version()}, "
        f"{', '.join(versions)}. Command: `{command}`."
    )


def is_installed(distribution: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
