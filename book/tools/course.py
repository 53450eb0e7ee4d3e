"""Make what a course needs: `python book/tools/course.py [--out DIR]`, by default into book/course.

    nbgrader/     a course folder for nbgrader: configuration, source (solutions, hidden tests), release (neither)
    student/      what students get, and the same as student.zip: notebooks, library, environment, how to begin
    instructor/   solved notebooks, points of every exercise, quiz bank, slides, syllabus, how to grade

Each exercise has two checks: the one that the book shows, and the same on other numbers, which students do not see and
which brings about half of the points. Answers to the quizzes are left out. What teachers add beside these files
(returned notebooks, nbgrader's own database) stays.
"""

from __future__ import annotations

import argparse
import copy
import csv
import re
import shutil
import sys
from pathlib import Path

import nbformat
from chapters import BOOK, NOTEBOOKS, SRC, read_chapter, select
from exercises import Exercise, chapter_exercises
from nbformat import NotebookNode
from plain import PlainText
from quiz import ANSWER, write_bank
from readable import grading, place, plain_cells, plain_text, readable, without_solution
from release import LEFTOVER
from slides import write_decks
from syllabus import SESSIONS, exercise_table, facts, table

ROOT = BOOK.parent
LIBRARY = [  # what a notebook needs beside itself
    "vmflearn",
    "scripts",
    "book/models",
    "book/results",
    "benchmarks/results",
    "pyproject.toml",
    "constraints.txt",
    "environment.yml",
    "LICENSE",
    "CITATION.cff",
]
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?^### END HIDDEN TESTS\n?", re.S | re.M)
MORE = "# here your work is checked on other numbers when it is graded"
CELL_SECONDS = 300  # for a cell: chapter 8 trains for two minutes the first time

CONFIG = f'''"""Settings of nbgrader for this course; `nbgrader` is called in this folder."""

c = get_config()
c.CourseDirectory.course_id = "vmflearn"
c.CourseDirectory.root = "."
c.ExecutePreprocessor.timeout = {CELL_SECONDS}  # seconds for a cell; nbgrader's own 30 cut chapter 8's training
c.ExecutePreprocessor.startup_timeout = 120
c.ClearSolutions.code_stub = {{"python": "# your code here\\nraise NotImplementedError"}}
'''

STUDENT = """# vmflearn: exercises

The chapters of *vmflearn*, DINO read as a mixture of von Mises-Fisher distributions, as notebooks with exercises.

1. Get Python 3.11, 3.12 or 3.13.
2. In this folder:

       python3 -m venv .venv
       .venv/bin/python -m pip install --constraint constraints.txt --editable ".[book]"
       .venv/bin/jupyter lab notebooks

   On Windows write `py -m venv .venv` and `.venv\\Scripts\\` for `.venv/bin/`; with conda, `conda env create -f
   environment.yml` does the first two. On Linux PyTorch brings its CUDA libraries, 5 GB; a processor is enough for the
   course, and `pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu` before the line above
   leaves them out.
3. Open a chapter, run it from the top, and write your code where it says `# your code here`. The cell below checks it,
   and says what is wrong. Run it as often as you like.

Return the notebook under its own name. You may add cells for functions of your own. Do not copy or delete the cells of
the exercises: what is graded is what stands in them. When it is graded, your code is also run on numbers that you have
not seen.

## Notebooks

{table}
"""

INSTRUCTOR = """# vmflearn: for instructors

| | |
|---|---|
| `solutions/` | the chapters solved, with their outputs |
| `points.csv` | every exercise with minutes, level and points |
| `quiz.xml` | the quizzes of all chapters, for Moodle and what imports its XML |
| `slides/` | a deck for each part, to open in a browser |
| `syllabus.md` | courses of 3, 6 and 12 sessions |

## Grade without nbgrader

    python book/tools/grade.py FOLDER

in the project, with FOLDER/STUDENT/CHAPTER.ipynb or FOLDER/STUDENT_CHAPTER.ipynb as they came back. It writes a table
and feedback for each student beside FOLDER. Endless loops, deleted or copied cells and broken files cost their own
exercise and nothing else.

## Grade with nbgrader

`../nbgrader` is a course folder. In it, with nbgrader installed and its environment *activated* (called by its path
alone it does not find its database tool):

    nbgrader generate_assignment CHAPTER --force    # again from source, and known to the database
    nbgrader zip_collect CHAPTER                    # or put the files into submitted/STUDENT/CHAPTER/
    nbgrader autograde CHAPTER
    nbgrader generate_feedback CHAPTER
    nbgrader export

Look at what nbgrader does not forgive: a copied check ends `autograde`, with all later students ungraded; a check
that was given the tag `skip-execution` counts as passed; a cell that was ended for its time is not marked; a warning
printed by a check costs its points.
"""


def source_notebook(chapter: NotebookNode, exercises: list[Exercise], plain: PlainText) -> NotebookNode:
    """A chapter as nbgrader's source: plain Markdown, solutions in their cells alone, hidden tests after the checks."""
    chapter = copy.deepcopy(chapter)
    by_check = {f"{exercise.name}-check": exercise for exercise in exercises}
    cells = []
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            cell.source = ANSWER.sub("", cell.source)
        cells += plain_cells(cell, plain)
        if exercise := by_check.get(grading(cell, "grade_id") or ""):
            cells += split_check(cell, exercise)
    chapter.cells = cells
    nbformat.validate(chapter)
    return chapter


def split_check(cell: NotebookNode, exercise: Exercise) -> list[NotebookNode]:
    """Give a check its share of the points; the cell of the hidden tests, or none where they stand in the check."""
    shown, other = exercise.shares
    if not exercise.hidden:
        return []
    tests = f"### BEGIN HIDDEN TESTS\n{exercise.hidden}\n### END HIDDEN TESTS"
    if not other:
        cell.source = f"{cell.source}\n{tests}"
        return []
    cell.metadata.nbgrader["points"] = shown
    told = dict(cell.metadata.nbgrader) | {"grade_id": f"{exercise.name}-hidden", "points": other}
    return [nbformat.v4.new_code_cell(f"{MORE}\n{tests}", id=f"{cell.id}-hidden", metadata={"nbgrader": told})]


def release_notebook(source: NotebookNode) -> NotebookNode:
    """What students get of a source notebook; ValueError names a cell that would give something away."""
    notebook = copy.deepcopy(source)
    for number, cell in enumerate(notebook.cells, start=1):
        if grading(cell, "solution"):
            cell.source = without_solution(cell.source)
        if grading(cell, "grade"):
            cell.source = HIDDEN.sub("", cell.source).rstrip("\n")
        if found := LEFTOVER.search(cell.source) or re.search("HIDDEN TESTS", cell.source):
            raise ValueError(f"{place(number, cell)}: {found[0].strip()!r} would be left in the student notebook")
    return notebook


def solved_notebook(name: str, plain: PlainText) -> NotebookNode:
    """The stored notebook of a chapter in plain Markdown with its exercises solved and run."""
    return readable(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4), plain, solved=True)


def fresh(folder: Path) -> Path:
    """An empty folder of this name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_nbgrader(names: list[str], out: Path, plain: PlainText) -> dict[str, NotebookNode]:
    """Write nbgrader's tree; the students' notebooks by chapter."""
    released = {}
    trees = {kind: fresh(out / kind) for kind in ("source", "release")}
    for name in names:
        chapter = read_chapter(SRC / f"{name}.md")
        try:
            source = source_notebook(chapter, chapter_exercises(name, SRC, chapter), plain)
            released[name] = release_notebook(source)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{name}: {error}") from error
        for kind, notebook in (("source", source), ("release", released[name])):
            (trees[kind] / name).mkdir()
            nbformat.write(notebook, trees[kind] / name / f"{name}.ipynb")
    (out / "nbgrader_config.py").write_text(CONFIG)
    return released


def write_student(released: dict[str, NotebookNode], out: Path) -> None:
    """Write the students' bundle, as a folder and as an archive."""
    fresh(out)
    (out / "notebooks").mkdir()
    rows = ["| notebook | minutes for its exercises | points |", "|---|---|---|"]
    for name, notebook in released.items():
        nbformat.write(notebook, out / "notebooks" / f"{name}.ipynb")
        found = chapter_exercises(name)
        rows.append(f"| `{name}` | {sum(e.minutes for e in found)} | {sum(e.points for e in found)} |")
    for part in LIBRARY:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, out / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".*"))
        else:
            shutil.copy2(ROOT / part, out / part)
    (out / "environment.yml").write_text((ROOT / "environment.yml").read_text().replace("[book,test]", "[book]"))
    (out / "README.md").write_text(STUDENT.format(table="\n".join(rows)), encoding="utf-8")
    shutil.make_archive(str(out), "zip", out.parent, out.name)


def write_instructor(names: list[str], out: Path) -> None:
    """Write the instructors' bundle."""
    plain = plain_text(solutions=True)
    solutions = fresh(out / "solutions")
    for name in names:
        nbformat.write(solved_notebook(name, plain), solutions / f"{name}.ipynb")
    book = [facts(name) for name in names]
    with (out / "points.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["chapter", "exercise", "title", "level", "minutes", "points", "shown", "other_numbers"])
        for e in (e for chapter in book for e in chapter.exercises):
            rows.writerow([e.chapter, e.name, e.title, e.level, e.minutes, e.points, *e.shares])
    whole = names == select([])
    tables = [f"## {number} sessions\n\n{table(book, number)}" for number in SESSIONS] if whole else []
    text = "\n\n".join(["# Syllabus", *tables, f"## Exercises\n\n{exercise_table(book)}"])
    (out / "syllabus.md").write_text(text + "\n", encoding="utf-8")
    write_bank(out / "quiz.xml")
    write_decks(out / "slides")
    (out / "README.md").write_text(INSTRUCTOR, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, e.g. 04_mixtures (default: all)")
    parser.add_argument("--out", type=Path, default=BOOK / "course")
    args = parser.parse_args()
    names = select(args.names)
    try:
        released = write_nbgrader(names, args.out / "nbgrader", plain_text())
        write_student(released, args.out / "student")
        write_instructor(names, args.out / "instructor")
    except (ValueError, OSError) as error:
        sys.exit(f"no course: {error}")
    print(f"{len(names)} chapters in {args.out}: nbgrader, student (and student.zip), instructor")
    return 0


if __name__ == "__main__":
    sys.exit(main())
