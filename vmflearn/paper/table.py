"""A printed table as data: cells by row and column, as they were printed.

The text of a table has a line for its columns and one for each row, parts of a line divided by ``|``. A line without
``|`` begins a group of rows. A cell is ``74.44``, ``51.9 ± 0.6`` (with its standard deviation), or ``-`` where there is
none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ABSENT = "-"


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes
    ----------
    value : float
        In the unit of its table.
    digits : int
        Decimals that are printed.
    spread : float or None
        Standard deviation, where one is printed.
    """

    value: float
    digits: int
    spread: float | None = None

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.{self.digits}f}"
        return f"{self.value:,.{self.digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    group : str
        What the rows around it share (a backbone), "" if nothing does.
    label : str
        What it is called in its group (a method).
    cells : Mapping of str to Cell
        By column; a column that is not printed for this row is not there.
    """

    group: str
    label: str
    cells: Mapping[str, Cell]

    @property
    def name(self) -> str:
        """Group and label, by which a row is found in its table."""
        return f"{self.group} {self.label}".strip()


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes
    ----------
    number : int
    title : str
    unit : str
        Of all its values: ``%`` or ``prototypes``.
    columns : tuple of str
    rows : tuple of Row
        In their order, each model a row, also where the paper prints models as columns.
    note : str
        What must be known to read it, "" if nothing.
    """

    number: int
    title: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def row(self, name: str) -> Row | None:
        """The row of a name, or of a label that only one row has; None if there is none."""
        found = [row for row in self.rows if row.name == name] or [row for row in self.rows if row.label == name]
        return found[0] if len(found) == 1 else None

    def value(self, name: str, column: str) -> float:
        """A number by its row and column; KeyError if it is not printed."""
        row = self.row(name)
        if row is None:
            raise KeyError(f"Table {self.number} has no row {name!r}; it has {', '.join(r.name for r in self.rows)}")
        return row.cells[column].value


def parse_table(number: int, title: str, text: str, *, unit: str = "%", note: str = "") -> Table:
    """A table from its text, see above.

    Raises
    ------
    ValueError
        If a row has not as many cells as there are columns, or a cell is no number.
    """
    group, rows = "", []
    head, *lines = (line.strip() for line in text.strip().splitlines())
    columns = tuple(part.strip() for part in head.split("|")[1:])
    for line in lines:
        label, *cells = (part.strip() for part in line.split("|"))
        if not cells:
            group = label
            continue
        found = {c: _cell(cell) for c, cell in zip(columns, cells, strict=True) if cell != ABSENT}
        rows.append(Row(group, label, MappingProxyType(found)))
    return Table(number, title, unit, columns, tuple(rows), note)


def _cell(text: str) -> Cell:
    value, _, spread = text.partition("±")
    digits = len(value.strip().partition(".")[2])
    return Cell(float(value), digits, float(spread) if spread else None)
