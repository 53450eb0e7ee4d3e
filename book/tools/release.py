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
from typing import Any

import nbformat
from chapters import BOOK, SRC, read_chapter, select
from labels import book_labels, citations
from nbformat import NotebookNode
from plain import PlainText

SOLUTION = re.compile(r"^(?P<indent>[ \t]*)### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION[^\n]*", re.S | re.M)
LEFTOVER = re.compile(
    r"(?i:(?:BEGIN|END)[ _-]*SOLUTION)|^[ \t>]*[`:]{3,}\{|\{(?:ref|eq|numref|cite|cite:[pt]|prf:ref)\}`", re.M
)


def student_cells(cell: NotebookNode, plain: PlainText) -> list[NotebookNode]:
    """What a student gets of a cell: itself without its solution, and the caption of its figure."""
    if cell.cell_type == "markdown":
        cell.source = plain.convert(cell.source)
        return [cell] if cell.source else []
    solution = grading(cell, "solution")
    if solution:
        cell.source, count = SOLUTION.subn(
            r"\g<indent># your code here\n\g<indent>raise NotImplementedError", cell.source
        )
        if not count:
            raise ValueError("a solution without the lines ### BEGIN SOLUTION and ### END SOLUTION around it")
    tags = cell.metadata.pop("tags", [])
    if kept := [tag for tag in tags if tag != "hide-input"]:
        cell.metadata["tags"] = kept
    if "hide-input" in tags and not solution:  # the code of a moving figure: folded in JupyterLab as on the site
        cell.metadata["jupyter"] = {"source_hidden": True}
    figure = cell.metadata.pop("mystnb", {}).get("figure", {})
    if caption := figure.get("caption"):
        words = f"*{plain.words[figure['name']]}.* {plain.convert(caption)}"
        return [cell, nbformat.v4.new_markdown_cell(words, id=f"{cell.id}-caption")]
    return [cell]


def student_notebook(chapter: NotebookNode, plain: PlainText) -> NotebookNode:
    """The student's notebook of a chapter (read from its text, so it has no outputs)."""
    solutions = [grading(cell, "grade_id") for cell in chapter.cells if grading(cell, "solution")]
    checks = [grading(cell, "grade_id") for cell in chapter.cells if grading(cell, "grade")]
    if checks != [f"{name}-check" for name in solutions]:
        odd = sorted({*checks} ^ {f"{name}-check" for name in solutions}) or checks
        raise ValueError(f"not every check follows its solution by grade_id, NAME and NAME-check: {', '.join(odd)}")
    cells = []
    for number, cell in enumerate(chapter.cells, start=1):
        place = f"cell {number} ({grading(cell, 'grade_id') or repr(cell.source[:40])})"
        try:
            given = student_cells(cell, plain)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{place}: {error}") from error
        for part in given:
            if found := LEFTOVER.search(part.source):
                raise ValueError(f"{place}: {found[0].strip()!r} would be left in the student notebook")
        cells += given
    chapter.cells = cells
    nbformat.validate(chapter)
    return chapter


def grading(cell: NotebookNode, key: str) -> Any:
    """An entry of what nbgrader is told of a cell; False where it is told nothing."""
    return cell.metadata.get("nbgrader", {}).get(key, False)


def release(names: list[str], out: Path, src: Path = SRC) -> list[Path]:
    """Write the student notebooks of the chapters `names` into `out`, all or, at a `ValueError`, none; their paths."""
    plain = PlainText(book_labels(src), citations(BOOK / "references.bib"))
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
    except ValueError as error:
        sys.exit(f"nothing is released: {error}")
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
