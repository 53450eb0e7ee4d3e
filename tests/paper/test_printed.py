"""All fifteen tables: spot values read off the paper by eye, and tables that print the same numbers twice."""

import pytest

from vmflearn.paper import TABLES
from vmflearn.paper.table import parse_table

SPOTS = [  # from each table one number at least, from the last row or column where a shift would show
    (1, "vmf", "probability", "70.87"),
    (2, "ViT-Base/16 BeIT-v2", "Lin. [D]", "80.10"),
    (2, "ViT-Small/16 iBOT", "kNN", "75.20"),
    (3, "ViT-Base/16 iBOT-vMF", "1% imgs", "72.3"),
    (3, "ViT-Small/16 DINO-vMF", "2 imgs/cls", "49.4"),
    (4, "ViT-Base/16 DINO", "largest set", "54,877"),
    (5, "ViT-Small/16 MSN", "Avg.", "80.5"),
    (6, "ViT-Small/16 MSN", "ROx H", "15.1"),
    (7, "ViT-Base/16 DINO-vMF", "F", "65.2"),
    (8, "vmf", "seed 42 probability", "70.62"),
    (9, "MoCo-v2", "kNN", "64.4"),
    (9, "BYOL", "Lin. [D]", "71.4"),
    (10, "BeIT", "Lin. [D]", "56.7"),
    (11, "DINO-vMF", "Lin. [D]", "74.14"),
    (12, "MSN", "2 imgs/cls", "58.9 ± 0.4"),
    (12, "iBOT-vMF", "5 imgs/cls", "68.3 ± 0.3"),
    (13, "DINO-vMF", "2 imgs/cls", "49.4 ± 0.7"),
    (14, "iBOT", "Aircraft", "85.7"),
    (14, "Random (DeIT-III)", "ImageNet-1K", "81.4"),
    (15, "iBOT-vMF", "CIFAR100", "92.6"),
    (15, "MAE", "ImageNet-1K", "83.6"),
]


@pytest.mark.parametrize(("number", "row", "column", "printed"), SPOTS)
def test_spot_values(number, row, column, printed):
    assert str(TABLES[number].row(row).cells[column]) == printed


def test_sizes():
    """Numbers in each table, counted on the page; 342 in all, 18 with a deviation."""
    counts = {table.number: sum(len(row.cells) for row in table.rows) for table in TABLES.values()}
    expected = [6, 27, 32, 8, 80, 32, 24, 12, 19, 19, 6, 15, 9, 23, 30]
    assert counts == dict(enumerate(expected, start=1))
    cells = [cell for table in TABLES.values() for row in table.rows for cell in row.cells.values()]
    assert (len(cells), sum(cell.spread is not None for cell in cells)) == (342, 18)


SUMS = {  # of every column and of every row, added up from the text of the paper's pages
    2: (
        [681.84, 620.4, 780.12],
        [235.93, 239.13, 232.16, 234.88, 80.1, 223.97, 227.51, 227.9, 227.68, 153.1],
    ),
    3: ([364.7, 441.3, 506.4, 545.6], [222.3, 243.3, 246.1, 236.6, 253.3, 210.8, 232.9, 212.7]),
    5: (
        [441.4, 751.9, 774.6, 683.6, 593.2, 757.7, 648.0, 750.6, 542.5, 660.4],
        [833.6, 835.0, 834.8, 840.9, 814.7, 818.1, 821.4, 805.4],
    ),
    6: ([502.9, 280.5, 282.4, 103.0], [144.6, 156.0, 149.3, 155.4, 129.2, 145.2, 142.6, 146.5]),
    7: ([493.7, 480.9, 506.6], [187.2, 190.2, 188.2, 189.2, 174.1, 185.4, 188.1, 178.8]),
    9: ([496.54, 228.48, 672.27], [227.51, 227.9, 227.68, 139.8, 153.1, 73.4, 72.8, 137.1, 138.0]),
    14: ([494.7, 448.8, 490.4, 254.9, 407.4], [366.6, 81.4, 282.4, 454.2, 455.2, 456.4]),
    15: ([594.7, 549.3, 591.8, 340.2, 667.9], [370.0, 83.8, 370.5, 457.7, 458.4, 459.4, 460.5, 83.6]),
}


@pytest.mark.parametrize("number", SUMS)
def test_columns_and_rows_add_up_to_what_those_of_the_pages_do(number):
    table, (columns, rows) = TABLES[number], SUMS[number]
    found = [sum(row.cells[column].value for row in table.rows if column in row.cells) for column in table.columns]
    assert found == pytest.approx(columns)
    assert [sum(cell.value for cell in row.cells.values()) for row in table.rows] == pytest.approx(rows)


def test_names_tell_rows_apart():
    for table in TABLES.values():
        assert len({row.name for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize(("again", "first"), [(9, 2), (10, 2), (12, 3), (13, 3)])
def test_a_number_printed_twice_is_the_same(again, first):
    shared = 0
    for row in TABLES[again].rows:
        for column, cell in row.cells.items():
            other = TABLES[first].row(row.name)
            if other is not None:
                shared += 1
                assert cell.value == other.cells[column].value, (row.name, column)
    assert shared >= 9


def test_what_the_text_says_of_fine_tuning():
    """A.6.5: the largest gains of the normaliser are on Aircraft."""
    for number, pair in ((14, ("DINO", "DINO-vMF")), (15, ("iBOT", "iBOT-vMF"))):
        a, b = (TABLES[number].row(label).cells for label in pair)
        gains = {column: b[column].value - a[column].value for column in a}
        assert max(gains, key=gains.__getitem__) == "Aircraft"


def test_a_label_that_two_rows_have_is_no_name():
    assert TABLES[2].row("DINO") is None
    assert TABLES[9].row("DINO").cells["kNN"].value == 74.44
    with pytest.raises(KeyError, match="Table 2 has no row 'DINO'; it has ViT-Base/16 iBOT, "):
        TABLES[2].value("DINO", "kNN")


def test_a_row_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        parse_table(1, "", "  | a | b\n x | 1.0")
