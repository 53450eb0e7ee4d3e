"""Plant defects, one at a time, in a copy of the project, and see whether the tests notice.

    python scripts/mutate.py                      every defect of the list that has no verdict yet
    python scripts/mutate.py --only sphere/ koleo those whose path, reason or tests hold one of the words
    python scripts/mutate.py --again              all of them afresh

``tests/mutants.jsonl`` lists the defects, an object a line: ``path``, the ``old`` text (which must stand there exactly
once), the ``new`` text, the ``tests`` that should fail then (files or node ids), and ``why`` it would matter. Each is a
slip that a tired author could make and a user would suffer from; one that changes nothing has no place there.

A test that fails on a defect has caught it if it passes without; that is tried at the end, for all of them. The same
command goes on where it was stopped: verdicts lie in ``runs/mutants.jsonl``, and hold until the entry, the mutated file
or its tests change. (Something else may change a verdict too; ``--again`` trusts none.) When every entry has one, the
result goes to ``benchmarks/results/mutants.md``. Exits with 0 if at least 95 % are caught, else with 1.

mutmut and cosmic-ray make defects by rules (another operator, another constant), thousands of them, most of little
consequence or none, and nobody says which should be there. Here the list is the point: it is written, reviewed and
kept. And it is quick: PyTorch and its like are imported once, and each defect is tried in a fork.
"""

import argparse
import atexit
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST, RESULT = "tests/mutants.jsonl", "benchmarks/results/mutants.md"
GOAL = 0.95
AREAS = (
    "vmflearn/sphere/",
    "vmflearn/ssl/",
    "vmflearn/train/",
    "vmflearn/data/",
    "vmflearn/evaluate/",
    "vmflearn/",
    "scripts/",
    "book/",
)
"""Rows of the result: an entry counts in the first that its path begins with."""
HEAVY = (
    "torch",
    "torch._subclasses.fake_tensor",
    "torch.utils.flop_counter",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
    "timm",
    "sklearn.mixture",
    "scipy.stats",
    "matplotlib.pyplot",
    "mpmath",
    "safetensors.torch",
    "hypothesis",
    "jupytext",
)
"""Imported before the forks. Nothing of the project is, and nothing is computed: threads do not survive a fork."""
LONGEST = 600.0
"""Seconds that tests may take; a defect that makes them wait for ever is caught by that."""
NO_VERDICT = 70
"""Status beside pytest's own: it could not be run."""


@dataclass(frozen=True)
class Mutant:
    """A line of the list."""

    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str

    @property
    def area(self) -> str:
        """The row of the result in which it counts."""
        return next(area for area in AREAS if self.path.startswith(area))

    @property
    def files(self) -> set[str]:
        """The files of its tests."""
        return {test.partition("::")[0] for test in self.tests}

    def count(self, root: Path) -> int:
        """How often the old text stands in its file; anything but once makes the entry stale."""
        path = root / self.path
        return path.read_text(encoding="utf-8").count(self.old) if path.is_file() else 0

    def key(self, root: Path) -> str:
        """What a verdict depends on, as a digest: the entry, the file and the tests."""
        found = hashlib.sha256(json.dumps(asdict(self)).encode())
        for file in (self.path, *sorted(self.files)):
            found.update((root / file).read_bytes() if (root / file).is_file() else b"")
        return found.hexdigest()


@dataclass(frozen=True)
class Verdict:
    """What tests said: of a defect, or of the untouched project."""

    key: str
    what: str  # the defect, or a test
    passed: bool
    by: str  # the first test that failed, or what else ended them
    seconds: float


def read_list(path: Path) -> list[Mutant]:
    """The list of defects; ValueError names a line that is no entry."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            found.append(Mutant(**{**entry, "tests": tuple(entry["tests"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no entry of path, old, new, tests, why: {error}") from None
    return found


class Trial:
    """Tests in a fork of this process, in a copy of the project, with a defect or without."""

    def __init__(self, tree: Path, mutant: Mutant | None, tests: Sequence[str]):
        self.tree, self.tests, self.began = tree, tests, time.monotonic()
        for folder in (tree.with_name("tmp"), tree / ".hypothesis"):
            shutil.rmtree(folder, ignore_errors=True)
        self._sound: tuple[Path, str] | None = None
        if mutant is not None:
            file = tree / mutant.path
            self._sound = file, file.read_text(encoding="utf-8")
            file.write_text(self._sound[1].replace(mutant.old, mutant.new), encoding="utf-8")
        self.pid = os.fork()
        if self.pid == 0:
            _test(tree, tests, to_the_end=mutant is None)

    def poll(self) -> tuple[list[str], float] | None:
        """What failed (a defect's tests end with the first), and seconds; None while it goes on."""
        seconds = time.monotonic() - self.began
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0 and seconds < LONGEST:
            return None
        self.clear(reap=pid == 0)
        if pid == 0:
            return ["no end in time"], seconds
        code = os.waitstatus_to_exitcode(status)
        if code == NO_VERDICT:
            said = self.tree.with_name("log").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"pytest could not be run on {', '.join(self.tests)}:\n{said[-2000:]}")
        failed = self.tree.with_name("failed").read_text(encoding="utf-8").splitlines()
        return failed or ([f"pytest's status {code}"] if code else []), seconds

    def clear(self, *, reap: bool = True) -> None:
        """End it and all that it has started, and mend the copy."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if reap:
            os.waitpid(self.pid, 0)
        if self._sound is not None:
            self._sound[0].write_text(self._sound[1], encoding="utf-8")


class _Failures:
    """A plugin of pytest that writes down what fails."""

    def __init__(self, path: Path):
        self.path = path
        path.write_text("", encoding="utf-8")

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        self._note(report)

    def pytest_collectreport(self, report: "pytest.CollectReport") -> None:
        self._note(report)

    def _note(self, report: "pytest.TestReport | pytest.CollectReport") -> None:
        if report.failed:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(report.nodeid + "\n")


def _test(tree: Path, tests: Sequence[str], *, to_the_end: bool) -> None:
    """In the fork: run pytest on the copy, and end with its status."""
    status = NO_VERDICT
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        log = os.open(tree.with_name("log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(log, standard)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(tree)
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        # No bytecode: it is told from older one by size and second, and a defect may leave both as they were.
        sys.dont_write_bytecode, sys.argv, sys.path[0] = True, ["pytest"], str(tree)
        import pytest

        found = importlib.util.find_spec("vmflearn")
        if (tree / "vmflearn").is_dir() and (found is None or not str(found.origin).startswith(str(tree))):
            raise RuntimeError(f"vmflearn would be imported from {found and found.origin}, not from the copy")
        plain = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:anyio", *([] if to_the_end else ["-x"])]
        plain += ["--basetemp", str(tree.with_name("tmp"))]
        status = int(pytest.main([*plain, *tests], plugins=[_Failures(tree.with_name("failed"))]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def copy_project(root: Path, folders: Iterable[Path]) -> str:
    """Copy what git knows of, or would take up, into folders; returns a digest of it (but for list and result)."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    found = hashlib.sha256()
    for name in sorted(name for name in listed if (root / name).is_file()):
        if name not in (LIST, RESULT):
            found.update(name.encode() + b"\0" + (root / name).read_bytes())
        for folder in folders:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return found.hexdigest()


class Job(NamedTuple):
    """Tests to run, on a defect or on none."""

    mutant: Mutant | None
    tests: Sequence[str]


def run_all(jobs: Sequence[Job], trees: Sequence[Path]) -> Iterator[tuple[Job, list[str], float]]:
    """Run jobs, one in each copy at a time; yield each when it is done, with what failed and the seconds it took."""
    waiting, free = list(jobs)[::-1], list(trees)
    running: dict[Path, tuple[Trial, Job]] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, tree = waiting.pop(), free.pop()
                running[tree] = Trial(tree, job.mutant, job.tests), job
            time.sleep(0.02)
            for tree, (trial, job) in list(running.items()):
                ended = trial.poll()
                if ended is not None:
                    del running[tree]
                    free.append(tree)
                    yield job, *ended
    finally:
        for trial, _ in running.values():
            trial.clear()


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Verdicts by their keys; a last line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return {found.key: found for found in (Verdict(**json.loads(line)) for line in lines)}


def report(mutants: Sequence[Mutant], survived: Sequence[Mutant]) -> str:
    """The result in Markdown."""
    rows = []
    for area in AREAS:
        planted, left = (sum(mutant.area == area for mutant in some) for some in (mutants, survived))
        rows += [f"| `{area}` | {planted} | {planted - left} | {left} |"] if planted else []
    n, left = len(mutants), len(survived)
    lines = [
        "# Planted defects",
        "",
        f"Of {n} defects, planted one at a time in a copy of the project, tests caught {n - left}: {1 - left / n:.1%}. "
        "`tests/mutants.jsonl` lists them, with the tests that were run on each.",
        "",
        f"Python {platform.python_version()}, torch {version('torch')}. Command: `python scripts/mutate.py`.",
        "",
        "| area | planted | caught | survived |",
        "| --- | --- | --- | --- |",
        *rows,
        f"| together | {n} | {n - left} | {left} |",
        "",
        "Survivors:" if survived else "No defect survived.",
        *([""] if survived else []),
        *(f"- `{m.path}`: `{m.old.strip()}` as `{m.new.strip()}` ({m.why})" for m in survived),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="defects whose path, reason or tests hold a word")
    parser.add_argument("--again", action="store_true", help="also those that have a verdict")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default: %(default)s)")
    settings = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does, with what it has started
    try:
        mutants = read_list(root / LIST)
        sound = {mutant.key(root): mutant for mutant in mutants if mutant.count(root) == 1}
        words = settings.only or [""]
        chosen = {key: m for key, m in sound.items() if any(w in " ".join((m.path, m.why, *m.tests)) for w in words)}
        verdicts = try_out(chosen, root, again=settings.again, jobs=settings.jobs)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    for mutant in mutants:
        if mutant not in sound.values():
            print(f"stale: {mutant.old!r} stands {mutant.count(root)} times in {mutant.path}, not once")
    survived = [sound[key] for key, verdict in verdicts.items() if verdict.passed]
    for mutant in survived:
        print(f"survived: {mutant.path}: {mutant.why}")
    print(
        f"{len(chosen)} defects of {len(mutants)}: {len(verdicts) - len(survived)} caught, {len(survived)} survived, "
        f"{len(chosen) - len(verdicts)} without a verdict; {len(mutants) - len(sound)} stale"
    )
    if len(verdicts) < len(mutants):
        return 1
    target = root / RESULT
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(report(mutants, survived), encoding="utf-8")
    print(f"the result is in {target}")
    return 0 if len(survived) <= (1 - GOAL) * len(mutants) else 1


def try_out(chosen: dict[str, Mutant], root: Path, *, again: bool, jobs: int) -> dict[str, Verdict]:
    """Verdicts by the defects' keys; one that was caught by a test which fails anyway has none."""
    store = root / "runs" / "mutants.jsonl"
    store.parent.mkdir(exist_ok=True)
    known = read_verdicts(store)
    os.environ["OMP_NUM_THREADS"] = "1"
    tqdm.monitor_interval = 0  # its thread would not survive a fork
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, store.open("a", encoding="utf-8") as kept:
        trees = [Path(scratch, str(number), "tree") for number in range(jobs)]
        project = copy_project(root, trees)

        def work(title: str, todo: Sequence[Job], verdicts: Callable[[Job, list[str], float], list[Verdict]]) -> None:
            if todo:
                preload()
            with tqdm(total=len(todo), desc=title, disable=None) as bar:
                for done in run_all(todo, trees):
                    bar.update()
                    for found in verdicts(*done):
                        known[found.key] = found
                        kept.write(json.dumps(asdict(found)) + "\n")
                        kept.flush()
                        bar.write(f"{found.seconds:6.1f} s  {found.what}  {found.by or 'passed'}")
                        sys.stdout.flush()

        def of_defect(job: Job, failed: list[str], seconds: float) -> list[Verdict]:
            assert job.mutant is not None
            what = f"{job.mutant.path}: {job.mutant.why}"
            return [Verdict(keys[job.mutant], what, not failed, "".join(failed[:1]), round(seconds, 1))]

        def of_tests(job: Job, failed: list[str], seconds: float) -> list[Verdict]:
            other = [name for name in failed if name not in job.tests]  # a whole file, or no test at all
            return [
                Verdict(
                    f"{project} {test}", test, not (other or test in failed), "", round(seconds / len(job.tests), 1)
                )
                for test in job.tests
            ]

        keys = {mutant: key for key, mutant in chosen.items()}
        todo = [Job(mutant, mutant.tests) for key, mutant in chosen.items() if again or key not in known]
        work("defects", todo, of_defect)
        by_file: dict[str, list[str]] = {}
        for test in sorted({test for key in chosen for test in _caught_by(known[key], chosen[key])}):
            if f"{project} {test}" not in known:
                by_file.setdefault(test.partition("::")[0], []).append(test)
        work("the tests that caught them", [Job(None, tests) for tests in by_file.values()], of_tests)
    found = {}
    for key, mutant in chosen.items():
        broken = [test for test in _caught_by(known[key], mutant) if not known[f"{project} {test}"].passed]
        if broken:
            print(f"no verdict on {mutant.path}: {mutant.why}: {', '.join(broken)} fails without the defect")
        else:
            found[key] = known[key]
    return found


def _caught_by(verdict: Verdict, mutant: Mutant) -> Sequence[str]:
    """Tests that must pass without a defect if its verdict is to count."""
    if verdict.passed:
        return ()
    return (verdict.by,) if "::" in verdict.by else mutant.tests


@cache
def preload() -> None:
    """Import what is heavy, for all forks."""
    for module in HEAVY:
        with suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()  # a fork need not go through all that again
    atexit.register(gc.unfreeze)


if __name__ == "__main__":
    sys.exit(main())
