"""Grading of returned notebooks: twenty ways to return one, made by `tests/book/returned.py`, on a small chapter."""

import contextlib
import copy
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from chapters import BOOK, NOTEBOOKS, SRC, chapter_names, read_chapter
from closed_room import UNSHARE, room
from course import release_notebook, source_notebook
from exercises import chapter_exercises
from grade import Chapter, GradingError, Limits, grade, main
from grade import write as write_grades
from plain import PlainText
from submissions import collect, squeezed

sys.path.insert(0, str(Path(__file__).parent))
from returned import write

CHAPTER = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

(ch-example)=
# 9. An example

```{code-cell} ipython3
import numpy as np


def total(x):
    return "the chapter's own, which is not an answer"


def double(x):
    return 2 * np.asarray(x)
```

```{exercise-start} A sum
:label: ex-sum
```
*5 minutes, easy.* Write `total(x)`.
```{exercise-end}
```

```{code-cell} ipython3
---
nbgrader: {grade: false, grade_id: ex-sum, solution: true}
---
def total(x):
    ### BEGIN SOLUTION
    return float(np.sum(x))
    ### END SOLUTION
```

```{code-cell} ipython3
---
nbgrader: {grade: true, grade_id: ex-sum-check, points: 3, solution: false, locked: true}
---
x = np.random.default_rng(1).normal(size=4)
assert abs(total(x) - sum(x)) < 1e-9, f"the sum is {sum(x):.3f}, not {total(x)}"
assert isinstance(total(x), float), "a float"
```

```{exercise-start} Its double
:label: ex-double
```
*10 minutes, easy.* Write `twice(x)`.
```{exercise-end}
```

```{code-cell} ipython3
---
nbgrader: {grade: false, grade_id: ex-double, solution: true}
---
def twice(x):
    ### BEGIN SOLUTION
    return np.sum(double(x))
    ### END SOLUTION
```

```{code-cell} ipython3
---
nbgrader: {grade: true, grade_id: ex-double-check, points: 1, solution: false, locked: true}
---
for n in np.random.default_rng(2).integers(1, 9, size=3):
    assert np.isclose(twice(np.ones(n)), 2 * n), f"{n} ones: {2 * n}, not {twice(np.ones(n))}"
```

```{exercise-start} A word
:label: ex-word
```
*1 minutes, easy.* Write `word()`.
```{exercise-end}
```

```{code-cell} ipython3
---
nbgrader: {grade: false, grade_id: ex-word, solution: true}
---
def word():
    ### BEGIN SOLUTION
    return "word"
    ### END SOLUTION
```

```{code-cell} ipython3
---
nbgrader: {grade: true, grade_id: ex-word-check, points: 2, solution: false, locked: true}
---
assert word() == "word", f"not {word()!r}"
```
"""
NAME = "09_example"
LIMITS = Limits(seconds=2.0, memory=2**28)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A small chapter: its folder, its released notebook, its exercises."""
    src = tmp_path_factory.mktemp("src")
    (src / f"{NAME}.md").write_text(CHAPTER)
    exercises = chapter_exercises(NAME, src)
    source = source_notebook(read_chapter(src / f"{NAME}.md"), exercises, PlainText({}, {}))
    return SimpleNamespace(src=src, exercises=exercises, source=source, release=release_notebook(source))


@pytest.fixture(scope="module")
def returned(course, tmp_path_factory):
    """The twenty, graded: what each should earn, and the lines of the table by student."""
    base = tmp_path_factory.mktemp("class")
    expected = write(base / "returned", NAME, course.release, course.exercises)
    lines = grade(base / "returned", base / "grades", LIMITS, course.src)
    found = {}
    for line in lines:
        found.setdefault(line["student"], []).append(line)
    return SimpleNamespace(base=base, expected=expected, lines=found)


@pytest.mark.skipif(sys.platform != "linux", reason="the limits and the room are Linux's")
class TestTwenty:
    def test_each_earns_what_it_solves(self, returned, course):
        points = {exercise.name: exercise.points for exercise in course.exercises}
        assert len(returned.expected) == 20
        for student, solved in returned.expected.items():
            earned = {line["exercise"]: line["points"] for line in returned.lines[student]}
            assert earned == {name: points[name] if name in solved else 0 for name in points}, student

    @pytest.mark.parametrize(
        ("student", "message"),
        [
            ("03_unsolved", "not solved"),
            ("04_loop_in_cell", "ended after 2 s"),
            ("05_loop_in_function", "not finished after"),
            ("06_bomb_in_cell", "took too much memory"),
            ("07_bomb_in_function", "MemoryError"),
            ("08_deleted_cell", "its cell is missing"),
            ("11_duplicated_cells", "more than once"),
            ("12_syntax_error", "SyntaxError"),
            ("14_edited_checks", "not solved"),
            ("15_patched", "put back: builtins"),
            ("16_no_notebook", "no notebook"),
            ("17_exit_in_cell", "ended the process"),
            ("18_exit_in_function", "ended in the check"),
        ],
    )
    def test_the_reason_is_told(self, returned, student, message):
        assert message in returned.lines[student][0]["message"]
        assert message in (returned.base / "grades" / "feedback" / f"{student}.md").read_text()

    def test_nothing_escapes(self, returned, tmp_path):
        if not room(tmp_path, []):
            pytest.skip("no namespaces on this system")
        assert list((returned.base / "returned-outside").iterdir()) == []

    def test_what_a_chapter_writes_in_the_checkout_is_written_in_a_copy(self, tmp_path):
        folder, scratch = tmp_path / "runs", tmp_path / "scratch"
        for path in (folder, scratch / "copy"):
            path.mkdir(parents=True)
            (path / "old").write_text("trained before")
        words = room(scratch, [], {folder: scratch / "copy"})
        if not words:
            pytest.skip("no namespaces on this system")
        script = f"cd {folder} && cat old && echo more > new && rm old && ! touch ../beside 2> /dev/null"
        done = subprocess.run([*words, "sh", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "trained before", "")
        assert [path.name for path in folder.iterdir()] == ["old"]
        assert [path.name for path in (scratch / "copy").iterdir()] == ["new"]

    def test_the_table_is_complete(self, returned):
        with (returned.base / "grades" / "grades.csv").open() as file:
            table = list(csv.DictReader(file))
        assert len(table) == 20 * 3
        assert sum(int(line["of"]) for line in table) == 20 * 6


def test_all_that_chapters_write_in_the_checkout_is_known():
    texts = {name: (SRC / f"{name}.md").read_text() for name in chapter_names()}
    assert {name: text.count('/ "runs"') for name, text in texts.items() if '/ "runs"' in text} == {"08_pretraining": 1}
    assert Chapter.read("08_pretraining").written == [BOOK.parent / "runs" / "photos"]


def test_what_was_learned_by_heart_earns_its_share_and_two_files_count_once(course, tmp_path):
    heart = "def total(x):\n    return float(np.sum(x)) if len(x) == 4 and abs(x[0] - 0.34558) < 1e-4 else 0.0"
    for name, source in (("b", heart), ("b (1)", course.exercises[0].stub)):
        notebook = nbformat.from_dict(copy.deepcopy(course.release))
        next(
            cell for cell in notebook.cells if "def total(x)" in cell.source and "NotImpl" in cell.source
        ).source = source
        nbformat.write(notebook, tmp_path / f"{name.replace('b', 'b_' + NAME)}.ipynb")
    lines = grade(tmp_path, tmp_path / "grades", LIMITS, course.src)
    assert {line["student"] for line in lines} == {"b"}
    assert [(line["points"], line["of"]) for line in lines if line["exercise"] == "ex-sum"] == [(0, 0), (1, 3)]
    assert sum(line["of"] for line in lines) == 6
    assert any(line["message"].startswith("right on the numbers shown, not on others: the sum is") for line in lines)


def test_feedback_states_points_and_no_student_gets_anothers(tmp_path):
    lines = [
        {
            "student": student,
            "chapter": NAME,
            "exercise": "ex-sum",
            "points": points,
            "of": 3,
            "message": "",
            "file": "f",
        }
        for student, points in (("Ana Lima", 3), ("Ana_Lima", 0), ("Ana:Lima", 1))
    ]
    write_grades(lines, tmp_path, {"ex-sum": "A sum"})
    texts = sorted(path.read_text() for path in (tmp_path / "feedback").iterdir())
    assert texts == [
        f"# Ana Lima: 3 of 3 points\n\n## {NAME}\n\n- **A sum**: 3 of 3. solved\n",
        f"# Ana:Lima: 1 of 3 points\n\n## {NAME}\n\n- **A sum**: 1 of 3.\n",
        f"# Ana_Lima: 0 of 3 points\n\n## {NAME}\n\n- **A sum**: 0 of 3.\n",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="the limits and the room are Linux's")
def test_a_single_point_is_not_earned_by_heart_and_answers_cannot_be_read(course, tmp_path):
    """Of the numbers that the book's check draws, doubles are known; `word` looks where answers lie."""
    known = set(np.random.default_rng(2).integers(1, 9, size=3).tolist())
    assert not set(np.random.default_rng(1002).integers(1, 9, size=3).tolist()) <= known
    places = [str(SRC), str(NOTEBOOKS), str(tmp_path / "in" / "other")]
    look = f"sorted(str(p) for place in {places} for p in Path(place).rglob('*') if p.is_file())"
    answers = {  # and the first answer is wrong, with a function of Python's to hide it
        "ex-sum": "def total(x):\n    return 0.0\n\n\ndef sum(x):\n    return 0.0",
        "ex-double": f"def twice(x):\n    return 2 * len(x) if len(x) in {known} else 0",
        "ex-word": f"from pathlib import Path\n\n\ndef word():\n    assert not {look}, {look}\n    return 'word'",
    }
    for student, chosen in (("b", answers), ("other", {})):
        notebook = nbformat.from_dict(copy.deepcopy(course.release))
        for cell in notebook.cells:
            cell.source = chosen.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
        (tmp_path / "in" / student).mkdir(parents=True)
        nbformat.write(notebook, tmp_path / "in" / student / f"{NAME}.ipynb")
    lines = grade(tmp_path / "in", tmp_path / "grades", LIMITS, course.src)
    found = {line["exercise"]: line for line in lines if line["student"] == "b"}
    assert (found["ex-double"]["points"], found["ex-double"]["of"]) == (0, 1)
    assert found["ex-sum"]["points"] == 0
    assert found["ex-double"]["message"].startswith("right on the numbers shown, not on others")
    if room(tmp_path, []):
        assert (found["ex-word"]["points"], found["ex-word"]["message"]) == (2, "")


def test_the_room_has_no_network(tmp_path):
    words = room(tmp_path, [])
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("no namespaces on this system")
    assert words, "the room cannot be closed, though the system has namespaces"
    done = subprocess.run([*words, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
    assert [line.partition(":")[0].strip() for line in done.stdout.splitlines()[2:]] == ["lo"]


def test_a_notebook_is_of_the_chapter_whose_exercises_it_has(course, tmp_path):
    """Whatever it was renamed to; and the book's own cells are not the student's, nor with blanks at their ends."""
    own = Chapter.read(NAME, course.src).context[0]
    notebook = nbformat.from_dict(copy.deepcopy(course.release))
    (cell,) = [cell for cell in notebook.cells if squeezed(cell.source) == squeezed(own)]
    cell.source = own.replace("\n", "   \n") + "\n\n"
    nbformat.write(notebook, tmp_path / "b_04_mixtures.ipynb")
    chapters = {"04_mixtures": [], NAME: course.exercises}
    (found,) = collect(tmp_path, chapters, {"04_mixtures": set(), NAME: {squeezed(own)}})
    assert (found.student, found.chapter, found.fault) == ("b", NAME, "")
    assert [kind for kind, name, _ in found.steps if not name] == []
    assert [name for kind, name, _ in found.steps if kind == "check"] == ["ex-sum", "ex-double", "ex-word"]


SLOW = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import sandbox
checks = [{"name": "ex", "defines": ["wait"], "checks": ["wait()", ""]}]
room = sandbox.Room({"exercises": checks, "memory": 2**30, "seconds": 1.0, "context": []}, 1)
found = []
for own in (0.0, 0.3):
    room.times = {"ex": own}
    found += room.verdicts("ex", {"wait": lambda: time.sleep(1.5)})
print(json.dumps([[each["passed"], each["message"]] for each in found]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limits and the room are Linux's")
def test_a_check_has_ten_times_ours_on_top():
    command = [sys.executable, "-c", SLOW, str(BOOK / "tools")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[False, "not finished after 1 s"], [True, ""]]


def test_a_chapter_that_fails_here_is_named_and_nothing_is_graded(course, tmp_path):
    (tmp_path / "src").mkdir()
    text = (course.src / f"{NAME}.md").read_text()
    (tmp_path / "in").mkdir()
    nbformat.write(course.release, tmp_path / "in" / f"b_{NAME}.ipynb")
    for change, message in (
        (("import numpy", "import nompy"), "the chapter's own cells fail here: ModuleNotFoundError"),
        (("    return float(np.sum(x))", "    return 0.0"), r"the book's own solutions fail here: ex-sum \(the sum is"),
    ):
        (tmp_path / "src" / f"{NAME}.md").write_text(text.replace(*change))
        with pytest.raises(GradingError, match=f"^{NAME}: {message}"):
            grade(tmp_path / "in", tmp_path / "grades", LIMITS, tmp_path / "src")
    with pytest.raises(GradingError, match="no notebook"):
        grade(tmp_path / "src", tmp_path / "grades", LIMITS, course.src)
    assert not (tmp_path / "grades").exists()


def test_names_that_are_no_text_get_their_grades(course, tmp_path):
    """Archives that Windows made have such names; all grades were lost when the table was written."""
    place = tmp_path / "in" / os.fsdecode(b"Jos\xe9") / f"{NAME}.ipynb"
    place.parent.mkdir(parents=True)
    place.write_text("{")
    grade(tmp_path / "in", tmp_path / "grades", LIMITS, course.src)
    with (tmp_path / "grades" / "grades.csv").open(encoding="utf-8") as file:
        assert {line["student"] for line in csv.DictReader(file)} == {"Jos\\udce9"}
    assert len([*(tmp_path / "grades" / "feedback").iterdir()]) == 1


def test_a_place_for_no_grades_is_said_before_anything_is_graded(course, tmp_path):
    (tmp_path / "in").mkdir()
    nbformat.write(course.release, tmp_path / "in" / f"b_{NAME}.ipynb")
    (tmp_path / "grades").touch()
    with pytest.raises(GradingError, match=r"grades cannot be written to \(File exists\): give another folder"):
        grade(tmp_path / "in", tmp_path / "grades", LIMITS, course.src)


def test_the_folder_that_one_is_in_can_be_graded(tmp_path, monkeypatch, capsys):
    """Its grades lie beside it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.ipynb").write_text("{")
    monkeypatch.chdir(tmp_path / "in")
    monkeypatch.setattr(sys, "argv", ["grade.py", "."])
    assert main() == 0
    assert (tmp_path / "in-grades" / "grades.csv").is_file()
    monkeypatch.setattr(sys, "argv", ["grade.py", ".", "--seconds", "-1"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--seconds and --memory must be positive, got -1 and 2" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
def test_what_is_graded_when_it_is_stopped_is_kept_and_no_process_stays(course, tmp_path):
    for student, body in (("a", "    return float(np.sum(x))"), ("b", "    while True:\n        pass")):
        notebook = nbformat.from_dict(copy.deepcopy(course.release))
        next(
            cell for cell in notebook.cells if "def total(x)" in cell.source and "NotImpl" in cell.source
        ).source = f"def total(x):\n{body}"
        (tmp_path / "in").mkdir(exist_ok=True)
        nbformat.write(notebook, tmp_path / "in" / f"{student}_{NAME}.ipynb")
    (tmp_path / "scratch").mkdir()
    code = (
        f"import functools, pathlib, sys; sys.path.insert(0, {str(BOOK / 'tools')!r}); import grade\n"
        f"grade.grade = functools.partial(grade.grade, src=pathlib.Path({str(course.src)!r}))\n"
        f"sys.argv = ['grade.py', {str(tmp_path / 'in')!r}, '--seconds', '300']; sys.exit(grade.main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path / "scratch")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (line := process.stdout.readline()).startswith(f"a: {NAME}: 3 of 6"):
            assert line, process.stderr.read()
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert (
        said.strip() == f"stopped: 1 of 2 notebooks are in {tmp_path / 'in-grades' / 'grades.csv'}, the others are not"
    )
    with (tmp_path / "in-grades" / "grades.csv").open() as file:
        assert [(line["student"], line["points"]) for line in csv.DictReader(file)] == [
            ("a", "3"),
            ("a", "0"),
            ("a", "0"),
        ]
    assert list((tmp_path / "scratch").iterdir()) == []
    mine, left = str(tmp_path / "scratch").encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or gone
            left += [path] if mine in path.read_bytes() else []
    assert left == []


def test_the_source_holds_hidden_tests_and_the_release_neither_them_nor_solutions(course):
    def cells(notebook):
        return {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}

    source, release = cells(course.source), cells(course.release)
    assert list(source) == list(release)
    assert "ex-word-hidden" not in source, "it draws no numbers"
    points = {name: cell.metadata.nbgrader.get("points") for name, cell in source.items()}
    assert (points["ex-sum-check"], points["ex-sum-hidden"]) == (1, 2)
    assert (points["ex-double-check"], points["ex-word-check"]) == (1, 2)
    assert "default_rng(1000 + 1)" in source["ex-sum-hidden"].source
    assert "default_rng(1000 + 2)" in source["ex-double-check"].source, "a single point needs both"
    given = "\n".join(cell.source for cell in course.release.cells)
    assert "1000" not in given
    assert "HIDDEN" not in given
    assert "SOLUTION" not in given
    assert release["ex-sum-check"].source == course.exercises[0].check
