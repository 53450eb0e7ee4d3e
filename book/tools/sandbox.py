"""Run the cells of returned notebooks and the book's own checks: the part of grade.py that works in a closed room.

Read a job (JSON), write one line of JSON for each submission. The chapter's own cells are executed
once. A submission is a fork of that state, a cell a fork of the submission's: where a cell hangs, takes too much memory
or ends the process, its fork is thrown away and the state before it goes on. A check is a fork again, so it can neither
be spoilt nor spoil. It sees the chapter's own names, and of the student's only what the exercise asks for.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import functools
import gc
import json
import linecache
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell

LONGEST_MESSAGE = 600  # characters
FILE_BYTES = 256 * 2**20
PR_SET_CHILD_SUBREAPER = 36
HEAP = 1 << 9  # the flag of classes that can be patched


def run_source(source: str, name: str, names: dict[str, Any]) -> None:
    """Execute a cell in `names`, magics included; its source can be inspected, as in a notebook."""
    code = TransformerManager().transform_cell(source)
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    if "get_ipython()" in code:
        names["get_ipython"] = InteractiveShell.instance
    exec(compile(code, name, "exec"), names)


def first_line(error: BaseException) -> str:
    """An error in one line, with the line of the cell where it is one of grammar."""
    words = " ".join(str(error).split())
    kind = "" if isinstance(error, AssertionError) and words else type(error).__name__
    return ": ".join(part for part in (kind, words) if part)[:LONGEST_MESSAGE]


def forked(work: Callable[[], Any], seconds: float, *, go_on: bool = False) -> tuple[Any, bool]:
    """What `work` returns, from a fork of this process that has `seconds`: (its answer, in the fork itself?).

    The answer is None if the fork ended without one, "late" if its time was over. With `go_on` a fork whose answer is
    an object does not end with it: it returns here too, says so, and takes the place of the process that it is from.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.setpgid(0, 0)
        with contextlib.suppress(BaseException):
            answer = work()
            os.write(write, json.dumps(answer).encode()[:60_000] + b"\n")
            os.close(write)
            if go_on and isinstance(answer, dict):
                return answer, True
        os._exit(0)
    os.close(write)
    text, end, answer = b"", time.monotonic() + seconds, None
    while not text.endswith(b"\n"):
        if not select.select([read], [], [], max(0, end - time.monotonic()))[0]:
            answer = "late"
            break
        if not (part := os.read(read, 65_536)):
            break
        text += part
    os.close(read)
    if text.endswith(b"\n"):
        answer = json.loads(text)
    if not (go_on and isinstance(answer, dict)):
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return answer, False


def limit(memory: int, seconds: float) -> None:
    """Limits of this process: `memory` bytes above what it has, `seconds` of processor time, the size of files."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    room = pages * resource.getpagesize() + memory
    for kind, value in (
        (resource.RLIMIT_AS, room),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS knows no limit of memory
            resource.setrlimit(kind, (value, value))


class Originals:
    """Every function of the modules that a chapter uses as it was, to undo what a student has put in its place."""

    def __init__(self, chapter: dict[str, Any]) -> None:
        modules = used_modules(chapter)
        self.modules = [(vars(module), module.__name__, functions(vars(module))) for module in modules]
        self.classes = {
            value: functions(vars(value))
            for _, module, names in self.modules
            for value in names.values()
            if module.split(".")[0] in ("vmflearn", "torch", "numpy")
            and isinstance(value, type)
            and value.__flags__ & HEAP
        }

    def restore(self) -> list[str]:
        """Put every replaced function back, Python's own first; the names of those that were replaced."""
        found = []
        for now, module, names in self.modules:
            for name, value in names.items():
                if now.get(name) is not value:
                    found.append(f"{module}.{name}")
                    now[name] = value
        for kind, names in self.classes.items():
            now = vars(kind)
            for name, value in names.items():
                if now.get(name) is not value:
                    with contextlib.suppress(AttributeError, TypeError):
                        setattr(kind, name, value)
                        found.append(f"{kind.__module__}.{kind.__name__}.{name}")
        return found


def used_modules(chapter: dict[str, Any]) -> list[types.ModuleType]:
    """Python's own functions, what the names of a chapter come from, the modules in these, and all of the library."""
    found = {"builtins", *(name for name in sys.modules if name.split(".")[0] == "vmflearn")}
    for value in chapter.values():
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        found.add(name if isinstance(name, str) else "builtins")
    for name in sorted(found & set(sys.modules)):
        inner = [value for value in vars(sys.modules[name]).values() if isinstance(value, types.ModuleType)]
        found |= {module.__name__ for module in inner if module.__name__.split(".")[0] == name.split(".")[0]}
    names = ["builtins", *sorted(found - {"builtins", "__main__"})]
    return [module for name in names if isinstance(module := sys.modules.get(name), types.ModuleType)]


def functions(names: Any) -> dict[str, Any]:
    """What can be called of a module's or a class's names."""
    return {name: value for name, value in names.items() if callable(value)}


class Room:
    """A chapter with its own cells executed, in which submissions are graded."""

    def __init__(self, job: dict[str, Any], out: int) -> None:
        self.out = out
        self.exercises: dict[str, dict[str, Any]] = {e["name"]: e for e in job["exercises"]}
        self.memory, self.seconds = job["memory"], job["seconds"]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        self.names = vars(main)
        self.names["__builtins__"] = builtins
        for number, source in enumerate(job["context"], start=1):
            run_source(source, f"<chapter, cell {number}>", self.names)
        self.originals = Originals(self.names)
        self.own = descendants()
        gc.freeze()  # a fork then shares what the chapter made, where collecting would copy it
        self.replaced: list[str] = []
        self.times: dict[str, float] = {}

    def cell(self, source: str, number: int, names: dict[str, Any]) -> dict[str, str] | str:
        """Run a student's cell in `names`; its error, or a word where it left too little memory to go on."""
        error = None
        try:
            run_source(source, f"<cell {number}>", names)
        except BaseException as caught:
            error = caught
        self.replaced += self.originals.restore()  # before anything here is done with a patched Python
        if isinstance(error, MemoryError):
            return "memory"
        return {"error": first_line(error) if error else ""}

    def check(self, name: str, source: str, student: dict[str, Any]) -> dict[str, Any]:
        """Run one check on the student's answer; the chapter's own names are what they were."""
        replaced = self.replaced + self.originals.restore()
        names = dict(self.names)
        for defined in self.exercises[name]["defines"]:
            if defined in student:
                names[defined] = student[defined]
        started = time.monotonic()
        try:
            run_source(source, f"<check of {name}>", names)
        except BaseException as error:
            return {"passed": False, "message": first_line(error), "replaced": replaced}
        return {"passed": True, "message": "", "replaced": replaced, "seconds": time.monotonic() - started}

    def verdicts(self, name: str, student: dict[str, Any]) -> list[dict[str, Any]]:
        """The check as shown and, if that passes, the one on other numbers: each in a fork."""
        found = []
        for source in filter(None, self.exercises[name]["checks"]):
            seconds = self.seconds + 10 * self.times.get(name, 0)
            answer, _ = forked(functools.partial(self.check, name, source, student), seconds)
            if not isinstance(answer, dict):
                words = f"not finished after {seconds:.0f} s" if answer == "late" else "the process ended in the check"
                answer = {"passed": False, "message": words}
            found.append(answer)
            if not answer["passed"]:
                break
        return found

    def submission(self, steps: list[list[Any]], report: int) -> None:
        """Go through the steps, each (kind, exercise, source), of a submission; write what is found to `report`."""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        student = vars(main)
        student.update(self.names)
        for number, (kind, name, source) in enumerate(steps, start=1):
            if kind == "check":
                found = {"exercise": name, "verdicts": self.verdicts(name, student)}
            elif kind == "stub":
                run_source(source, f"<{name}>", student)
                continue
            else:
                run = functools.partial(self.cell, source, number, student)
                answer, in_fork = forked(run, self.seconds, go_on=True)
                if isinstance(answer, dict) and not in_fork:
                    return  # the fork has done all that follows
                found = {"exercise": name, "error": answer["error"] if in_fork else left_out(answer, self.seconds)}
                if not found["error"]:
                    continue
            os.write(report, json.dumps(found).encode() + b"\n")

    def grade(self, steps: list[list[Any]]) -> dict[str, Any]:
        """Verdicts and errors of one submission by exercise."""
        read, write = os.pipe()
        scratch = tempfile.mkdtemp()
        seconds = sum(2 * (self.seconds + 10 * self.times.get(name, 0)) for _, name, _ in steps) + 10
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.close(read)
                os.close(self.out)
                os.environ["HOME"] = scratch
                os.chdir(scratch)
                limit(self.memory, seconds)
                self.submission(steps, write)
            os._exit(0)
        os.close(write)
        text, end, done = b"", time.monotonic() + seconds, False
        while time.monotonic() < end:  # a process that was left behind may hold the pipe open
            if select.select([read], [], [], 0 if done else 0.05)[0]:
                if not (part := os.read(read, 65_536)):
                    break
                text += part
            elif done:
                break
            done = done or os.waitpid(pid, os.WNOHANG)[0] == pid
        os.close(read)
        end_processes(self.own)
        shutil.rmtree(scratch, ignore_errors=True)
        found: dict[str, Any] = {}
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, AttributeError):
                entry = json.loads(line)
                found.setdefault(entry.pop("exercise"), {}).update(entry)
        return found


def left_out(answer: str | None, seconds: float) -> str:
    """Why a cell was left out, in words."""
    if answer == "late":
        return f"the cell was ended after {seconds:.0f} s, and is left out"
    return f"the cell {'took too much memory' if answer == 'memory' else 'ended the process'}, and is left out"


def descendants() -> set[int]:
    """All processes that come from this one (Linux)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, fresh = set(), {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def end_processes(keep: set[int]) -> None:
    """End and reap all descendants but those in `keep`."""
    for _ in range(5):  # what is started while the others end
        for pid in descendants() - keep:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not descendants() - keep:
            return
        time.sleep(0.05)


def main() -> int:
    job = json.load(sys.stdin)
    out = os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    if sys.platform == "linux":  # processes whose parent has ended become children of this one
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    InteractiveShell.instance().history_manager.enabled = False
    try:
        room = Room(job, out)
    except BaseException as error:
        os.write(out, json.dumps(["error", first_line(error)]).encode() + b"\n")
        return 1
    for key, steps in job.pop("submissions"):
        found = room.grade(steps)
        if key == "":  # the book's own solutions: how long a check takes here
            room.times = {name: sum(v.get("seconds", 0) for v in e.get("verdicts", [])) for name, e in found.items()}
        os.write(out, json.dumps([key, found]).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
