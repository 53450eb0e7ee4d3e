"""What a run writes down: metrics.jsonl (computed), timing.jsonl (timed), TensorBoard events, and lines for a reader.

metrics.jsonl holds only numbers that the run computes, one JSON object a line, so two equal runs write equal files.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not text.endswith("\n"):
            break
        lines.append(json.loads(text))
    return lines


class Records:
    """The records of one run; only the first process writes.

    Parameters
    ----------
    folder : Path
        The run folder.
    step : int
        Steps taken so far; lines after them, left by a run that was killed, are dropped.
    total : int
        Steps of the whole run.
    active : bool
        Whether this process writes and shows anything.
    """

    def __init__(self, folder: Path, step: int, total: int, active: bool):
        self.active = active
        if not active:
            return
        for name in ("metrics.jsonl", "timing.jsonl"):
            kept = [line for line in read_metrics(folder / name) if line["step"] <= step]
            aside = folder / f"{name}.tmp"
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(aside, folder / name)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._timing = (folder / "timing.jsonl").open("a", encoding="utf-8")
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
            for file in (self._metrics, self._timing):
                file.flush()
                os.fsync(file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Close everything, whatever one of them has to say (a full disk, mostly; the write before it has said so)."""
        if self.active:
            for part in (self._metrics, self._timing, self._events, self._bar):
                with contextlib.suppress(OSError):
                    part.close()


def announcer(active: bool) -> Callable[[str], None]:
    """A ``print`` for the first process, silence for the others."""
    return lambda text: print(text, flush=True) if active else None
