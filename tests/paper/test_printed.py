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
