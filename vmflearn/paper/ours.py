"""Our own results beside the paper's: which number of which result file belongs into which cell.

A file in YAML names them, table by table:

    2:
      ViT-Small/16 DINO-vMF:              # a row of the table, or one of your own
        kNN: runs/s0/knn.json k=20        # the row of the result with k = 20; its top1
        Lin. [C]: [s0/linear.json features=cls, s1/linear.json features=cls]
    4:
      ViT-Small/16 DINO-vMF:
        unique: runs/s0/prototypes.json threshold=0.9 unique

A source is a file of ``scripts/evaluate.py --output`` (its path as seen from the YAML file; in quotes if it has
blanks), conditions that leave one of its rows, and the name of a value in that row, ``top1`` if none is given. A list
of sources is several runs: their mean, with the standard deviation.
"""

import json
import math
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmflearn.paper.printed import TABLES
from vmflearn.paper.table import Table
from vmflearn.yaml_text import YAMLTextError, read_yaml

USUAL = "top1"
"""The value of a source that names none."""


class OursError(ValueError):
    """Results that cannot be placed; the message says what to do."""


@dataclass(frozen=True)
class Result:
    """What belongs into a cell.

    Attributes
    ----------
    value : float
        In the unit of the table; the mean of several runs.
    spread : float or None
        Standard deviation of several runs.
    low, high : float or None
        Ends of the interval of a single run, where its file states one.
    sources : tuple of str
        Where it comes from: as the YAML file says it, with the network that was judged.
    """

    value: float
    spread: float | None
    low: float | None
    high: float | None
    sources: tuple[str, ...]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the value may as well lie: its interval, or two standard deviations to either side."""
        if self.spread is not None:
            return self.value - 2 * self.spread, self.value + 2 * self.spread
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Ours:
    """Results of one YAML file.

    Attributes
    ----------
    label : str
        The file's name without its ending.
    results : Mapping
        {number of a table: {name of a row: {column: `Result`}}}.
    """

    label: str
    results: Mapping[int, Mapping[str, Mapping[str, Result]]]


def read_ours(path: str | Path) -> Ours:
    """Read a YAML file as described above, and the results it names.

    Raises
    ------
    OursError
        For a file that is not there or not as described, a table or column that the paper does not have, a source whose
        conditions leave no row or several, or a value that is not there or not in the unit of its table.
    """
    path = Path(path).expanduser()
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OursError(f"{path} cannot be read: {_reason(error)}") from None
    except YAMLTextError as error:
        raise OursError(f"{path} {error}") from None
    found: dict[int, dict[str, dict[str, Result]]] = {}
    for number, rows in _entries(content, f"{path}", "tables by their numbers"):
        table = TABLES.get(int(number)) if number.isdigit() else None
        if table is None:
            raise OursError(f"{path} names a table {number}; the paper's are 1 to {len(TABLES)}")
        place = f"{path}, table {number}"
        found[table.number] = {}
        for name, cells in _entries(rows, place, "rows by their names"):
            row = table.row(name)
            if row is None and (same := [each.name for each in table.rows if each.label == name]):
                raise OursError(f"{place}: {name} may be {' or '.join(same)}; give the whole name")
            results = found[table.number].setdefault(row.name if row else name, {})
            for column, sources in _entries(cells, f"{place}, {name}", "columns by their names"):
                if column not in table.columns:
                    raise OursError(f"{place} has no column {column!r}; its columns are {', '.join(table.columns)}")
                results[column] = _result(sources, path.parent, table, f"{place}, {name}, {column}")
    return Ours(path.stem, found)


def _entries(content: Any, place: str, what: str) -> list[tuple[str, Any]]:
    if not isinstance(content, dict) or not content:
        raise OursError(f"{place} must hold {what}, not {content!r}")
    return list(content.items())


def _result(sources: Any, folder: Path, table: Table, place: str) -> Result:
    """The result of a cell from its source or sources."""
    listed = sources if isinstance(sources, list) else [sources]
    if not listed or not all(isinstance(source, str) and source for source in listed):
        raise OursError(f"{place} must be FILE.json [NAME=VALUE ...] [NAME], or a list of these, not {sources!r}")
    found = [_read_source(source, folder, table, place) for source in listed]
    if len(found) == 1:
        return found[0]
    values = [result.value for result in found]
    sources = tuple(source for result in found for source in result.sources)
    return Result(statistics.fmean(values), statistics.stdev(values), None, None, sources)


def _read_source(source: str, folder: Path, table: Table, place: str) -> Result:
    """A result of one run, in the table's unit."""
    try:
        file, *words = shlex.split(source)
    except ValueError as error:
        raise OursError(f"{place}: {source!r} cannot be divided into words: {error}") from None
    conditions = dict(word.split("=", 1) for word in words if "=" in word)
    wanted = [word for word in words if "=" not in word] or [USUAL]
    if len(wanted) > 1:
        raise OursError(f"{place}: {source!r} names several values, {' and '.join(wanted)}; give one")
    path = folder / Path(file).expanduser()
    rows, judged = _rows(path, place)
    left = [row for row in rows if all(_same(row.get(key), text) for key, text in conditions.items())]
    if len(left) != 1:
        raise OursError(
            f"{place}: {len(left)} of the {len(rows)} rows of {path} are meant by "
            f"{' '.join(f'{k}={v}' for k, v in conditions.items()) or 'no condition'}; choose one by NAME=VALUE: "
            f"{_choices(rows)}"
        )
    (row,) = left
    place = f"{place}: {path}"
    low, high = (
        _number(row, name, table, place) if name in row else None for name in (f"{wanted[0]}_low", f"{wanted[0]}_high")
    )
    return Result(_number(row, wanted[0], table, place), None, low, high, (f"{source}{judged}",))


def _rows(path: Path, place: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of a result, and what was judged, where it says so."""
    settings: Any = None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, settings = content["rows"], content.get("settings")
    except OSError as error:
        raise OursError(f"{place}: {path} cannot be read: {_reason(error)}") from None
    except (ValueError, KeyError, TypeError):
        rows = None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise OursError(f"{place}: {path} is no result of scripts/evaluate.py --output: it has no rows")
    if not isinstance(settings, dict) or not {"checkpoint", "digest"} <= settings.keys():
        return rows, ""
    return rows, f", of {settings['checkpoint']}, weights {str(settings['digest'])[:8]}"


def _same(value: Any, text: str) -> bool:
    """Whether a value of a row is what a condition says: 20 is 20.0, and all else is compared as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value) == text or (isinstance(value, bool) and text == str(value).lower())


def _choices(rows: list[dict[str, Any]]) -> str:
    """What tells the rows of a result apart: the names whose values differ, and the first few values."""
    names = [key for key in rows[0] if not isinstance(rows[0][key], float) or key == "threshold"]
    told = {key: list(dict.fromkeys(str(row.get(key)) for row in rows)) for key in names}
    return "; ".join(f"{k} is {', '.join(v[:8])}{', ...' * (len(v) > 8)}" for k, v in told.items()) or "nothing can"


def _number(row: dict[str, Any], name: str, table: Table, place: str) -> float:
    """A value in the table's unit: results state shares, 0 to 1, where the paper prints per cent."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        what = f"is {value!r}" if name in row else "is not there"
        raise OursError(f"{place}: {name} {what}; the row has {', '.join(row)}")
    if table.unit != "%":
        return value
    if not 0 <= value <= 1:
        raise OursError(f"{place}: {name} is {value}, not a share from 0 to 1, as table {table.number} needs")
    return 100 * value


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text"
