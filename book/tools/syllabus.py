"""Courses of 3, 6 and 12 sessions with hours and points, from what the chapters say: `python book/tools/syllabus.py`.

Which chapters a short course has is a choice, and stands here. Minutes and points of exercises, the time that a chapter
takes, and what it builds on are read from its text. Where a chapter does not state its time, 70 words and 12 lines of
code are taken to a minute: what stated times come to. `fill` puts the tables where the teachers' page asks for them.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

from chapters import SRC, chapter_names, read_chapter
from exercises import Exercise, chapter_exercises
from nbformat import NotebookNode
from readable import grading

SHORT = {3: [[1, 4], [5, 6], [7, 8]], 6: [[1], [2], [4], [5, 6], [7], [8, 9]]}  # the longest has the whole book
SESSIONS = (*SHORT, 12)
WORDS, LINES = 70, 12  # a minute
HOURS = re.compile(r"\b(?:(an hour)|(one|two|three|four))\b(?: and (a half|a quarter))?(?: hours?)?", re.I)
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
PLACE = re.compile(r"^<!-- (?P<kind>sessions|exercises)(?: (?P<number>\d+))? -->$", re.M)


@dataclass(frozen=True)
class Facts:
    """What a course needs to know of a chapter."""

    name: str
    title: str
    minutes: int  # with the exercises
    exercises: list[Exercise]
    needs: list[str]

    @property
    def number(self) -> int:
        """Of the chapter."""
        return int(self.name[:2])

    @property
    def practice(self) -> int:
        """Minutes for the exercises."""
        return sum(exercise.minutes for exercise in self.exercises)

    @property
    def points(self) -> int:
        """Of all exercises."""
        return sum(exercise.points for exercise in self.exercises)


def stated_minutes(text: str) -> int | None:
    """The time that a chapter says it takes, exercises included; None where it says nothing of reading."""
    line = re.search(r"^- \*\*(?:Time|Runtime):\*\*(.*?)(?=\n- |\n:::)", text, re.S | re.M)
    if line is None or not ("to read" in line[1] or "exercises" in line[1]):
        return None
    words = " ".join(line[1].split())
    words = words.rpartition(";")[2] if "to read" in words else words
    found = HOURS.search(words)
    if found is None or "hour" not in found[0]:
        return None
    part = {"a half": 30, "a quarter": 15, None: 0}[found[3]]
    return 60 * (1 if found[1] else NUMBERS[found[2].lower()]) + part


def reading_minutes(chapter: NotebookNode) -> float:
    """The time that the words and the code of a chapter take, without its exercises."""
    text = "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    words = len(re.findall(r"\w+", text.partition("\n## Exercises")[0]))
    lines = sum(
        len(cell.source.splitlines())
        for cell in chapter.cells
        if cell.cell_type == "code"
        and not grading(cell, "grade_id")
        and "hide-input" not in cell.metadata.get("tags", [])
    )
    return words / WORDS + lines / LINES


def facts(name: str, src: Path = SRC) -> Facts:
    """The facts of a chapter."""
    chapter = read_chapter(src / f"{name}.md")
    text = "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    exercises = chapter_exercises(name, src, chapter)
    minutes = stated_minutes(text)
    if minutes is None:
        minutes = 15 * round((reading_minutes(chapter) + sum(e.minutes for e in exercises)) / 15)
    before = re.search(r"\*\*Prerequisites:\*\*(.*?)(?=\n- \*\*)", text, re.S)
    labels = re.findall(r"\{ref\}`(?:[^`<]*<)?([\w-]+)>?`", before[1] if before else "")
    title = re.search(r"^# \d+\. (.+)$", text, re.M)[1]
    return Facts(name, title, minutes, exercises, [owner for label in labels if (owner := chapter_of(label, src))])


def chapter_of(label: str, src: Path) -> str:
    """The chapter that a label of a chapter (`ch-mixtures`) belongs to; empty if it is another label."""
    found = [
        name
        for name in chapter_names(src)
        if re.search(rf"^\({label}\)=\s*\n+# ", (src / f"{name}.md").read_text(), re.M)
    ]
    return found[0] if found else ""


def even(book: list[Facts], sessions: int) -> list[list[Facts]]:
    """All chapters in their order, in so many sessions that the longest is as short as can be, then the next."""
    sessions = min(sessions, len(book))

    def parts(cuts: tuple[int, ...]) -> list[list[Facts]]:
        ends = [0, *cuts, len(book)]
        return [book[start:end] for start, end in pairwise(ends)]

    cuts = combinations(range(1, len(book)), sessions - 1)
    return min(map(parts, cuts), key=lambda plan: sorted((sum(f.minutes for f in part) for part in plan), reverse=True))


def plan(book: list[Facts], sessions: int) -> list[list[Facts]]:
    """The chapters of each session."""
    if sessions not in SHORT:
        return even(book, sessions)
    by_number = {chapter.number: chapter for chapter in book}
    return [[by_number[number] for number in part] for part in SHORT[sessions]]


def hours(minutes: int) -> str:
    """Minutes as hours, to the quarter."""
    return f"{round(minutes / 15) / 4:g} h"


def table(book: list[Facts], sessions: int) -> str:
    """The table of a course, as Markdown."""
    lines = ["| session | chapters | read and run | exercises | points | to read before |", "|---|---|---|---|---|---|"]
    known: set[str] = set()
    total = [0, 0, 0]
    for number, part in enumerate(plan(book, sessions), start=1):
        names = [chapter.name for chapter in part]
        needed = [name for chapter in part for name in chapter.needs if name not in known and name not in names]
        known |= {*names, *needed}
        practice, points = sum(c.practice for c in part), sum(c.points for c in part)
        reading = sum(c.minutes for c in part) - practice
        total = [a + b for a, b in zip(total, (reading, practice, points), strict=True)]
        titles = "; ".join(f"{chapter.number}. {chapter.title}" for chapter in part)
        before = ", ".join(f"{int(name[:2])}" for name in dict.fromkeys(needed))
        before = f"chapter {before}" if before else ""
        lines.append(f"| {number} | {titles} | {hours(reading)} | {hours(practice)} | {points} | {before} |")
    lines.append(f"| | together | {hours(total[0])} | {hours(total[1])} | {total[2]} | |")
    return "\n".join(lines)


def exercise_table(book: list[Facts]) -> str:
    """All exercises with minutes, level and points: for the check as shown, and for other numbers."""
    lines = [
        "| chapter | exercise | minutes | level | points | of them on other numbers |",
        "|---|---|---|---|---|---|",
    ]
    for chapter in book:
        for e in chapter.exercises:
            lines.append(
                f"| {chapter.number} | {e.title} | {e.minutes} | {e.level} | {e.points} | {e.shares[1] or ''} |"
            )
    minutes, points = sum(c.practice for c in book), sum(c.points for c in book)
    count = sum(len(chapter.exercises) for chapter in book)
    lines.append(f"| together | {count} exercises | {hours(minutes)} | | {points} | |")
    return "\n".join(lines)


def fill(text: str, src: Path = SRC) -> str:
    """A page with the tables in the places that ask for them, `<!-- sessions 6 -->` and `<!-- exercises -->`."""
    if not PLACE.search(text):
        return text
    book = [facts(name, src) for name in chapter_names(src)]
    return PLACE.sub(lambda m: table(book, int(m["number"])) if m["number"] else exercise_table(book), text)


def main() -> int:
    book = [facts(name) for name in chapter_names()]
    print("\n\n".join([*(table(book, sessions) for sessions in SESSIONS), exercise_table(book)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
