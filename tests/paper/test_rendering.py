"""Every number in every format, read back by a parser that is not ours; differences and marks by hand."""

import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from vmflearn.paper import TABLES
from vmflearn.paper.ours import Ours, Result
from vmflearn.paper.rendering import FORMATS, lines_of, to_html, to_markdown, to_terminal


class Page(HTMLParser):
    """The texts of all cells of a page, row by row, and the tags that are still open."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.styled = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta",):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.styled += [value for name, value in attributes if name == "class"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def cells_of(table):
    return [[str(row.cells.get(column, "")) for column in table.columns] for row in table.rows]


def ours(value, spread=None, low=None, high=None, row="ViT-Small/16 DINO-vMF", column="kNN", label="seed_0"):
    return Ours(label, {2: {row: {column: Result(value, spread, low, high, ("knn.json k=20",))}}})


def our_cell(each):
    (line,) = [line for line in lines_of(TABLES[2], [each]) if line.ours]
    return line.cells[0]


def test_html_holds_every_cell_in_its_place():
    page = Page(to_html(TABLES.values()))
    assert page.open == []
    rows = [row[1:] for row in page.rows if len(row) > 1]
    expected = []
    for table in TABLES.values():
        expected += [list(table.columns), *cells_of(table)]
    assert rows == expected


def test_markdown_holds_every_cell_in_its_place():
    page = Page(MarkdownIt("commonmark").enable("table").render(to_markdown(TABLES.values())))
    rows = [row[1:] for row in page.rows if not (row[0].startswith("ViT") and not any(row[1:]))]
    expected = []
    for table in TABLES.values():
        expected += [list(table.columns), *cells_of(table)]
    assert rows == expected


@pytest.mark.parametrize("number", TABLES)
def test_columns_of_a_terminal_are_aligned(number):
    table = TABLES[number]
    text = to_terminal([table]).splitlines()
    (head,) = [line for line in text if line.startswith(" ") and line.split("  ")[-1].strip() == table.columns[-1]]
    starts = [re.search(rf"  {re.escape(column)}(  |$)", head).start() + 2 for column in table.columns]
    lines = {line.strip().split("  ")[0]: line for line in reversed(text) if line}
    for row, cells in zip(table.rows, cells_of(table), strict=True):
        if sum(other.label == row.label for other in table.rows) == 1:
            ends = [*starts[1:], None]
            assert [lines[row.label][a:b].strip() for a, b in zip(starts, ends, strict=True)] == cells


@pytest.mark.parametrize(
    ("each", "shown"),
    [
        (ours(74.39, low=74.0, high=74.8), "74.39 (-0.35)"),  # 74.74 lies within
        (ours(74.30, low=74.0, high=74.6), "74.30 (-0.44)▼"),
        (ours(75.30, low=75.0, high=75.6), "75.30 (+0.56)▲"),
        (ours(75.30, spread=0.3), "75.30 ± 0.30 (+0.56)"),  # 0.56 < 2 x 0.3
        (ours(75.30, spread=0.2), "75.30 ± 0.20 (+0.56)▲"),
        (ours(74.744), "74.74 (+0.00)"),
        (ours(74.76), "74.76 (+0.02)▲"),
        (ours(79.0, row="ViT-Base/16 BeIT-v2"), "79.00"),  # the paper has no such number
        (ours(60.0, row="ViT-Tiny/16"), "60.00"),
    ],
)
def test_differences_and_marks(each, shown):
    assert our_cell(each) == shown


def test_a_column_has_the_most_digits_that_the_paper_prints_in_it():
    """The linear column of Table 9 has 76.98 beside 72.8."""
    each = Ours("a", {9: {"ViT-Tiny/16": {"Lin. [D]": Result(70.123, None, None, None, ("x.json",))}}})
    (line,) = [line for line in lines_of(TABLES[9], [each]) if line.ours]
    assert {cell.digits for row in TABLES[9].rows if (cell := row.cells.get("Lin. [D]"))} == {1, 2}
    assert line.cells[2] == "70.12"


def test_our_rows_stand_under_theirs_and_strangers_last():
    both = [ours(74.0, label="a"), ours(75.0, label="b"), ours(60.0, row="ViT-Tiny/16 DINO", label="a")]
    labels = [line.label for line in lines_of(TABLES[2], both)]
    at = labels.index("ours: a")
    assert labels[at - 1 : at + 3] == ["DINO-vMF", "ours: a", "ours: b", "MSN"]
    assert labels[-2:] == ["Not in the paper", "ViT-Tiny/16 DINO, ours: a"]
    (line,) = [line for line in lines_of(TABLES[2], both[:1]) if line.ours]
    assert line.cells[1:] == ("", "")


def test_sources_and_intervals_are_told_in_every_format():
    each = ours(74.39, low=74.0, high=74.8)
    for name, render in FORMATS.items():
        text = re.sub(r"\\", "", render([TABLES[2], TABLES[4]], [each]))
        assert "seed_0, ViT-Small/16 DINO-vMF, kNN: 74.39 [74.00, 74.80] from knn.json k=20" in text, name
        assert "outside" in text
        assert "outside" not in render([TABLES[2]])


def test_names_of_files_are_text():
    each = ours(74.0, row="<b>|mine*", label="a_b<i>")
    page = Page(to_html([TABLES[2]], [each]))
    assert page.rows[-1][0] == "<b>|mine*, ours: a_b<i>"
    page = Page(MarkdownIt("commonmark").enable("table").render(to_markdown([TABLES[2]], [each])))
    assert page.rows[-1][:2] == ["<b>|mine*, ours: a_b<i>", "74.00"]
