"""What a course is made of: bundles, hours and points, quizzes and slides, all from the chapters."""

import csv
import re
import sys
import zipfile
from collections import Counter
from xml.etree import ElementTree

import course as course_tool
import nbformat
import pytest
from chapters import NOTEBOOKS, SRC, chapter_names, read_chapter
from exercises import chapter_exercises
from quiz import moodle, questions
from readable import grading, plain_text
from slides import chapter_slides, parts
from syllabus import Facts, even, facts, fill, reading_minutes, stated_minutes
from to_html import to_html

NAME = "06_last_layer"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of one chapter."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "nbgrader" / "submitted").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["course.py", "--out", str(folder), NAME])
        patch.setattr(course_tool, "write_decks", lambda out: None)  # all parts; a chapter's slides are tested below
        assert course_tool.main() == 0
    return folder


@pytest.fixture(scope="module")
def book():
    """The exercises of every chapter."""
    return {name: chapter_exercises(name) for name in chapter_names()}


@pytest.fixture(scope="module")
def plain():
    """What converts the book's text."""
    return plain_text()


def test_students_get_no_solution_no_hidden_test_and_no_answer(course):
    with zipfile.ZipFile(course / "student.zip") as archive:
        names = archive.namelist()
        text = archive.read(f"student/notebooks/{NAME}.ipynb").decode()
    assert {
        f"student/{name}" for name in ("README.md", "environment.yml", "pyproject.toml", "vmflearn/__init__.py")
    } <= set(names)
    assert not [name for name in names if "book/src" in name or "__pycache__" in name]
    given = "\n".join(cell.source for cell in nbformat.reads(text, 4).cells)
    assert not re.search(r"SOLUTION|HIDDEN|<b>(Answer|Solution)</b>", given)
    for exercise in chapter_exercises(NAME):
        body = re.search(r"### BEGIN SOLUTION\n(.*?)\n[ \t]*### END SOLUTION", exercise.solution, re.S)[1]
        assert body not in given
        assert exercise.check in given
    assert text == (course / "nbgrader" / "release" / NAME / f"{NAME}.ipynb").read_text()


def test_what_a_chapter_reads_from_the_checkout_is_in_the_bundle(course):
    for name in chapter_names():
        for path in re.findall(r"(?:ROOT|BOOK)((?: / \"[\w.]+\")+)", (SRC / f"{name}.md").read_text()):
            parts = re.findall(r'"([\w.]+)"', path)
            start = course / "student" / ("book" if parts[0] in ("models", "results") else "")
            if parts[0] != "runs":
                assert start.joinpath(*parts).exists(), (name, path)


def test_points_are_those_of_the_chapter_and_add_up(course):
    chapter = read_chapter(SRC / f"{NAME}.md")
    points = sum(grading(cell, "points") for cell in chapter.cells if grading(cell, "grade"))
    source = nbformat.read(course / "nbgrader" / "source" / NAME / f"{NAME}.ipynb", 4)
    assert sum(grading(cell, "points") for cell in source.cells if grading(cell, "grade")) == points
    ids = Counter(grading(cell, "grade_id") for cell in source.cells if grading(cell, "grade_id"))
    assert set(ids.values()) == {1}
    with (course / "instructor" / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["points"]) for row in rows) == points
    assert all(int(row["shown"]) + int(row["other_numbers"]) == int(row["points"]) for row in rows)
    totals = [sum(getattr(e, what) for e in chapter_exercises(NAME)) for what in ("minutes", "points")]
    assert totals[0] != totals[1] == points
    assert f"| `{NAME}` | {totals[0]} | {totals[1]} |" in (course / "student" / "README.md").read_text()
    solved = nbformat.read(course / "instructor" / "solutions" / f"{NAME}.ipynb", 4)
    assert [c.source for c in solved.cells if grading(c, "solution")] == [e.solution for e in chapter_exercises(NAME)]
    assert (course / "nbgrader" / "submitted").is_dir(), "what a teacher put there stays"


@pytest.mark.parametrize("name", chapter_names())
def test_every_exercise_has_its_minutes_and_a_name_for_its_checks(book, name):
    found = book[name]
    assert all(0 < e.minutes <= 60 and e.level in ("easy", "medium", "hard") and e.defines for e in found)
    for exercise in found:
        compile(exercise.hidden or exercise.check, exercise.name, "exec")


@pytest.mark.parametrize(
    ("line", "minutes"),
    [
        ("- **Runtime:** about 15 seconds on two CPU cores; an hour and a half to read, with the exercises.", 90),
        ("- **Runtime:** about two minutes the first time; two hours to\n  read, with the exercises.", 120),
        ("- **Time:** about two and a half hours, one of them for the exercises; a minute on two CPU cores.", 150),
        ("- **Time:** about an hour, 45 minutes of it for the exercises.", 60),
        ("- **Runtime:** about 30 seconds on two CPU cores.", None),
    ],
)
def test_the_time_that_a_chapter_states_is_read(line, minutes):
    assert stated_minutes(f":::{{admonition}} Before you start\n{line}\n- **Downloads:** none.\n:::") == minutes


@pytest.mark.parametrize("name", chapter_names())
def test_the_time_that_a_chapter_states_is_what_its_words_and_exercises_take(name):
    chapter = read_chapter(SRC / f"{name}.md")
    stated = stated_minutes("\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown"))
    assert stated is not None
    assert abs(stated - reading_minutes(chapter) - facts(name).practice) <= 40


def test_sessions_are_as_even_as_can_be():
    book = [Facts(f"{n:02}_x", "X", minutes, [], []) for n, minutes in enumerate((5, 5, 9, 1, 1, 7), start=1)]
    assert [[c.minutes for c in part] for part in even(book, 3)] == [[5, 5], [9], [1, 1, 7]]  # not [9, 1], [1, 7]
    assert [chapter for part in even(book, 4) for chapter in part] == book
    assert len(even(book, 12)) == 6


def test_the_teachers_page_is_filled_from_the_chapters(book):
    page = fill((SRC / "teachers.md").read_text())
    assert "<!--" not in page
    points = sum(e.points for found in book.values() for e in found)
    count = sum(map(len, book.values()))
    whole = page.partition("Twelve sessions")[2]
    assert re.search(rf"^\| \| together \| .* \| {points} \| \|$", whole, re.M)
    assert f"| together | {count} exercises |" in whole


def test_every_quiz_is_in_the_bank(plain):
    for name in chapter_names():
        found = questions(name, plain)
        assert [q.number for q in found] == [1, 2, 3, 4, 5]
        assert all(len(q.question) > 20 and len(q.answer) > 10 and "dropdown" not in q.question for q in found)
    # An answer is that of its question: in the text it comes before the next one.
    text = " ".join((SRC / f"{name}.md").read_text().partition("\n## Quiz\n")[2].split())
    places = [text.index(" ".join(q.question.split()[:5])) for q in found]
    answers = [text.index(" ".join(q.answer.split()[:3])) for q in found]
    assert sorted(places + answers) == [place for pair in zip(places, answers, strict=True) for place in pair]
    tree = ElementTree.fromstring(ElementTree.tostring(moodle({"A/B": found}).getroot()))
    assert [item.get("type") for item in tree] == ["category", *["essay"] * 5]
    for item, q in zip(tree[1:], found, strict=True):
        assert item.find("questiontext/text").text == to_html(q.question)
        assert {item.find(f"{kind}/text").text for kind in ("graderinfo", "generalfeedback")} == {to_html(q.answer)}
    assert tree.find("question/category/text").text.endswith("/A//B"), "a slash would make a category below another"


def test_slides_hold_formulas_figures_exercises_and_quiz(plain):
    assert [name for names in parts().values() for name in names] == chapter_names()
    slides = chapter_slides(NAME, plain)
    text = "\n".join(slides)
    stored = nbformat.read(NOTEBOOKS / f"{NAME}.ipynb", 4)
    images = sum(
        "image/png" in output.get("data", {}) for c in stored.cells if c.cell_type == "code" for output in c.outputs
    )
    assert text.count("<img ") == images > 2
    assert text.count("<section>") == text.count("</section>") == len(slides)
    labels = re.findall(r"^:label: eq-|^\$\$ \(eq-", (SRC / f"{NAME}.md").read_text(), re.M)
    assert len(re.findall(r"\\tag\{", text)) == len(labels) > 2
    rows = re.findall(r"<tr>\s*<td>.*?</tr>", text, re.S)
    cells = [re.findall(r"<td>(.*?)</td>", row, re.S) for row in rows]
    told = [[str(cell) for cell in (e.title, e.minutes, e.level, e.points)] for e in chapter_exercises(NAME)]
    assert [row for row in cells if row in told] == told
    assert text.count("<summary>Answer</summary>") == 5
    assert not re.search(r'alt=""|src="http', text)
