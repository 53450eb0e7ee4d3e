"""Where the chapters are, and how a chapter's text becomes a notebook.

A chapter is a pair: the text `book/src/NN_slug.md` (MyST Markdown, written by hand) and the executed notebook
`book/notebooks/NN_slug.ipynb` (made from it by `execute.py store`). Only the text is ever edited.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import jupytext
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parents[1]
SRC = BOOK / "src"
NOTEBOOKS = BOOK / "notebooks"
BUILD = BOOK / "_build"

PATTERN = "[0-9][0-9]_*"

MACROS = {  # TeX commands of the book; without arguments, so that the release can write them out
    "vMF": r"\operatorname{vMF}",
    "tr": r"\operatorname{tr}",
    "Var": r"\operatorname{Var}",
    "Cov": r"\operatorname{Cov}",
    "KL": r"\operatorname{KL}",
    "softmax": r"\operatorname{softmax}",
    "argmax": r"\operatorname*{arg\,max}",
    "argmin": r"\operatorname*{arg\,min}",
    "E": r"\mathbb{E}",
    "R": r"\mathbb{R}",
    "Sphere": r"\mathbb{S}",
    "T": r"\mathsf{T}",
}

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}


def chapter_names(src: Path = SRC) -> list[str]:
    """Names of all chapters (`04_mixtures`), in reading order."""
    return [path.stem for path in sorted(src.glob(PATTERN + ".md"))]


def select(names: list[str], src: Path = SRC) -> list[str]:
    """The chapters named on a command line; all of them when none is. Leaves with a message if one does not exist."""
    known = chapter_names(src)
    wanted = [Path(name).stem for name in names]
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"no such chapter: {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")
    if not known:
        sys.exit(f"no chapter in {src}")
    return wanted or known


def read_chapter(path: Path) -> NotebookNode:
    """Read a chapter's text as an unexecuted notebook with plain metadata and cell ids that depend on content alone.

    An edit then changes the id of the edited cell and of no other, and executing again changes none.
    """
    notebook = jupytext.read(path)
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNELSPEC), language_info=NotebookNode(LANGUAGE))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook
