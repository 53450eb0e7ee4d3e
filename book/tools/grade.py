"""Grade a folder of returned notebooks: `python book/tools/grade.py FOLDER [--out DIR]`, with or without nbgrader.

Looks for FOLDER/STUDENT/.../04_mixtures.ipynb and FOLDER/STUDENT_04_mixtures.ipynb, and writes

    grades.csv              one line for each exercise: student, chapter, exercise, points, of, message, file
    feedback/STUDENT.md     the same in words, for the student

Only the students' own cells are taken from what they return. The chapter and its checks come from this book, so that
deleted, copied, edited or skipped checks change nothing. Returned code runs in processes with limits of time and
memory, each check apart from the others, and where Linux lets it, in a closed room without network in which no file
outside can be written. It is no proof against somebody who attacks the grader itself: look at what you give points for.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters import BOOK, NOTEBOOKS, SRC, chapter_names, read_chapter
from closed_room import room
from exercises import Exercise, chapter_exercises
from readable import grading
from submissions import Submission, collect, printable, squeezed

RUNS = re.compile(r'ROOT / "runs" / "([\w.-]+)"')  # how a chapter names the folder that it trains in
CONTEXT_SECONDS = 900  # for a chapter's own cells; chapter 8 trains for two minutes the first time
COLUMNS = ["student", "chapter", "exercise", "points", "of", "message", "file"]


class GradingError(Exception):
    """A chapter cannot be graded on this machine; the message says why."""


class Stopped(Exception):
    """Grading was interrupted; the message says how far it came."""


@dataclass(frozen=True)
class Chapter:
    """What grading needs of a chapter: its own cells, executed once, and its exercises."""

    name: str
    context: list[str]
    exercises: list[Exercise]

    @classmethod
    def read(cls, name: str, src: Path = SRC) -> Chapter:
        """Read a chapter from its text."""
        notebook = read_chapter(src / f"{name}.md")
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        context = [cell.source for cell in code if not (grading(cell, "solution") or grading(cell, "grade"))]
        return cls(name, context, chapter_exercises(name, src, notebook))

    @property
    def written(self) -> list[Path]:
        """Folders of the checkout that the chapter's own cells write."""
        return [BOOK.parent / "runs" / name for name in RUNS.findall("\n".join(self.context))]

    @property
    def reference(self) -> list[tuple[str, str, str]]:
        """The steps of a submission that solves everything."""
        return [step for e in self.exercises for step in (("cell", e.name, e.solution), ("check", e.name, ""))]


@dataclass(frozen=True)
class Limits:
    """Seconds for a cell, bytes above what the chapter takes."""

    seconds: float
    memory: int


def graded(chapter: Chapter, returned: list[Submission], limits: Limits) -> Iterator[tuple[Submission, dict[str, Any]]]:
    """What is found of each submission, in their order; a room that breaks is opened again for those that follow."""
    waiting = list(returned)
    while waiting:
        opened = False
        for key, found in session(chapter, waiting, limits):
            if key == "error":
                raise GradingError(f"{chapter.name}: the chapter's own cells fail here: {found}")
            if key == "":
                results = {e: judge(e, found) for e in chapter.exercises}
                bad = [f"{e.name} ({message})" for e, (points, message) in results.items() if points < e.points]
                if bad:
                    raise GradingError(f"{chapter.name}: the book's own solutions fail here: {', '.join(bad)}")
                opened = True
                continue
            yield waiting.pop(0), found
        if not opened:
            raise GradingError(f"{chapter.name}: the room for it ended before anything was graded")
        if waiting:
            yield waiting.pop(0), {"": {"error": "grading this notebook ended the room that it was in"}}


def session(chapter: Chapter, returned: list[Submission], limits: Limits) -> Iterator[tuple[str, Any]]:
    """Open a room for a chapter and give what it reports, until it is done or broken."""
    scratch = Path(tempfile.mkdtemp(prefix="grade-"))
    job = {
        "context": chapter.context,
        "exercises": [{"name": e.name, "defines": e.defines, "checks": [e.check, e.hidden]} for e in chapter.exercises],
        "submissions": [("", chapter.reference), *((str(number), s.steps) for number, s in enumerate(returned))],
        "memory": limits.memory,
        "seconds": limits.seconds,
    }
    hidden = [SRC, NOTEBOOKS, *{submission.path.parent for submission in returned}]
    copies = {folder: scratch / "runs" / folder.name for folder in chapter.written}
    for folder, copy in copies.items():
        folder.mkdir(parents=True, exist_ok=True)  # what is shown in its place needs a place
        shutil.copytree(folder, copy)  # a finished run need not be made again
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "IPYTHONDIR": str(scratch),
        "MPLCONFIGDIR": str(scratch),
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join([str(BOOK.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [*room(scratch, hidden, copies), sys.executable, str(Path(__file__).with_name("sandbox.py"))]
    keeper = subprocess.Popen(command, cwd=scratch, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        with contextlib.suppress(BrokenPipeError), keeper.stdin:
            keeper.stdin.write(json.dumps(job).encode())
        seconds = CONTEXT_SECONDS + 4 * limits.seconds * max(len(steps) for _, steps in job["submissions"])
        for line in lines_within(keeper, seconds):
            yield json.loads(line)
    finally:
        keeper.kill()
        keeper.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def lines_within(process: subprocess.Popen, seconds: float) -> Iterator[bytes]:
    """The lines that a process prints, as long as each comes within `seconds`."""
    text, end = b"", time.monotonic() + seconds
    while select.select([process.stdout], [], [], max(0, end - time.monotonic()))[0]:
        part = os.read(process.stdout.fileno(), 65_536)
        if not part:
            return
        text += part
        while b"\n" in text:
            line, _, text = text.partition(b"\n")
            yield line
            end = time.monotonic() + seconds


def judge(exercise: Exercise, found: dict[str, Any]) -> tuple[int, str]:
    """Points and message of one exercise."""
    entry = found.get(exercise.name, {})
    error, verdicts = entry.get("error", ""), entry.get("verdicts", [])
    shown, other = exercise.shares
    passed = [verdict["passed"] for verdict in verdicts]
    if passed and all(passed):
        return exercise.points, replaced(verdicts)
    if not verdicts:
        return 0, error or found.get("", {}).get("error") or "the notebook's processes ended before this check"
    message = verdicts[-1]["message"]
    if passed[0]:
        return (shown if other else 0), f"right on the numbers shown, not on others: {message}"
    if message.startswith("NotImplementedError") and not error:
        message = "not solved"
    return 0, "; ".join(part for part in (error and f"your cell: {error}", message, replaced(verdicts)) if part)


def replaced(verdicts: list[dict[str, Any]]) -> str:
    """What a student had put in the place of functions that are not the student's."""
    names = sorted({name for verdict in verdicts for name in verdict.get("replaced", [])})
    told = [name for name in names if name.split(".")[0] in ("builtins", "numpy", "torch", "scipy", "math", "vmflearn")]
    return f"replaced before the check, and put back: {', '.join(told[:5])}" if told else ""


def rows(submission: Submission, exercises: list[Exercise], found: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the table for one submission."""
    file = printable(str(submission.path))
    if submission.fault and not exercises:
        return [dict(zip(COLUMNS, [submission.student, "", "", 0, 0, submission.fault, file], strict=True))]
    lines = []
    for exercise in exercises:
        points, message = (0, submission.fault) if submission.fault else judge(exercise, found)
        note = submission.notes.get(exercise.name, "")
        message = "; ".join(part for part in (note, message) if part)
        values = [submission.student, submission.chapter, exercise.name, points, exercise.points, message, file]
        lines.append(dict(zip(COLUMNS, values, strict=True)))
    return lines


def best_only(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of two notebooks of one student for one chapter, the better; the other's lines say so and give no points."""
    totals: dict[tuple[str, str], dict[str, int]] = {}
    for line in lines:
        files = totals.setdefault((line["student"], line["chapter"]), {})
        files[line["file"]] = files.get(line["file"], 0) + line["points"]
    for line in lines:
        files = totals[line["student"], line["chapter"]]
        if line["chapter"] and (best := max(files, key=files.__getitem__)) != line["file"]:
            line.update(points=0, of=0, message=f"not counted: {Path(best).name} of this student has as many points")
    return lines


def feedback(student: str, lines: list[dict[str, Any]], titles: dict[str, str]) -> str:
    """What a student is told, as Markdown."""
    text = [f"# {student}: {sum(line['points'] for line in lines)} of {sum(line['of'] for line in lines)} points"]
    for file in dict.fromkeys(line["file"] for line in lines):
        mine = [line for line in lines if line["file"] == file]
        text.append(f"\n## {mine[0]['chapter'] or Path(file).name}\n")
        for line in mine:
            title = titles.get(line["exercise"], "the notebook")
            words = line["message"] or ("solved" if line["points"] == line["of"] else "")
            text.append(f"- **{title}**: {line['points']} of {line['of']}. {words}".rstrip())
    return "\n".join(text) + "\n"


def grade(folder: Path, out: Path, limits: Limits, src: Path = SRC) -> list[dict[str, Any]]:
    """Grade everything in `folder` and write the table and the feedback into `out`; returns the table's lines.

    Ctrl-C ends it: what is graded by then is written, and `Stopped` says how much that is.
    """
    chapters = {name: Chapter.read(name, src) for name in chapter_names(src)}
    exercises = {name: chapter.exercises for name, chapter in chapters.items()}
    book = {name: {squeezed(source) for source in chapter.context} for name, chapter in chapters.items()}
    returned = collect(folder, exercises, book)
    if not returned:
        raise GradingError(f"no notebook (*.ipynb) in {folder}")
    check_place(out)
    lines: list[dict[str, Any]] = []
    for submission in returned:
        if submission.fault:
            lines += rows(submission, exercises.get(submission.chapter, []), {})
    stopped = False
    try:
        for name, chapter in chapters.items():
            mine = [submission for submission in returned if submission.chapter == name and not submission.fault]
            with contextlib.closing(graded(chapter, mine, limits)) as results:  # whatever happens, no room stays open
                for submission, found in results:
                    lines += (fresh := rows(submission, chapter.exercises, found))
                    points = f"{sum(line['points'] for line in fresh)} of {sum(line['of'] for line in fresh)}"
                    print(f"{submission.student}: {name}: {points}", flush=True)
    except KeyboardInterrupt:
        stopped = True
    lines = best_only(sorted(lines, key=lambda line: (line["student"], line["chapter"], line["file"])))
    write(lines, out, {e.name: e.title for found in exercises.values() for e in found})
    if stopped:
        done = len({line["file"] for line in lines})
        raise Stopped(f"stopped: {done} of {len(returned)} notebooks are in {out / 'grades.csv'}, the others are not")
    return lines


def check_place(out: Path) -> None:
    """See that the grades can be written before a class is graded; nothing is left there."""
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        if (out / "grades.csv").exists():
            with (out / "grades.csv").open("a"):
                pass
        if made:
            out.rmdir()
    except OSError as error:
        raise GradingError(f"{out} cannot be written to ({error.strerror}): give another folder with --out") from None


def write(lines: list[dict[str, Any]], out: Path, titles: dict[str, str]) -> None:
    """Write `grades.csv` and the feedback."""
    (out / "feedback").mkdir(parents=True, exist_ok=True)
    with (out / "grades.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(lines)
    taken: set[str] = set()
    for student in dict.fromkeys(line["student"] for line in lines):
        mine = [line for line in lines if line["student"] == student]
        name = re.sub(r"[^\w.-]", "_", student)
        while name.lower() in taken:  # "Ana Lima" and "Ana_Lima": nobody's feedback lies where another's did
            name += "_"
        taken.add(name.lower())
        (out / "feedback" / f"{name}.md").write_text(feedback(student, mine, titles), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the returned notebooks")
    parser.add_argument("--out", type=Path, help="where the grades go (default: FOLDER-grades)")
    parser.add_argument("--seconds", type=float, default=20, help="for a cell; a check has ten times ours on top (20)")
    parser.add_argument("--memory", type=float, default=2, help="GiB above what the chapter itself takes (2)")
    args = parser.parse_args()
    if not args.folder.is_dir():
        sys.exit(f"{args.folder} is no folder")
    if not (0 < args.seconds < math.inf and 0 < args.memory < math.inf):
        parser.error(f"--seconds and --memory must be positive, got {args.seconds:g} and {args.memory:g}")
    named = args.folder if args.folder.name not in ("", "..") else args.folder.resolve()  # "." lies in another folder
    out = args.out or named.with_name(named.name + "-grades")
    with tempfile.TemporaryDirectory() as scratch:
        if not room(Path(scratch), []):
            print("no closed room on this system (Linux namespaces): returned code can read, write and use the network")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        lines = grade(args.folder, out, Limits(args.seconds, int(args.memory * 2**30)))
    except GradingError as error:
        sys.exit(f"nothing is graded: {error}")
    except Stopped as reason:
        print(reason, file=sys.stderr)
        return 130
    print(f"{len({line['file'] for line in lines})} notebooks: {out / 'grades.csv'}, and {out / 'feedback'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
