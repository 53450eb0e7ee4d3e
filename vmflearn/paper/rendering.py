"""The paper's tables for a terminal, in Markdown and as a page of HTML, our results in rows of their own."""

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vmflearn.paper.ours import Ours, Result
from vmflearn.paper.table import Cell, Row, Table

ABOVE, BELOW = "▲", "▼"
WIDTH = 100
"""Characters of a line of text on a terminal."""

LEGEND = (
    f"Beside a result of ours stands its difference to the paper's. {ABOVE} and {BELOW}: the paper's number lies "
    "outside of our interval (the 95 % interval over test images, or two standard deviations of several runs; any "
    "difference where a result has neither)."
)


@dataclass(frozen=True)
class Line:
    """One row as it is shown; without cells it names a group.

    Attributes
    ----------
    label : str
    cells : tuple of str
        One text for each column, "" where there is no number.
    ours : bool
        Whether the numbers are ours.
    """

    label: str
    cells: tuple[str, ...] = ()
    ours: bool = False


def lines_of(table: Table, ours: Sequence[Ours] = ()) -> list[Line]:
    """A table's rows in their order: under each of the paper's those of ours, and rows the paper has not at the end."""
    lines, group = [], ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            lines.append(Line(group))
        lines.append(Line(row.label, tuple(str(row.cells.get(column, "")) for column in table.columns)))
        lines += [
            _our_line(table, row, f"ours: {each.label}", each, row.name) for each in ours if _has(each, table, row)
        ]
    known = {row.name for row in table.rows}
    others = [
        _our_line(table, None, f"{name}, ours: {each.label}", each, name)
        for each in ours
        for name in each.results.get(table.number, {})
        if name not in known
    ]
    return [*lines, Line("Not in the paper"), *others] if others else lines


def _has(each: Ours, table: Table, row: Row) -> bool:
    return row.name in each.results.get(table.number, {})


def _our_line(table: Table, row: Row | None, label: str, each: Ours, name: str) -> Line:
    results = each.results[table.number][name]
    cells = []
    for column in table.columns:
        theirs = row.cells.get(column) if row else None
        cells.append(_compared(results[column], theirs, _digits(table, column)) if column in results else "")
    return Line(label, tuple(cells), ours=True)


def _digits(table: Table, column: str) -> int:
    """Decimals of a column: the most that the paper prints there."""
    return max(row.cells[column].digits for row in table.rows if column in row.cells)


def _compared(result: Result, theirs: Cell | None, digits: int) -> str:
    """A result of ours, its difference to the paper's number and a mark if that is none of chance."""
    shown = str(Cell(result.value, digits, result.spread))
    if theirs is None:
        return shown
    difference = round(result.value - theirs.value, digits)
    low, high = result.interval or (result.value, result.value)
    outside = difference and not low <= theirs.value <= high
    mark = (ABOVE if difference > 0 else BELOW) if outside else ""
    return f"{shown} ({difference:+,.{digits}f}){mark}"


def sources_of(table: Table, ours: Sequence[Ours]) -> list[str]:
    """Where each of our numbers comes from, and its interval, a line each."""
    found = []
    for each in ours:
        for name, results in each.results.get(table.number, {}).items():
            for column, result in results.items():
                digits = _digits(table, column)
                ends = ""
                if result.interval and result.spread is None:
                    ends = " [{:.{d}f}, {:.{d}f}]".format(*result.interval, d=digits)
                shown = Cell(result.value, digits, result.spread)
                found.append(f"{each.label}, {name}, {column}: {shown}{ends} from {'; '.join(result.sources)}")
    return found


def _heading(table: Table) -> str:
    return f"Table {table.number}. {table.title}{', per cent' if table.unit == '%' else ''}."


def to_terminal(tables: Iterable[Table], ours: Sequence[Ours] = ()) -> str:
    """Aligned columns."""
    parts = []
    for table in tables:
        lines = lines_of(table, ours)
        indent = "  " if any(not line.cells for line in lines) else ""
        heads = ["", *table.columns]
        rows = [[indent + ("  " if line.ours else "") + line.label, *line.cells] for line in lines]
        widths = [max(len(row[i]) for row in [heads, *rows] if len(row) > 1) for i in range(len(heads))]
        text = [textwrap.fill(_heading(table), WIDTH), ""]
        for row in [heads, *rows]:
            if len(row) == 1:
                text.append(row[0].strip())
                continue
            label, *cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            text.append("  ".join([label, *cells]).rstrip())
        below = [textwrap.fill(table.note, WIDTH)] if table.note else []
        text += ["", *below, *sources_of(table, ours)]
        parts.append("\n".join(text).rstrip())
    return "\n\n\n".join([*parts, *([textwrap.fill(LEGEND, WIDTH)] if ours else [])]) + "\n"


def to_markdown(tables: Iterable[Table], ours: Sequence[Ours] = ()) -> str:
    """Markdown with pipe tables, ours in italics."""
    parts = []
    for table in tables:
        text = [f"### {_heading(table)}", "", _pipes(["", *table.columns]), _pipes(["---"] * (len(table.columns) + 1))]
        for line in lines_of(table, ours):
            if not line.cells:
                text.append(_pipes([f"**{line.label}**", *[""] * len(table.columns)]))
            else:
                cells = [_escaped(cell) for cell in (line.label, *line.cells)]
                text.append(_pipes([f"*{cell}*" if cell and line.ours else cell for cell in cells]))
        below = [table.note] if table.note else []
        text += ["", *below, *[f"- {_escaped(source)}" for source in sources_of(table, ours)]]
        parts.append("\n".join(text).rstrip())
    return "\n\n".join([*parts, *([LEGEND] if ours else [])]) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text of a file's name or of a row that is to stay what it is in Markdown."""
    for character in "\\|*_<`[":
        text = text.replace(character, f"\\{character}")
    return text


STYLE = """
:root { color-scheme: light dark; --line: #c8c8c8; --ours: #eef3fb; --above: #176b2c; --below: #a02c12; }
@media (prefers-color-scheme: dark) {
  :root { --line: #4a4a4a; --ours: #1d2a3d; --above: #7fd694; --below: #ff9c80; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
figure { margin: 2.5rem 0; }
figcaption { margin-bottom: .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 15px; }
th, td { padding: .2rem .7rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); }
tbody th { font-weight: normal; }
tr.group th { font-weight: bold; padding-top: .6rem; border-bottom: 1px solid var(--line); }
tr.ours { background: var(--ours); }
tr.ours th { padding-left: 1.7rem; font-style: italic; }
@media (max-width: 40rem) { tbody th { white-space: normal; min-width: 6rem; } }
.above { color: var(--above); }
.below { color: var(--below); }
.note, .sources { font-size: 14px; overflow-wrap: anywhere; }
"""


def to_html(tables: Iterable[Table], ours: Sequence[Ours] = ()) -> str:
    """A page that needs nothing else, for light and dark screens."""
    parts = []
    for table in tables:
        head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
        body = "\n".join(_html_row(line, len(table.columns)) for line in lines_of(table, ours))
        note = f'<p class="note">{html.escape(table.note)}</p>\n' if table.note else ""
        sources = "".join(f"<li>{html.escape(source)}</li>" for source in sources_of(table, ours))
        parts.append(
            f'<figure id="table-{table.number}">\n<figcaption>{html.escape(_heading(table))}</figcaption>\n'
            f'<div class="wide" tabindex="0"><table>\n<thead><tr><td></td>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table></div>\n{note}"
            + (f'<ul class="sources">{sources}</ul>\n' if sources else "")
            + "</figure>"
        )
    legend = f"<p>{html.escape(LEGEND)}</p>\n" if ours else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Tables of the paper</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>Tables of the paper</h1>\n"
        "<p>Govindarajan, Sidén, Roll and Lindsten, <cite>DINO as a von Mises-Fisher mixture model</cite>, ICLR 2023. "
        f"The numbers are its authors'.</p>\n{legend}" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _html_row(line: Line, columns: int) -> str:
    label = html.escape(line.label)
    if not line.cells:
        return f'<tr class="group"><th scope="colgroup" colspan="{columns + 1}">{label}</th></tr>'
    cells = "".join(f"<td>{_marked(html.escape(cell))}</td>" for cell in line.cells)
    return f'<tr{" class=ours" if line.ours else ""}><th scope="row">{label}</th>{cells}</tr>'


def _marked(cell: str) -> str:
    for mark, name in ((ABOVE, "above"), (BELOW, "below")):
        cell = cell.replace(mark, f'<span class="{name}" title="{name} the paper\'s number">{mark}</span>')
    return cell


FORMATS = {"terminal": to_terminal, "markdown": to_markdown, "html": to_html}
