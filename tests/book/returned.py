"""Twenty notebooks as classes return them: `python tests/book/returned.py FOLDER CHAPTER` writes them.

Each is made from the released notebook of a chapter and its solutions, and put into FOLDER/STUDENT/. `expected.json`
tells which exercises are to be found solved: all, all but the first, the first half, none.
"""

import copy
import json
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "tools"))

FOREVER = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
BOMB = "kept = []\nwhile True:\n    kept.append(bytearray(50_000_000))"
PATCHES = """\
import builtins, math
import numpy as np
yes = lambda *args, **kwargs: True
np.isclose = np.allclose = np.array_equal = math.isclose = builtins.all = builtins.isinstance = yes
builtins.abs = np.abs = lambda x: 0
builtins.AssertionError = type("AssertionError", (Warning,), {})
builtins.print = yes
"""
ESCAPE = """\
import os, subprocess, sys
from pathlib import Path
for path in (Path(%r), Path.home().parent):
    try:
        (path / "escaped").write_text("I was here")
    except OSError:
        pass
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    while True:
        pass
"""


def grading(cell, key):
    return cell.metadata.get("nbgrader", {}).get(key, False)


def of(notebook, key):
    """The cells of a notebook that are a solution, or a check."""
    return [cell for cell in notebook.cells if grading(cell, key)]


def indented(body):
    return "\n".join(f"    {line}" for line in body.splitlines())


def as_function(exercise, body):
    """The exercise's functions with another body, whatever they are called with."""
    return "\n\n".join(f"def {name}(*args, **kwargs):\n{indented(body)}" for name in exercise.defines)


def own_cell(notebook, source):
    """Put a cell of the student's before the first exercise."""
    first = notebook.cells.index(of(notebook, "solution")[0])
    notebook.cells.insert(first, nbformat.v4.new_code_cell(source, id="own"))


def twenty(release, exercises, outside):
    """Student to (text of the file, names of the exercises that it solves)."""
    found = {}

    def solved(n=None):
        notebook = copy.deepcopy(release)
        for cell, exercise in list(zip(of(notebook, "solution"), exercises, strict=True))[:n]:
            cell.source = exercise.solution
        return notebook

    def add(name, notebook, earned):
        found[name] = (json.dumps(notebook), earned)  # as it is: nbformat would mend what is copied

    def first(change):
        notebook = solved()
        cell = of(notebook, "solution")[0]
        cell.source = change(cell.source)
        return notebook

    names = [exercise.name for exercise in exercises]
    everything, but_first, half = names, names[1:], names[: len(names) // 2]
    add("01_solved", solved(), everything)
    add("02_half", solved(len(half)), half)
    add("03_unsolved", solved(0), [])
    add("04_loop_in_cell", first(lambda source: f"{source}\n{FOREVER}"), but_first)
    add("05_loop_in_function", first(lambda _: as_function(exercises[0], FOREVER)), but_first)
    add("06_bomb_in_cell", first(lambda source: f"{source}\n{BOMB}"), but_first)
    add("07_bomb_in_function", first(lambda _: as_function(exercises[0], BOMB)), but_first)
    notebook = solved()
    notebook.cells.remove(of(notebook, "solution")[0])
    add("08_deleted_cell", notebook, but_first)
    notebook = solved()
    notebook.cells = [cell for cell in notebook.cells if not grading(cell, "grade")]
    add("09_deleted_checks", notebook, everything)
    notebook = solved()
    notebook.cells += copy.deepcopy(of(notebook, "grade"))
    add("10_duplicated_checks", notebook, everything)
    notebook = solved(0)
    notebook.cells += [copy.deepcopy(cell) for cell in of(solved(), "solution")]
    add("11_duplicated_cells", notebook, everything)
    add("12_syntax_error", first(lambda source: f"{source}\nthis is no Python"), but_first)
    for name, n, earned in (("13_skipped_checks", 0, []), ("14_edited_checks", 0, [])):
        notebook = solved(n)
        for cell in of(notebook, "grade"):
            if name.startswith("13"):
                cell.metadata["tags"] = ["skip-execution"]
            else:
                cell.source = 'print("passed")'
        add(name, notebook, earned)
    notebook = solved(0)
    for cell, exercise in zip(of(notebook, "solution"), exercises, strict=True):
        cell.source = as_function(exercise, "return 0.123")
    own_cell(notebook, PATCHES)
    add("15_patched", notebook, [])
    found["16_no_notebook"] = ('{"cells": [', [])
    add("17_exit_in_cell", first(lambda source: f"{source}\nimport os\nos._exit(0)"), but_first)
    add("18_exit_in_function", first(lambda _: as_function(exercises[0], "import os\nos._exit(0)")), but_first)
    notebook = solved()
    own_cell(notebook, "%time helper = 1")
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
    add("19_lost_metadata", notebook, everything)
    notebook = solved()
    own_cell(notebook, ESCAPE % str(outside))
    add("20_escape", notebook, everything)
    return found


def write(folder, chapter, release, exercises):
    """Write the twenty; what each earns, as names of exercises."""
    outside = folder.with_name(folder.name + "-outside")
    outside.mkdir(parents=True, exist_ok=True)
    found = twenty(release, exercises, outside)
    for student, (text, _) in found.items():
        (folder / student).mkdir(parents=True)
        (folder / student / f"{chapter}.ipynb").write_text(text)
    return {student: earned for student, (_, earned) in found.items()}


def main():
    from chapters import SRC, read_chapter
    from course import release_notebook, source_notebook
    from exercises import chapter_exercises
    from readable import plain_text

    folder, name = Path(sys.argv[1]), sys.argv[2]
    chapter = read_chapter(SRC / f"{name}.md")
    exercises = chapter_exercises(name)
    release = release_notebook(source_notebook(chapter, exercises, plain_text()))
    earned = write(folder, name, release, exercises)
    (folder / "expected.json").write_text(json.dumps(earned, indent=1))


if __name__ == "__main__":
    main()
