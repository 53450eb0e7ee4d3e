"""Execute the chapters.

    python book/tools/execute.py run [NAME ...]     copies, into book/_build/notebooks (what `make book` shows)
    python book/tools/execute.py store [NAME ...]   the committed notebooks, book/notebooks (for authors)

Both run in this interpreter's own environment, whatever kernels are registered on the machine, one chapter after the
other, in the folder book/_build/notebooks. The first failing cell of a chapter ends that chapter; the others still run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from chapters import BOOK, BUILD, NOTEBOOKS, SRC, read_chapter, select
from check_pair import notebook_faults
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets import default

CELL_TIMEOUT = 600
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class ThisPythonKernelManager(AsyncKernelManager):
    """Starts `python3` as the running interpreter: with no folder to look into, only the native kernel is left."""

    @default("kernel_spec_manager")
    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


class ChapterError(Exception):
    """A cell failed; the message says which, and holds its traceback."""


def execute(notebook: NotebookNode, name: str, folder: Path, *, allow_errors: bool = False) -> NotebookNode:
    """Execute `notebook` in `folder` and return it; `ChapterError` names the chapter and the cell that failed.

    With `allow_errors` a failing cell keeps its error as output, and the next one runs (unsolved student notebooks).
    """
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    at = {"number": 0}

    def report(cell: NotebookNode, cell_index: int) -> None:
        at["number"] = code.index(cell_index) + 1
        if sys.stdout.isatty():
            print(f"\r{name}: cell {at['number']} of {len(code)} ", end="", flush=True)

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        allow_errors=allow_errors,
        kernel_name="python3",
        kernel_manager_class=ThisPythonKernelManager,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=40"],  # quiet about talking over the loopback interface
        on_cell_execute=report,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:  # a reader's own IPython start-up files stay out of the book
        env = os.environ | {"IPYTHONDIR": profile, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        try:
            client.execute(env=env)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            source = notebook.cells[code[at["number"] - 1]].source if at["number"] else ""
            trace = ANSI.sub("", str(error))
            reason = trace if isinstance(error, CellExecutionError) else f"{source}\n\n{trace}"
            where = f"{name}: code cell {at['number']} of {len(code)} failed ({type(error).__name__})"
            raise ChapterError(f"{where}\n\n{reason}") from error
    return notebook


def private_paths(notebook: NotebookNode) -> list[str]:
    """Faults: outputs that hold a path of this machine (checkout, home, environment), by code cell."""
    places = {str(path) for path in (BOOK.parent, Path.home(), Path(sys.prefix)) if len(path.parts) > 1}
    faults = []
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        text = json.dumps(cell.outputs)
        if hits := sorted(place for place in places if re.search(re.escape(place) + r"(?![A-Za-z0-9_-])", text)):
            faults.append(f"the output of code cell {number} holds a path of this machine: {', '.join(hits)}")
    return faults


def chapter(name: str, mode: str) -> list[str]:
    """Execute one chapter and write it; returns what is wrong with it (empty: nothing)."""
    source, folder = SRC / f"{name}.md", BUILD / "notebooks"
    target = (folder if mode == "run" else NOTEBOOKS) / f"{name}.ipynb"
    try:
        notebook = execute(read_chapter(source), name, folder)
    except ChapterError as error:
        return [str(error)]
    faults = private_paths(notebook) if mode == "store" else []
    if not faults:
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
        faults = notebook_faults(source, target) if mode == "store" else []
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["run", "store"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, e.g. 04_mixtures (default: all)")
    args = parser.parse_args()
    names = select(args.names)
    failed = 0
    for position, name in enumerate(names, start=1):
        started = time.perf_counter()
        if not sys.stdout.isatty():
            print(f"{name}: ", end="", flush=True)
        faults = chapter(name, args.mode)
        seconds = time.perf_counter() - started
        lead = f"\r{name}: " if sys.stdout.isatty() else ""
        print(f"{lead}{'FAILED' if faults else 'done'} after {seconds:.1f} s [{position}/{len(names)}]", flush=True)
        for fault in faults:
            print(f"  {fault}", file=sys.stderr, flush=True)
        failed += bool(faults)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
