"""What a protocol found: rows for people, and the same with everything it depends on as JSON."""

import json
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
        """Write everything as JSON, whole or not at all."""
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
        write_whole(path, json.dumps(content, indent=2, default=_plain) + "\n")


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
    return item() if callable(item) else str(value)
