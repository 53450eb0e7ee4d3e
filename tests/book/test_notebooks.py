"""The stored notebooks come out again as they are stored: nbval executes them and compares every text output."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from chapters import BOOK, BUILD, NOTEBOOKS, chapter_names


def nbval(notebook, folder):
    """Run nbval strictly on a copy of `notebook` in `folder`, in this interpreter's environment."""
    shutil.copy(notebook, folder)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "-p",
        "no:cacheprovider",
    ]
    command += ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(BOOK / "tools" / "sanitize.cfg")]
    command += ["--nbval-cell-timeout", "600", str(folder / notebook.name)]
    env = os.environ | {
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),  # neither kernels nor start-up files of the user's own
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", chapter_names())
def test_stored_outputs_come_out_again(name):
    BUILD.mkdir(exist_ok=True)
    # Inside the checkout, where `make book` executes them too: chapter 8 looks for the recipes above its own folder.
    with tempfile.TemporaryDirectory(prefix="nbval-", dir=BUILD) as folder:
        result = nbval(NOTEBOOKS / f"{name}.ipynb", Path(folder))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


def test_an_altered_output_makes_it_fail(example, tmp_path):
    stored = example / "notebooks" / "09_example.ipynb"
    (tmp_path / "as-stored").mkdir()
    assert nbval(stored, tmp_path / "as-stored").returncode == 0

    notebook = nbformat.read(stored, 4)
    output = notebook.cells[-1].outputs[0]
    assert output.text == "two and two is 4\n"
    output.text = "two and two is 5\n"
    nbformat.write(notebook, tmp_path / "09_example.ipynb")
    (tmp_path / "altered").mkdir()
    result = nbval(tmp_path / "09_example.ipynb", tmp_path / "altered")
    assert result.returncode == 1
    assert "1 failed, 1 passed" in result.stdout
