"""Make the student notebooks: `python book/tools/release.py [--out DIR] [NAME ...]`, by default into book/release.

Out go the solutions: the bodies between BEGIN SOLUTION and END SOLUTION, the {solution} texts, all outputs. The rest is
rewritten to plain Markdown, so that it reads well in any notebook program. The checks stay as they are: each fails
until its exercise is solved. A solution cell that does not say where its solution begins and ends, and anything of a
solution or a directive that would be left, is refused with chapter and cell, and no notebook is written.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat
from chapters import BOOK, SRC, read_chapter, select
from nbformat import NotebookNode
from plain import PlainText
from readable import grading, place, plain_cells, plain_text, without_solution

LEFTOVER = re.compile(
    r"(?i:(?:BEGIN|END)[ _-]*SOLUTION)|^[ \t>]*[`:]{3,}\{|\{(?:ref|eq|numref|cite|cite:[pt]|prf:ref)\}`", re.M
)


def student_cells(cell: NotebookNode, plain: PlainText) -> list[NotebookNode]:
    """What a student gets of a cell: itself in plain Markdown and without its solution."""
    if grading(cell, "solution"):
        cell.source = without_solution(cell.source)
    return plain_cells(cell, plain)


def student_notebook(chapter: NotebookNode, plain: PlainText) -> NotebookNode:
    """The student's notebook of a chapter (read from its text, so it has no outputs)."""
    solutions = [grading(cell, "grade_id") for cell in chapter.cells if grading(cell, "solution")]
    checks = [grading(cell, "grade_id") for cell in chapter.cells if grading(cell, "grade")]
    if checks != [f"{name}-check" for name in solutions]:
        odd = sorted({*checks} ^ {f"{name}-check" for name in solutions}) or checks
        raise ValueError(f"not every check follows its solution by grade_id, NAME and NAME-check: {', '.join(odd)}")
    cells = []
    for number, cell in enumerate(chapter.cells, start=1):
        where = place(number, cell)
        try:
            given = student_cells(cell, plain)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{where}: {error}") from error
        for part in given:
            if found := LEFTOVER.search(part.source):
                raise ValueError(f"{where}: {found[0].strip()!r} would be left in the student notebook")
        cells += given
    chapter.cells = cells
    nbformat.validate(chapter)
    return chapter


def release(names: list[str], out: Path, src: Path = SRC) -> list[Path]:
    """Write the student notebooks of the chapters `names` into `out`, all or, at a `ValueError`, none; their paths."""
    plain = plain_text(src)
    notebooks = {}
    for name in names:
        try:
            notebooks[out / f"{name}.ipynb"] = student_notebook(read_chapter(src / f"{name}.md"), plain)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    for path, notebook in notebooks.items():
        nbformat.write(notebook, path)
    return list(notebooks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, e.g. 04_mixtures (default: all)")
    parser.add_argument("--out", type=Path, default=BOOK / "release", help="folder of the student notebooks")
    args = parser.parse_args()
    try:
        written = release(select(args.names), args.out)
    except (ValueError, OSError) as error:
        sys.exit(f"nothing is released: {error}")
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
