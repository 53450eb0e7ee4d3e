"""Check that every chapter's text and stored notebook are one: `python book/tools/check_pair.py`.

A notebook that was never executed would pass a comparison of outputs, having none; so the execution counts are checked
here, with everything else that a stored notebook must be: same cells as its text, no error, small, figures described.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import nbformat
from chapters import NOTEBOOKS, SRC, chapter_names, read_chapter
from nbformat import NotebookNode

MAX_NOTEBOOK_BYTES = 1_000_000
MAX_IMAGE_BYTES = 150_000


def notebook_faults(source: Path, target: Path) -> list[str]:
    """What is wrong with the stored notebook `target` of the text `source`, in words; empty when all is well."""
    if not target.exists():
        return [f"no notebook {target.name}: run `execute.py store {source.stem}`"]
    notebook = nbformat.read(target, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    faults = []
    if difference := first_difference(read_chapter(source), notebook):
        faults.append(f"text and notebook differ at {difference}: run `execute.py store {source.stem}`")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        faults.append("not executed once from top to bottom: the counts of the code cells are not 1, 2, 3, ...")
    if not code:
        faults.append("no code cell")
    if (size := target.stat().st_size) > MAX_NOTEBOOK_BYTES:
        faults.append(f"the notebook has {size:,} bytes, more than {MAX_NOTEBOOK_BYTES:,}")
    for number, cell in enumerate(code, start=1):
        faults += [f"code cell {number}: {fault}" for fault in cell_faults(cell)]
    return faults


def first_difference(text: NotebookNode, notebook: NotebookNode) -> str:
    """The first place where two notebooks differ in cell type, source or metadata; empty when they agree."""
    mine, theirs = [[(c.cell_type, c.source, to_plain(c.metadata)) for c in nb.cells] for nb in (text, notebook)]
    for number, (a, b) in enumerate(zip(mine, theirs, strict=False), start=1):
        for part, x, y in zip(("type", "source", "metadata"), a, b, strict=True):
            if x != y:
                return f"the {part} of cell {number} ({a[0]}: {a[1][:40]!r})"
    return "" if len(mine) == len(theirs) else f"the number of cells ({len(mine)} in the text, {len(theirs)})"


def to_plain(metadata: NotebookNode) -> Any:
    """Metadata as it would come back from a file."""
    return json.loads(json.dumps(metadata))


def cell_faults(cell: NotebookNode) -> list[str]:
    """Faults of one code cell's outputs."""
    faults = []
    for output in cell.outputs:
        if output.output_type == "error":
            faults.append(f"a stored error, {output.ename}: {output.evalue}")
        if output.output_type == "stream" and output.name == "stderr":
            faults.append(f"something on the error stream: {output.text[:80]!r}")
        images = {kind: data for kind, data in output.get("data", {}).items() if kind.startswith("image/")}
        for kind, data in images.items():
            size = len(data.encode()) if kind == "image/svg+xml" else len(base64.b64decode(data))
            if size > MAX_IMAGE_BYTES:
                faults.append(f"an image of {size:,} bytes, more than {MAX_IMAGE_BYTES:,}")
        if images and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip():
            faults.append("a figure without alternative text (metadata mystnb: image: alt)")
    return faults


def pairing_faults(src: Path = SRC, notebooks: Path = NOTEBOOKS) -> dict[str, list[str]]:
    """Faults of every chapter by name, notebooks without a text included; a sound chapter has an empty list."""
    names = chapter_names(src)
    faults = {name: notebook_faults(src / f"{name}.md", notebooks / f"{name}.ipynb") for name in names}
    for path in sorted(notebooks.glob("*.ipynb")):
        if path.stem not in faults:
            faults[path.stem] = [f"the notebook {path.name} has no text in {src.name}/: delete it"]
    return faults


def main() -> int:
    found = pairing_faults()
    for name, faults in found.items():
        print(f"{name}: {'; '.join(faults) or 'ok'}")
    return int(any(found.values()) or not found)


if __name__ == "__main__":
    sys.exit(main())
