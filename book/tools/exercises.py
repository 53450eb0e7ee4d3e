"""The exercises of the chapters, for all that teaches with them: points, minutes, stub, solution, checks.

An exercise is known by the `grade_id` of its solution cell, NAME, which is also the label of its text; the check is
NAME-check. What only a teacher's copy has is the check on other numbers, NAME-hidden: the same check with its random
numbers drawn from other seeds, so that answers learned by heart pass the first and fail the second.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from chapters import SRC, read_chapter
from nbformat import NotebookNode
from readable import grading, without_solution

START = re.compile(
    r"^`{3,}\{exercise-start\} *(?P<title>[^\n]*)\n(?:[ \t]*:(?!label)[^\n]*\n)*[ \t]*:label: (?P<name>[\w-]+)"
    r".*?\*(?P<minutes>\d+) minutes, (?P<level>\w+)\.\*",
    re.S | re.M,
)
SEED = re.compile(r"\b(default_rng|manual_seed)\(([^()]+)\)")
OTHER = 1000  # added to every seed of a hidden check


@dataclass(frozen=True)
class Exercise:
    """One exercise of a chapter; code is as it stands in the chapter's text."""

    chapter: str
    name: str
    title: str
    minutes: int
    level: str
    points: int
    solution: str
    check: str

    @property
    def stub(self) -> str:
        """The solution cell as a student gets it."""
        return without_solution(self.solution)

    @property
    def hidden(self) -> str:
        """The check on other numbers; empty where the check draws none."""
        other = SEED.sub(rf"\1({OTHER} + \2)", self.check)
        return "" if other == self.check else other

    @property
    def shares(self) -> tuple[int, int]:
        """Points for the check as shown, and for other numbers; a single point needs both."""
        shown = self.points // 2 if self.hidden and self.points > 1 else self.points
        return shown, self.points - shown

    @property
    def defines(self) -> list[str]:
        """Names that the solution gives to the checks."""
        names = []
        for node in ast.parse(self.solution).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.append(node.name)
            names += [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and is_set(part, node)]
        return names


def is_set(name: ast.Name, statement: ast.stmt) -> bool:
    """Whether a statement of the cell itself, not of a function in it, gives `name` a value."""
    return isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(name.ctx, ast.Store)


def chapter_exercises(name: str, src: Path = SRC, chapter: NotebookNode | None = None) -> list[Exercise]:
    """The exercises of a chapter, in their order; ValueError names one whose text, solution or check is missing."""
    chapter = chapter or read_chapter(src / f"{name}.md")
    text = "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    starts = {match["name"]: match for match in START.finditer(text)}
    checks = {grading(cell, "grade_id"): cell for cell in chapter.cells if grading(cell, "grade")}
    found = []
    for cell in chapter.cells:
        if not grading(cell, "solution"):
            continue
        exercise = grading(cell, "grade_id")
        if exercise not in starts or f"{exercise}-check" not in checks:
            missing = "text with a label and *N minutes, LEVEL.*" if exercise not in starts else "check"
            raise ValueError(f"{name}: the exercise {exercise} has no {missing}")
        start, check = starts[exercise], checks[f"{exercise}-check"]
        found.append(
            Exercise(
                chapter=name,
                name=exercise,
                title=start["title"].strip(),
                minutes=int(start["minutes"]),
                level=start["level"],
                points=int(grading(check, "points")),
                solution=cell.source,
                check=check.source,
            )
        )
    return found
