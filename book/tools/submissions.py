"""Read what students return: whose it is, which chapter, and the steps to grade it by.

A returned notebook has been renamed, cut, copied and edited. So it gives nothing but the students' own code: cells that
are not the book's, in their order. Checks, and all that the chapter itself does, come from the book.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exercises import Exercise

KINDS = ("check", "hidden")  # cells of the book's that a returned notebook may hold


@dataclass
class Submission:
    """A returned notebook; `steps` are (kind, exercise, source), `notes` what there is to say of an exercise."""

    student: str
    chapter: str
    path: Path
    fault: str = ""
    steps: list[tuple[str, str, str]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def printable(name: str) -> str:
    """A name with what is no text in it written out, ``\\udce9`` say: archives of other systems have such names."""
    return name.encode(errors="backslashreplace").decode()


def squeezed(source: str) -> str:
    """A cell's source, however the lines end."""
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook that may be damaged; ValueError says why it cannot be read."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"this is no notebook: {error}") from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError("this is no notebook of version 4: it has no cells")
    return [cell for cell in cells if isinstance(cell, dict)]


def source_of(cell: dict[str, Any]) -> str:
    """A cell's source, which files keep as text or as lines."""
    source = cell.get("source", "")
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def grade_id(cell: dict[str, Any]) -> str:
    """The `grade_id` of a cell; empty if it has none."""
    metadata = cell.get("metadata")
    told = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return str(told.get("grade_id", "")) if isinstance(told, dict) else ""


def whose(path: Path, folder: Path, chapters: dict[str, list[Exercise]]) -> tuple[str, str]:
    """Student and chapter by name: FOLDER/STUDENT/.../04_mixtures.ipynb or FOLDER/STUDENT_04_mixtures.ipynb."""
    parts = path.relative_to(folder).parts
    known = [name for name in chapters if name in "/".join(parts)]
    chapter = known[-1] if known else ""
    if len(parts) > 1:
        return parts[0], chapter
    rest = re.sub(r" ?\(\d+\)$", "", path.stem)
    return (rest.replace(chapter, "").strip("_- .") if chapter else rest) or path.stem, chapter


def chapter_by_cells(cells: list[dict[str, Any]], chapters: dict[str, list[Exercise]]) -> str:
    """The chapter most of whose exercises a notebook has; empty if there is none."""
    ids = {grade_id(cell).removesuffix("-check") for cell in cells}
    counts = {name: len(ids & {e.name for e in exercises}) for name, exercises in chapters.items()}
    best = max(counts, key=counts.__getitem__, default="")
    return best if best and counts[best] else ""


def steps(cells: list[dict[str, Any]], exercises: list[Exercise], book: set[str]) -> tuple[list, dict[str, str]]:
    """What to run, in the order of the notebook, and notes: (kind, exercise, source) by kind stub, cell, check.

    Each exercise begins as it was given out, whatever has become of its cell; its check comes after the last cell of
    the student's that bears its name, or at the end where none does.
    """
    own, checks = {e.name: e for e in exercises}, {f"{e.name}-{kind}": e.name for e in exercises for kind in KINDS}
    work: list[tuple[str, str]] = []  # exercise or "", source
    last: dict[str, int] = {}
    notes: dict[str, str] = {}
    for cell in cells:
        name, source = grade_id(cell), source_of(cell)
        if cell.get("cell_type") != "code":
            if name in own:
                notes[name] = "its cell is no code cell any more"
            continue
        if name in checks:
            last[checks[name]] = max(last.get(checks[name], 0), len(work))
        elif name in own:
            if any(name == other for other, _ in work):
                notes[name] = "its cell is there more than once: all were run, in their order"
            work.append((name, source))
            last[name] = len(work)
        elif source.strip() and squeezed(source) not in book:
            work.append(("", source))
    absent = [name for name in own if not any(name == other for other, _ in work)]
    for name in absent:
        notes.setdefault(name, "its cell is missing")
        last.setdefault(name, len(work))
    found: list[tuple[str, str, str]] = [("stub", name, own[name].stub) for name in absent]
    begun = set(absent)
    for position in range(len(work) + 1):
        found += [("check", name, "") for name in own if last[name] == position]
        if position < len(work):
            name, source = work[position]
            if name and name not in begun:
                found.append(("stub", name, own[name].stub))
                begun.add(name)
            found.append(("cell", name, source))
    return found, notes


def collect(folder: Path, chapters: dict[str, list[Exercise]], book: dict[str, set[str]]) -> list[Submission]:
    """Everything returned in a folder, by student; `book` holds the code of each chapter's own cells."""
    found = []
    for path in sorted(folder.rglob("*.ipynb")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        student, chapter = whose(path, folder, chapters)
        returned = Submission(printable(student), chapter, path)
        try:
            cells = cells_of(path)
            returned.chapter = chapter_by_cells(cells, chapters) or chapter
            if not returned.chapter:
                raise ValueError("neither its name nor its cells tell which chapter it is")
            returned.steps, returned.notes = steps(cells, chapters[returned.chapter], book[returned.chapter])
        except ValueError as error:
            returned.fault = str(error)
        found.append(returned)
    return found
