"""Make copies of the stored notebooks that read well in any program: `python book/tools/readable.py [NAME ...]`.

The stored notebooks are MyST, which JupyterLab, VS Code, Colab and GitHub show as it is written. In a copy the text is
plain Markdown: hints, answers and solutions are folded, captions stand under their figures, references are in words.
Drawings are attached to their cells; Colab, which shows no attachments, has their description in their place.
Outputs and code are as stored, except for the exercises: their cells are empty, and the solution is in the fold below.
Figures ask for no background of their own.

    --out DIR     where to (default: book/lab, which `make lab` opens)
    --overwrite   also over copies that you have changed; without it they are kept, and named
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from chapters import BOOK, NOTEBOOKS, SRC, select
from drawing import attach
from labels import book_labels, citations
from nbformat import NotebookNode
from plain import PlainText

SOLUTION = re.compile(r"^(?P<indent>[ \t]*)### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION[^\n]*", re.S | re.M)
LEDGER = ".written.json"  # what was written: a copy that differs from it is the reader's own


def grading(cell: NotebookNode, key: str) -> Any:
    """An entry of what nbgrader is told of a cell; False where it is told nothing."""
    return cell.metadata.get("nbgrader", {}).get(key, False)


def place(number: int, cell: NotebookNode) -> str:
    """How a message names a cell."""
    return f"cell {number} ({grading(cell, 'grade_id') or repr(cell.source[:40])})"


def without_solution(source: str) -> str:
    """The code of a solution cell with `raise NotImplementedError` in the solution's place."""
    source, count = SOLUTION.subn(r"\g<indent># your code here\n\g<indent>raise NotImplementedError", source)
    if not count:
        raise ValueError("a solution without the lines ### BEGIN SOLUTION and ### END SOLUTION around it")
    return source


def plain_cells(cell: NotebookNode, plain: PlainText) -> list[NotebookNode]:
    """What a reader gets of a cell: itself in plain Markdown, and the caption of its figure; nothing if it is empty."""
    if cell.cell_type == "markdown":
        cell.source, attachments = attach(plain.convert(cell.source))
        if attachments:
            cell.attachments = attachments
        return [cell] if cell.source else []
    tags = cell.metadata.pop("tags", [])
    if kept := [tag for tag in tags if tag != "hide-input"]:
        cell.metadata["tags"] = kept
    if "hide-input" in tags and not grading(cell, "solution"):  # folded as on the site
        cell.metadata["jupyter"] = {"source_hidden": True}
    for output in cell.get("outputs", []):
        output.get("metadata", {}).pop("needs_background", None)  # or JupyterLab draws a dark slab on its page
    figure = cell.metadata.pop("mystnb", {}).get("figure", {})
    if caption := figure.get("caption"):
        words = f"*{plain.words[figure['name']]}.* {plain.convert(caption)}"
        return [cell, nbformat.v4.new_markdown_cell(words, id=f"{cell.id}-caption")]
    return [cell]


def readable(notebook: NotebookNode, plain: PlainText, *, solved: bool = False) -> NotebookNode:
    """The readable copy of a stored notebook; its exercises are unsolved, so they and their checks have no output.

    With `solved` they are as stored.
    """
    cells = []
    for number, cell in enumerate(notebook.cells, start=1):
        try:
            if grading(cell, "solution") and not solved:
                cell.source = without_solution(cell.source)
            if grading(cell, "grade_id") and not solved:
                cell.outputs, cell.execution_count = [], None
            cells += plain_cells(cell, plain)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{place(number, cell)}: {error}") from error
    notebook.cells = cells
    nbformat.validate(notebook)
    return notebook


def plain_text(src: Path = SRC, *, solutions: bool = False) -> PlainText:
    """What converts the book's text: it knows the labels and the bibliography."""
    return PlainText(book_labels(src), citations(BOOK / "references.bib"), solutions=solutions)


def write_readable(names: list[str], out: Path, notebooks: Path = NOTEBOOKS, src: Path = SRC) -> None:
    """Write the readable copies of the notebooks `names` of a folder into `out`."""
    plain = plain_text(src, solutions=True)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            copy = readable(nbformat.read(notebooks / f"{name}.ipynb", 4), plain)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        nbformat.write(copy, out / f"{name}.ipynb")


def refresh(names: list[str], out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the copies anew, except those that somebody changed since they were written; returns these."""
    ledger = out / LEDGER
    written = json.loads(ledger.read_text()) if ledger.exists() else {}
    paths = {name: out / f"{name}.ipynb" for name in names}
    kept = [] if overwrite else [n for n, path in paths.items() if path.exists() and digest(path) != written.get(n)]
    fresh = [name for name in names if name not in kept]
    write_readable(fresh, out)
    ledger.write_text(json.dumps(written | {name: digest(paths[name]) for name in fresh}, indent=1) + "\n")
    return [paths[name] for name in kept]


def digest(path: Path) -> str:
    """What tells whether a file was changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, e.g. 04_mixtures (default: all)")
    parser.add_argument("--out", type=Path, default=BOOK / "lab")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    try:
        kept = refresh(select(args.names), args.out, overwrite=args.overwrite)
    except (ValueError, OSError) as error:
        sys.exit(f"no readable copy: {error}")
    for path in kept:
        print(f"{path} has changes of yours and is kept as it is; remove it, or give --overwrite, for a fresh one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
