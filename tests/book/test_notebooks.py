"""The stored notebooks come out again as they are stored: nbval executes them and compares every text output.

They are executed once for that and for what a student meets in one kernel: all cells run with no exercise solved, where
each check fails and nothing else does; wrong answers, whose mistakes the checks name; right answers written in other
ways, which the checks take; then the solutions, which pass the hidden checks too. (In the order of the chapter they are
executed when they are stored, and by `make book`.)
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from chapters import BOOK, BUILD, NOTEBOOKS, SRC, chapter_names, read_chapter
from exercises import chapter_exercises
from release import grading, release

WRONG = Path(__file__).with_name("wrong")
RIGHT = Path(__file__).with_name("right")


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


def wrong_answers(name, solutions):
    """Wrong answers to the exercises of a chapter: (exercise, mistake, code, message). None if it has no file of them.

    An entry of `wrong/NAME.toml` has the `mistake` in words; the answer, which is the solution with `new` in place of
    `old`, or all of `code`; and a part of the `message` of the check, which shows the student's value and the cause.
    """
    path = WRONG / f"{name}.toml"
    entries = tomllib.loads(path.read_text()) if path.exists() else {}
    answers = []
    for exercise, mistakes in entries.items():
        for entry in mistakes:
            code = entry.get("code") or planted(solutions[exercise], entry["old"], entry["new"])
            answers.append((exercise, entry["mistake"], code, entry["message"]))
    return answers


def planted(solution, old, new):
    """The solution with `new` in the one place where `old` stands."""
    body = re.search(r"### BEGIN SOLUTION\n(.*?)\n[ \t]*### END SOLUTION", solution, re.S)[1]
    if body.count(old) != 1:
        raise ValueError(f"{old!r} stands {body.count(old)} times in the solution, not once:\n{body}")
    return solution.replace(body, body.replace(old, new))


def right_answers(name):
    """Right answers to the exercises of a chapter, (exercise, code), written in other ways than its solutions.

    An entry of `right/NAME.toml` has the `way` in words and the `code`. None if the chapter has no file of them.
    """
    path = RIGHT / f"{name}.toml"
    entries = tomllib.loads(path.read_text()) if path.exists() else {}
    return [(exercise, entry["code"]) for exercise, ways in entries.items() for entry in ways]


def refused(check, message):
    """A cell that fails unless the check fails with the message."""
    return (
        f"try:\n    exec({check!r})\nexcept AssertionError as _said:\n    assert {message!r} in str(_said), _said\n"
        "else:\n    raise AssertionError('a wrong answer passes')"
    )


def as_a_student(stored, released, mistakes=(), hidden=None, right=()):
    """The cells that a student gets, with stored outputs; wrong and right answers; stored exercises and their checks.

    `hidden` holds more checks by exercise, which come after those that are stored.
    """
    solved = of_code(stored)
    unsolved = of_code(released)
    for cell, whole in zip(unsolved, solved, strict=True):
        cell.outputs, cell.execution_count = whole.outputs, 1
        if grading(cell, "grade"):
            cell.outputs = [nbformat.v4.new_output("error", ename="NotImplementedError", evalue="", traceback=[])]
            cell.metadata["tags"] = ["raises-exception"]
        elif grading(cell, "solution"):
            cell.outputs = []
    # A warning or a printed line of these is no matter: whether they fail alone is.
    silent = {"execution_count": 1, "metadata": {"tags": ["nbval-ignore-output"]}}
    exercises = []
    for cell in solved:
        if grading(cell, "solution") or grading(cell, "grade"):
            exercises.append(cell)
        if grading(cell, "grade") and (more := (hidden or {}).get(cell.metadata.nbgrader.grade_id)):
            exercises.append(nbformat.v4.new_code_cell(more, **silent))
    checks = {grading(cell, "grade_id"): cell.source for cell in solved if grading(cell, "grade")}
    wrong = []
    for exercise, _, code, message in mistakes:
        for source in (code, refused(checks[f"{exercise}-check"], message)):
            wrong.append(nbformat.v4.new_code_cell(source, **silent))
    otherwise = []
    for exercise, code in right:
        for source in (code, checks[f"{exercise}-check"]):
            otherwise.append(nbformat.v4.new_code_cell(source, **silent))
    for number, cell in enumerate(exercises):
        cell.id = f"solved-{number}"
    return [*unsolved, *wrong, *otherwise, *exercises]


@pytest.mark.slow
@pytest.mark.parametrize("name", chapter_names())
def test_checks_fail_until_solved_and_all_outputs_come_out_again(name, tmp_path):
    stored = NOTEBOOKS / f"{name}.ipynb"
    [released] = release([name], tmp_path, SRC)
    notebook = nbformat.read(stored, 4)
    solutions = {grading(c, "grade_id"): c.source for c in of_code(stored) if grading(c, "solution")}
    hidden = {f"{e.name}-check": e.hidden for e in chapter_exercises(name) if e.hidden}
    notebook.cells = as_a_student(stored, released, wrong_answers(name, solutions), hidden, right_answers(name))
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    BUILD.mkdir(exist_ok=True)
    # Inside the checkout, where `make book` executes them too: chapter 8 looks for the recipes above its own folder.
    with tempfile.TemporaryDirectory(prefix="nbval-", dir=BUILD) as folder:
        result = nbval(tmp_path / "executed.ipynb", Path(folder))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert f"{len(notebook.cells)} passed" in result.stdout


@pytest.mark.parametrize("path", sorted(WRONG.glob("*.toml")), ids=lambda path: path.stem)
def test_each_exercise_has_five_wrong_answers(path):
    cells = [cell for cell in read_chapter(SRC / f"{path.stem}.md").cells if grading(cell, "solution")]
    solutions = {cell.metadata["nbgrader"]["grade_id"]: cell.source for cell in cells}
    answers = wrong_answers(path.stem, solutions)
    assert len({(exercise, code) for exercise, _, code, _ in answers}) == len(answers)
    count = Counter(exercise for exercise, *_ in answers)
    assert {exercise: n for exercise in solutions if (n := count[exercise]) < 5} == {}
    assert set(count) == set(solutions)
    assert [message for *_, message in answers if len(message) < 10] == []


CELLS = {  # what is run: what is stored of it
    "print(1 + 1)": "2\n",
    "print(1 + 2)": "2\n",  # another output
    "1 / 0": "",  # an error that is none of a check
}
EXERCISES = {  # an answer: its check
    "def good():\n    return 1": "assert good() == 1, f'it is {good()}'",
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
            name = answer[4 : answer.index("(")] + ("-check" if key == "grade" else "")
            stored.append(
                new.new_code_cell(source, execution_count=1, metadata={"nbgrader": {key: True, "grade_id": name}})
            )
            blank = source.partition("\n")[0] + "\n    raise NotImplementedError" if key == "solution" else source
            released.append(new.new_code_cell(blank, metadata=stored[-1].metadata))
    for name, cells in {"stored": stored, "released": released}.items():
        nbformat.write(new.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    mistakes = [
        ("good", "", f"def good():\n    return {n}", message) for n, message in ((3, "is 3"), (3, "is 4"), (1, ""))
    ]
    hidden = {"good-check": "assert good() == 0, 'on other numbers'"}
    right = [("good", f"def good():\n    return {answer}") for answer in ("True", "2")]  # the second is refused
    cells = as_a_student(tmp_path / "stored.ipynb", tmp_path / "released.ipynb", mistakes, hidden, right)
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "executed.ipynb")
    (tmp_path / "work").mkdir()
    result = nbval(tmp_path / "executed.ipynb", tmp_path / "work")
    failed = [int(number) for number in re.findall(r"^FAILED .*::Cell (\d+)", result.stdout, re.M)]
    assert failed == [1, 2, 8, 12, 14, 18, 21, 23], result.stdout
    assert f"8 failed, {len(cells) - 8} passed" in result.stdout
