"""The script as its user runs it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "tables.py"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        try:
            code = runpy.run_path(str(SCRIPT))["main"]()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", ["terminal", "markdown", "html"])
def test_all_fifteen(run, name):
    code, out, err = run("--format", name)
    assert (code, err) == (0, "")
    assert all(f"Table {number}. " in out for number in range(1, 16))


def test_those_named_in_that_order_with_ours(run, tmp_path):
    (tmp_path / "knn.json").write_text(json.dumps({"rows": [{"k": 20, "top1": 0.7501}]}))
    (tmp_path / "mine.yaml").write_text("9:\n  DINO:\n    kNN: knn.json\n")
    code, out, err = run(9, 2, "--ours", tmp_path / "mine.yaml")
    assert (code, err) == (0, "")
    assert out.index("Table 9. ") < out.index("Table 2. ")
    assert "Table 1. " not in out
    assert "    ours: mine  75.01 (+0.57)▲" in out


def test_errors_are_one_line(run, tmp_path):
    code, out, err = run("--ours", tmp_path / "none.yaml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"error: {tmp_path / 'none.yaml'} cannot be read: No such file or directory"]
    code, _, err = run(0, 16)
    assert code == 2
    assert err.splitlines()[-1].endswith("the paper has no table 0, 16; its tables are 1 to 15")


def test_marks_are_written_wherever_the_output_goes(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"rows": [{"unique": 5000}]}))
    (tmp_path / "mine.yaml").write_text("4:\n  ViT-Base/16 DINO:\n    unique: p.json unique\n")
    command = [sys.executable, str(SCRIPT), "4", "--ours", str(tmp_path / "mine.yaml")]
    variables = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=variables, capture_output=True, timeout=60, check=True)
    assert "5,000 (+4,225)▲" in done.stdout.decode("utf-8")


def test_it_starts_at_once():
    """The numbers need no torch."""
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "54,877" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() == "torch"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, SCRIPT], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["error: the tables cannot be printed: No space left on device"],
    )
