"""What a run writes down: metrics.jsonl (computed), timing.jsonl (timed), TensorBoard events, and lines for a reader.

metrics.jsonl holds only numbers that the run computes, one JSON object a line, so two equal runs write equal files.
"""

import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

FILES = ("metrics.jsonl", "timing.jsonl")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics.jsonl; a last line cut short by a kill is left out.

    Raises
    ------
    ValueError
        If a line is damaged.
    """
    lines, damaged = _read(Path(path))
    if damaged:
        number, reason = damaged[0]
        raise ValueError(
            f"{path}, line {number} is damaged ({reason}); pretrain with the run's configuration sets it aside"
        )
    return [line for _, line in lines]


def _read(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]:
    """Complete lines that can be read, with their numbers, and the numbers of the others, with what is wrong."""
    lines: list[tuple[int, dict[str, Any]]] = []
    damaged: list[tuple[int, str]] = []
    if path.exists():
        for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                line = json.loads(text)
                if not isinstance(line, dict) or type(line.get("step")) is not int:
                    raise ValueError("it has no step")
                lines.append((number, line))
            except ValueError as error:  # of JSON, or of UTF-8
                damaged.append((number, str(error)))
    return lines, damaged


def mend(folder: Path, step: int, recorded: int | None, say: Callable[[str], None]) -> None:
    """Make the files of a run folder what a run can go on with: whole lines, none after ``step``.

    A file with damaged lines is kept as ``*.damaged``. What is missing is said.

    Parameters
    ----------
    folder : Path
        The run folder.
    step : int
        Steps taken so far; lines after them were left by a run that was killed.
    recorded : int or None
        The last step that has a line, as the checkpoint says.
    say : callable
        Takes one line for the reader.
    """
    for name in FILES:
        path = folder / name
        lines, damaged = _read(path)
        whole = [line for _, line in lines if line["step"] <= step]
        last = whole[-1]["step"] if whole else 0
        if damaged:
            kept = _free(folder / f"{name}.damaged")
            shutil.copyfile(path, kept)
            say(f"{path}: {_describe(lines, damaged)}; the file is kept as {kept.name}")
        if recorded is not None and last < recorded:
            say(f"{path}: the lines after step {last}, up to step {recorded}, are missing")
        text = "".join(json.dumps(line) + "\n" for line in whole).encode()
        if not path.exists() or path.read_bytes() != text:
            aside = folder / f"{name}.tmp"
            aside.write_bytes(text)
            os.replace(aside, path)


def _describe(lines: list[tuple[int, dict[str, Any]]], damaged: list[tuple[int, str]]) -> str:
    """Which lines are damaged, why, and between which steps they were."""
    gaps: dict[str, None] = {}
    for number, _ in damaged:
        before = max((line["step"] for at, line in lines if at < number), default=0)
        after = min((line["step"] for at, line in lines if at > number), default=None)
        gaps[f"after step {before}" if after is None else f"between steps {before} and {after}"] = None
    numbers = ", ".join(str(number) for number, _ in damaged[:5]) + ", ..." * (len(damaged) > 5)
    return f"line {numbers}, {' and '.join(gaps)}, is damaged ({damaged[0][1]}) and left out"


def _free(path: Path) -> Path:
    """The path, with a number behind it if there is such a file."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(other for other in itertools.chain([path], numbered) if not other.exists())


class Records:
    """The records of one run; only the first process writes.

    Parameters
    ----------
    folder : Path
        The run folder, as `mend` has left it.
    step : int
        Steps taken so far.
    total : int
        Steps of the whole run.
    active : bool
        Whether this process writes and shows anything.
    """

    def __init__(self, folder: Path, step: int, total: int, active: bool):
        self.active = active
        if not active:
            return
        self.folder = folder
        self._metrics, self._timing = ((folder / name).open("a", encoding="utf-8") for name in FILES)
        from torch.utils.tensorboard import SummaryWriter  # a second to import: only where a run is recorded

        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._bar = tqdm(
            total=total, initial=step, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty(), leave=True
        )

    def say(self, text: str) -> None:
        """One line for the reader, above the progress bar."""
        if self.active:
            self._bar.write(text) if not self._bar.disable else print(text, flush=True)

    def advance(self) -> None:
        """One step further on the bar."""
        if self.active:
            self._bar.update()

    def write(self, metrics: dict[str, Any], timing: dict[str, Any], show: bool) -> None:
        """Write one line of each file, the TensorBoard scalars, and, where there is no bar, a plain line."""
        if not self.active:
            return
        step = metrics["step"]
        with self._on_a_disk():
            self._metrics.write(json.dumps(metrics) + "\n")
            self._timing.write(json.dumps({"step": step, **timing}) + "\n")
        for name, value in {**metrics, **timing}.items():
            if name == "findings":
                self._events.add_text(name, ", ".join(value), step)
            elif name != "step":
                self._events.add_scalar(name, value, step)
        told = ("loss", "teacher_entropy", "teacher_information", "knn_top1", "linear_top1")
        shown: dict[str, str] = {name: f"{metrics[name]:.4g}" for name in told if name in metrics}
        if "images_per_second" in timing:
            shown["images/s"] = f"{timing['images_per_second']:.0f}"
        self._bar.set_postfix(shown, refresh=False)
        if show and self._bar.disable:
            print(f"step {step}/{self._bar.total}  " + "  ".join(f"{k} {v}" for k, v in shown.items()), flush=True)

    def flush(self) -> None:
        """Bring both files to the disk: called before a checkpoint, which promises that its lines are there."""
        if self.active:
            with self._on_a_disk():
                for file in (self._metrics, self._timing):
                    file.flush()
                    os.fsync(file.fileno())
                self._events.flush()

    @contextlib.contextmanager
    def _on_a_disk(self) -> Iterator[None]:
        """Say what could not be written, and what to do."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the records in {self.folder} could not be written ({error.strerror or error}); make room and start "
                "the same command again: it continues from the last checkpoint"
            ) from error

    def close(self) -> None:
        """Close everything, whatever one of them has to say (a full disk, mostly; the write before it has said so)."""
        if self.active:
            for part in (self._metrics, self._timing, self._events, self._bar):
                with contextlib.suppress(OSError):
                    part.close()


def announcer(active: bool) -> Callable[[str], None]:
    """A ``print`` for the first process, silence for the others."""
    return lambda text: print(text, flush=True) if active else None
