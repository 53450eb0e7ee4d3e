"""What a protocol found: rows for people, and the same with everything it depends on as JSON."""

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vmflearn.environment import describe_environment, write_whole


@dataclass
class Report:
    """The result of a protocol.

    Attributes
    ----------
    protocol : str
        The command's name.
    rows : list of dict
        A line of the table each; plain values. Accuracies are shares, 0 to 1: ``top1`` with its bootstrap interval
        ``top1_low`` and ``top1_high``.
    settings : dict
        All that was chosen.
    notes : list of str
        What a reader must know: images that could not be read, a class without images, ...
    details : dict
        What no table holds: accuracies of all classes, say.
    """

    protocol: str
    rows: list[dict[str, object]]
    settings: dict[str, object]
    notes: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)

    def table(self) -> str:
        """The rows as aligned columns; a share with its interval is one of them: ``0.743 [0.703, 0.782]``."""
        rows = [_with_intervals(row) for row in self.rows]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [columns, *([row.get(name, "") for name in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        )

    def write(self, path: str | Path) -> None:
        """Write everything as JSON, whole or not at all; what is not a number is null, as JSON knows no NaN."""
        content = {
            "protocol": self.protocol,
            "rows": self.rows,
            "settings": self.settings,
            "notes": self.notes,
            "details": self.details,
            "environment": describe_environment(),
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(_without_nan(content), indent=2, default=_plain, allow_nan=False) + "\n")


def check_output(path: str | Path) -> None:
    """Refuse a place where no result could be written, which would show after all the work.

    Raises
    ------
    ValueError
        Which says why; if there is no folder for it, that is made.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--output {path} cannot be written ({error.strerror or error}): give another file") from None


def _without_nan(value: object) -> object:
    """The same with None for numbers that are not finite, inside of dictionaries and lists too."""
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_intervals(row: Mapping[str, object]) -> dict[str, str]:
    """Texts of a row's values, the two ends of an interval behind the value that they belong to."""
    shown = {}
    for name, value in row.items():
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in row:
            continue
        shown[name] = _text(value)
        if f"{name}_low" in row and f"{name}_high" in row:
            shown[name] += f" [{_text(row[f'{name}_low'])}, {_text(row[f'{name}_high'])}]"
    return shown


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    """Numbers of numpy and paths, which JSON does not know."""
    item = getattr(value, "item", None)
    return _without_nan(item()) if callable(item) else str(value)
