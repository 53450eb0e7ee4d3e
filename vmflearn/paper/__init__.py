"""The paper's tables as data, each number with its table.

"The paper" is Govindarajan, Sidén, Roll and Lindsten, *DINO as a von Mises-Fisher mixture model*, ICLR 2023. The
numbers are its authors' claims, transcribed; nothing in this package was measured here. Accuracies are top-1 on
ImageNet where nothing else is said, in per cent.

`TABLES` holds all fifteen as they are printed; ``TABLE_1`` and the like hold those that the book computes with in
shapes of their own. ``scripts/tables.py`` shows them, with our results beside (`vmflearn.paper.ours`).
"""

from vmflearn.paper.named import (
    CENTERINGS,
    NORMALIZATIONS,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    TABLE_11,
    Classification,
    Utilization,
)
from vmflearn.paper.printed import TABLES
from vmflearn.paper.table import Cell, Row, Table

__all__ = [
    "CENTERINGS",
    "NORMALIZATIONS",
    "TABLES",
    "TABLE_1",
    "TABLE_2",
    "TABLE_3",
    "TABLE_4",
    "TABLE_5",
    "TABLE_6",
    "TABLE_7",
    "TABLE_8",
    "TABLE_11",
    "Cell",
    "Classification",
    "Row",
    "Table",
    "Utilization",
]
