"""The project as a package: its lists of dependencies agree, the wheel is complete, importing it is cheap."""

import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def declared():
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras["book"], *extras["test"]]]


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(r.name): r for r in (Requirement(line) for line in lines if line and line[0] != "#")}


def test_nothing_is_listed_twice():
    names = [canonicalize_name(requirement.name) for requirement in declared()]
    assert len(names) == len(set(names))


def test_every_constraint_lies_in_its_range():
    pins = pinned()
    for requirement in declared():
        (specifier,) = pins[canonicalize_name(requirement.name)].specifier
        assert specifier.operator == "=="
        assert requirement.specifier.contains(specifier.version), requirement


def test_the_lowest_versions_are_those_that_are_promised():
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    promised = [*PROJECT["dependencies"], *(r for r in PROJECT["optional-dependencies"]["test"] if "pandas" in r)]
    assert [line for line in lines if line[0] != "#"] == [text.replace(">=", "==") for text in promised]
    assert PROJECT["requires-python"].startswith(">=3.11,"), "the comment there, and the Makefile, name Python 3.11"


def test_conda_lists_python_and_the_project_only():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["--constraint constraints.txt", "--editable .[book,test]"]}


@pytest.mark.parametrize("module", ["vmflearn", "vmflearn.sphere"])
def test_importing_is_cheap(module):
    heavy = ("timm", "torchvision", "sklearn", "matplotlib", "scipy.stats", "torch._dynamo")
    script = (
        f"import time, torch; start = time.process_time(); import {module}; "
        "print(time.process_time() - start); import sys; "
        f"print(*[m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(out[0]) < 0.2
    assert out[1].split() == []


@pytest.mark.slow
def test_the_wheel_works_beside_its_core_dependencies_alone(tmp_path, bare_environment):
    """Build the wheel, install it into an empty environment that holds only what pyproject's core list requires."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("vmflearn-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "vmflearn").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if not name.startswith("vmflearn")]

    site, python = bare_environment(tmp_path / "empty", PROJECT["dependencies"])
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        "import sys, vmflearn, vmflearn.sphere, vmflearn.ssl, vmflearn.train, vmflearn.evaluate, vmflearn.data\n"
        "for room in (vmflearn.sphere, vmflearn.ssl, vmflearn.train, vmflearn.evaluate, vmflearn.data):\n"
        "    for name in room.__all__: getattr(room, name)\n"
        "import vmflearn.plots, vmflearn.paper, vmflearn.train.trainer\n"
        "assert 'site-packages' in vmflearn.__file__ and sys.prefix in vmflearn.__file__\n"
        "for absent in ('sphinx', 'jupyterlab', 'jupytext', 'myst_nb', 'nbclient', 'pytest'):\n"
        "    try: __import__(absent)\n"
        "    except ImportError: continue\n"
        "    raise SystemExit(f'{absent} is here')\n"
        "print('ok')\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        [python, "-I", "-W", "error::DeprecationWarning:vmflearn", "-c", script],
        env=clean,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "ok\n", done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("name", ["data", "evaluate", "sphere", "ssl", "train"])
def test_no_public_name_is_that_of_a_file(name):
    """Importing a file of a package sets its name there, and would hide a function that is loaded at its first use."""
    package = importlib.import_module(f"vmflearn.{name}")
    files = {path.stem for path in Path(package.__path__[0]).glob("*.py")}
    assert files.isdisjoint(package.__all__)
