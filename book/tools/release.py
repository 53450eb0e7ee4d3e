"""Make the student notebooks: `python book/tools/release.py [--out DIR] [NAME ...]`, by default into book/release.

Out go the solutions: the bodies between BEGIN SOLUTION and END SOLUTION, the {solution} texts, all outputs. The rest is
rewritten to plain Markdown, so that it reads well in any notebook program. The checks stay as they are: each fails
until its exercise is solved.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat
from chapters import BOOK, SRC, read_chapter, select
from labels import book_labels, citations
from nbformat import NotebookNode
from plain import PlainText

SOLUTION = re.compile(r"^(?P<indent>[ \t]*)### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION[^\n]*", re.S | re.M)
LEFTOVER = re.compile(r"BEGIN SOLUTION|END SOLUTION|^[`:]{3,}\{|\{(?:ref|eq|numref|cite|prf:ref)\}`", re.M)


def student_notebook(chapter: NotebookNode, plain: PlainText) -> NotebookNode:
    """The student's notebook of a chapter (read from its text, so it has no outputs)."""
    cells = []
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            cell.source = plain.convert(cell.source)
            if cell.source:
                cells.append(cell)
            continue
        solution = cell.metadata.get("nbgrader", {}).get("solution", False)
        if solution:
            cell.source = SOLUTION.sub(r"\g<indent># your code here\n\g<indent>raise NotImplementedError", cell.source)
        tags = cell.metadata.pop("tags", [])
        if kept := [tag for tag in tags if tag != "hide-input"]:
            cell.metadata["tags"] = kept
        if "hide-input" in tags and not solution:  # the code of a moving figure: folded in JupyterLab as on the site
            cell.metadata["jupyter"] = {"source_hidden": True}
        figure = cell.metadata.pop("mystnb", {}).get("figure", {})
        cells.append(cell)
        if caption := figure.get("caption"):
            words = f"*{plain.words[figure['name']]}.* {plain.convert(caption)}"
            cells.append(nbformat.v4.new_markdown_cell(words, id=f"{cell.id}-caption"))
    chapter.cells = cells
    nbformat.validate(chapter)
    for cell in cells:
        if found := LEFTOVER.search(cell.source):
            raise ValueError(f"{found[0]!r} is left in a student notebook: {cell.source[:200]!r}")
    return chapter


def release(names: list[str], out: Path, src: Path = SRC) -> list[Path]:
    """Write the student notebooks of the chapters `names` into `out`; returns their paths."""
    plain = PlainText(book_labels(src), citations(BOOK / "references.bib"))
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names:
        try:
            notebook = student_notebook(read_chapter(src / f"{name}.md"), plain)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{name}: {error}") from error
        written.append(out / f"{name}.ipynb")
        nbformat.write(notebook, written[-1])
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, e.g. 04_mixtures (default: all)")
    parser.add_argument("--out", type=Path, default=BOOK / "release", help="folder of the student notebooks")
    args = parser.parse_args()
    for path in release(select(args.names), args.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
