"""The stored notebooks come out again as they are stored: nbval executes them and compares every text output.

They are executed once for that and for what a student meets: all cells run with no exercise solved, where each check
fails and nothing else does, then solved one after the other in the same kernel. (In the order of the chapter they are
executed when they are stored, and by `make book`.)
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from chapters import BOOK, BUILD, NOTEBOOKS, SRC, chapter_names
from release import grading, release


def nbval(notebook, folder):
    """Run nbval strictly on a copy of `notebook` in `folder`, in this interpreter's environment."""
    shutil.copy(notebook, folder)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "-p",
        "no:cacheprovider",
    ]
    command += ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(BOOK / "tools" / "sanitize.cfg")]
    command += ["--nbval-cell-timeout", "600", str(folder / notebook.name)]
    env = os.environ | {
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),  # neither kernels nor start-up files of the user's own
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def of_code(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def as_a_student(stored, released):
    """The cells that a student gets, with the outputs that are stored, then the stored exercises and their checks."""
    solved = of_code(stored)
    unsolved = of_code(released)
    for cell, whole in zip(unsolved, solved, strict=True):
        cell.outputs, cell.execution_count = whole.outputs, 1
        if grading(cell, "grade"):
            cell.outputs = [nbformat.v4.new_output("error", ename="NotImplementedError", evalue="", traceback=[])]
            cell.metadata["tags"] = ["raises-exception"]
        elif grading(cell, "solution"):
            cell.outputs = []
    exercises = [cell for cell in solved if grading(cell, "solution") or grading(cell, "grade")]
    for number, cell in enumerate(exercises):
        cell.id = f"solved-{number}"
    return [*unsolved, *exercises]


@pytest.mark.slow
@pytest.mark.parametrize("name", chapter_names())
def test_checks_fail_until_solved_and_all_outputs_come_out_again(name, tmp_path):
    stored = NOTEBOOKS / f"{name}.ipynb"
    [released] = release([name], tmp_path, SRC)
    notebook = nbformat.read(stored, 4)
    notebook.cells = as_a_student(stored, released)
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    BUILD.mkdir(exist_ok=True)
    # Inside the checkout, where `make book` executes them too: chapter 8 looks for the recipes above its own folder.
    with tempfile.TemporaryDirectory(prefix="nbval-", dir=BUILD) as folder:
        result = nbval(tmp_path / "executed.ipynb", Path(folder))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert f"{len(notebook.cells)} passed" in result.stdout


CELLS = {  # what is run: what is stored of it
    "print(1 + 1)": "2\n",
    "print(1 + 2)": "2\n",  # another output
    "1 / 0": "",  # an error that is none of a check
}
EXERCISES = {  # an answer: its check
    "def good():\n    return 1": "assert good() == 1",
    "def bad():\n    return 2": "assert bad() == 1",  # a stored answer that is wrong
    "def idle():\n    return 1": "assert callable(idle)",  # a check that passes without an answer
}


def test_what_is_wrong_with_a_notebook_makes_it_fail(tmp_path):
    new = nbformat.v4
    stored, released = [], []
    for source, text in CELLS.items():
        outputs = [new.new_output("stream", text=text)] if text else []
        stored.append(new.new_code_cell(source, execution_count=1, outputs=outputs))
        released.append(new.new_code_cell(source))
    for answer, check in EXERCISES.items():
        for source, key in ((answer, "solution"), (check, "grade")):
            stored.append(new.new_code_cell(source, execution_count=1, metadata={"nbgrader": {key: True}}))
            blank = source.partition("\n")[0] + "\n    raise NotImplementedError" if key == "solution" else source
            released.append(new.new_code_cell(blank, metadata={"nbgrader": {key: True}}))
    for name, cells in {"stored": stored, "released": released}.items():
        nbformat.write(new.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    cells = as_a_student(tmp_path / "stored.ipynb", tmp_path / "released.ipynb")
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "executed.ipynb")
    (tmp_path / "work").mkdir()
    result = nbval(tmp_path / "executed.ipynb", tmp_path / "work")
    failed = [int(number) for number in re.findall(r"^FAILED .*::Cell (\d+)", result.stdout, re.M)]
    assert failed == [1, 2, 8, 12], result.stdout
    assert f"4 failed, {len(cells) - 4} passed" in result.stdout
