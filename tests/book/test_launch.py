"""Binder's files suffice for what they are for, and the site's buttons follow the address in CITATION.cff."""

import os
import re
import subprocess
import tomllib

import pytest
from chapters import BOOK, NOTEBOOKS
from launch import theme_options
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = BOOK.parent
BINDER = ROOT / ".binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_binder_takes_a_python_that_the_project_promises():
    version = re.fullmatch(r"python-(3\.\d+)\n", (BINDER / "runtime.txt").read_text())[1]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0")


@pytest.mark.slow
def test_binder_installs_what_its_last_step_needs(bare_environment, tmp_path):
    lines = [line for line in (BINDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert "-e ." in lines
    assert "--constraint ../constraints.txt" in lines
    assert (BINDER / "../constraints.txt").exists()  # pip reads it from the folder of the file
    named = [str(Requirement(line)) for line in lines if not line.startswith("-")]
    _, python = bare_environment(tmp_path / "env", [*PROJECT["dependencies"], *named, "ipykernel"])
    command = (BINDER / "postBuild").read_text().splitlines()[-1].split()
    assert command == ["python", "book/tools/readable.py"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [python, *command[1:], "--out", tmp_path / "lab", "06_last_layer"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=120)
    assert (tmp_path / "lab" / "06_last_layer.ipynb").stat().st_size > 50_000
    assert os.access(BINDER / "postBuild", os.X_OK)


def test_buttons_wait_for_an_address(tmp_path):
    citation = tmp_path / "CITATION.cff"
    citation.write_text("cff-version: 1.2.0\n")
    assert theme_options(citation) == {}
    citation.write_text("cff-version: 1.2.0\nrepository-code: https://example.org/a/b.git\n")
    options = theme_options(citation)
    assert options["repository_url"] == "https://example.org/a/b"
    assert options["launch_buttons"]["binderhub_url"] == "https://mybinder.org"
    assert (ROOT / options["path_to_docs"]).parent == NOTEBOOKS.parent
