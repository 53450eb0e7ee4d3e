"""The list of defects fits the project, and the script that plants them tells caught from survived."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = ROOT / "tests" / "mutants.jsonl"
ENTRIES = [json.loads(line) for line in LIST.read_text(encoding="utf-8").splitlines()]

# The script on another project, without the imports that only speed it up.
CALL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
import mutate
mutate.HEAVY = ()
raise SystemExit(mutate.main(sys.argv[2:], Path(sys.argv[1])))
"""


def test_every_old_text_stands_in_its_file_exactly_once():
    texts = {entry["path"]: (ROOT / entry["path"]).read_text(encoding="utf-8") for entry in ENTRIES}
    stale = {
        (entry["path"], entry["old"]): texts[entry["path"]].count(entry["old"])
        for entry in ENTRIES
        if texts[entry["path"]].count(entry["old"]) != 1
    }
    assert not stale, "mend or remove these lines of tests/mutants.jsonl"


def test_every_defect_is_another_one_and_can_be_compiled():
    keys = [(entry["path"], entry["old"], entry["new"]) for entry in ENTRIES]
    assert len(set(keys)) == len(keys) >= 200
    for path, old, new in keys:
        assert new != old, path
        compile((ROOT / path).read_text(encoding="utf-8").replace(old, new), path, "exec")


def test_every_entry_says_why_and_names_tests_that_are_there():
    texts = {}
    for entry in ENTRIES:
        assert list(entry) == ["path", "old", "new", "tests", "why"]
        assert entry["why"], entry
        assert entry["tests"], entry
        for test in entry["tests"]:
            file, _, name = test.partition("::")
            texts[file] = texts.get(file) or (ROOT / file).read_text(encoding="utf-8")
            assert f"def {name.partition('[')[0]}(" in texts[file] or not name, test


@pytest.fixture
def project(tmp_path):
    """A project of one function, with defects of every fate."""
    files = {
        "scripts/money.py": "def total(prices):\n    return sum(prices) + 0\n\n\ndef mean(prices):\n    return 1\n",
        "tests/test_money.py": "from scripts.money import *\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n",
        "tests/test_broken.py": "def test_broken():\n    assert False\n",
        ".gitignore": "__pycache__/\nruns/\n",
    }
    entries = [
        ("sum(prices) + 0", "sum(prices) + 1", "tests/test_money.py", "one too many"),
        ("    return 1\n", "    return 2\n", "tests/test_money.py::test_total", "nobody looks at the mean"),
        ("return sum(prices)", "raise SystemExit", "tests/test_broken.py", "the test fails anyway"),
        ("return", "yield", "tests/test_money.py", "stands there twice"),
    ]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    write_list(tmp_path, entries)
    return tmp_path


def write_list(project, entries):
    lines = [
        json.dumps({"path": "scripts/money.py", "old": old, "new": new, "tests": [tests], "why": why})
        for old, new, tests, why in entries
    ]
    (project / "tests" / "mutants.jsonl").write_text("\n".join(lines) + "\n")


def run(project, *arguments):
    command = [sys.executable, "-c", CALL, str(ROOT / "scripts"), str(project), *arguments]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # seconds, which this project has no use for
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_defects_are_told_apart_and_the_project_is_left_alone(project):
    before = {path: path.read_bytes() for path in project.rglob("*.py")}
    code, said = run(project)
    assert code == 1
    assert "one too many  tests/test_money.py::test_total\n" in said
    assert "survived: scripts/money.py: nobody looks at the mean" in said
    assert "the test fails anyway: tests/test_broken.py::test_broken fails without the defect" in said
    assert "stale: 'return' stands 2 times in scripts/money.py, not once" in said
    assert "3 defects of 4: 1 caught, 1 survived, 1 without a verdict; 1 stale" in said
    assert {path: path.read_bytes() for path in project.rglob("*.py")} == before
    assert not (project / "benchmarks").exists()

    # It goes on where it was; what has changed is tried again, and when all have a verdict the result is written.
    verdicts = (project / "runs" / "mutants.jsonl").read_text()
    _, said = run(project, "--only", "money")
    assert (project / "runs" / "mutants.jsonl").read_text() == verdicts
    with (project / "tests" / "test_money.py").open("a") as file:
        file.write("\n\ndef test_mean():\n    assert mean([1]) == 1\n")
    write_list(
        project,
        [
            ("sum(prices) + 0", "sum(prices) + 1", "tests/test_money.py", "one too many"),
            ("    return 1\n", "    return 2\n", "tests/test_money.py", "the mean is twice what it is"),
        ],
    )
    code, said = run(project, "--jobs", "2")
    assert code == 0, said
    report = (project / "benchmarks" / "results" / "mutants.md").read_text()
    assert "| `scripts/` | 2 | 2 | 0 |\n| together | 2 | 2 | 0 |\n\nNo defect survived." in report
    assert str(project) not in report


def test_a_line_that_is_no_entry_is_named(project):
    (project / "tests" / "mutants.jsonl").write_text('{"path": "scripts/money.py"}\n')
    code, said = run(project)
    assert code == 2
    assert said.startswith("error: ")
    assert "line 1 is no entry of path, old, new, tests, why" in said
