"""The readable copies: plain Markdown in any program, solutions folded, code and outputs as stored."""

import base64
import functools
import io
import json
import re
import sys

import nbformat
import pytest
import readable
from chapters import BOOK, MACROS, NOTEBOOKS, chapter_names
from drawing import digest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.base import DocutilsRenderer
from myst_parser.parsers.mdit import create_md_parser
from PIL import Image
from readable import grading, refresh, write_readable


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The readable copies of all stored notebooks."""
    folder = tmp_path_factory.mktemp("readable")
    write_readable(chapter_names(), folder)
    return folder


def tokens(parser, text):
    """All tokens of a text, those of lines included."""
    for token in parser.parse(text):
        yield token
        yield from token.children or []


MYST = create_md_parser(MdParserConfig(enable_extensions=["amsmath", "colon_fence", "dollarmath"]), DocutilsRenderer)
PLAIN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)


def not_plain(text):
    """What MyST's own parser finds in a text beyond Markdown and formulas."""
    for token in tokens(MYST, text):
        if token.type in ("myst_role", "myst_target", "myst_block_break", "colon_fence", "math_block_label"):
            yield token.type, token.content
        if token.type == "fence" and token.info.startswith("{"):
            yield token.type, token.info


@pytest.mark.parametrize("name", chapter_names())
def test_a_copy_is_plain_markdown(copies, name):
    stored = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    copy = nbformat.read(copies / f"{name}.ipynb", 4)
    text = [cell.source for cell in copy.cells if cell.cell_type == "markdown"]
    assert any(list(not_plain(cell.source)) for cell in stored.cells if cell.cell_type == "markdown")
    assert [found for source in text for found in not_plain(source)] == []
    formulas = [t.content for source in text for t in tokens(PLAIN, source) if t.type.startswith("math_")]
    assert len(formulas) > 20
    commands = {command for formula in formulas for command in re.findall(r"\\([A-Za-z]+)", formula)}
    assert commands.isdisjoint(MACROS)
    for source in text:
        assert source.count("<details>") == source.count("</details>")


@pytest.mark.parametrize("name", chapter_names())
def test_code_and_outputs_are_as_stored_and_solutions_are_folded(copies, name):
    stored, copy = (nbformat.read(folder / f"{name}.ipynb", 4) for folder in (NOTEBOOKS, copies))
    pairs = zip(*([cell for cell in book.cells if cell.cell_type == "code"] for book in (stored, copy)), strict=True)
    text = "\n".join(cell.source for cell in copy.cells if cell.cell_type == "markdown")
    folds = re.findall(r"<summary><b>Solution</b></summary>\n\n(.*?)\n\n</details>", text, re.S)
    solutions = 0
    for old, new in pairs:
        assert new.id == old.id
        if grading(old, "solution"):
            solutions += 1
            assert "raise NotImplementedError" in new.source
            assert "END SOLUTION" not in new.source
        else:
            assert new.source == old.source
        if grading(old, "solution") or grading(old, "grade"):
            assert new.outputs == []
        else:
            for output in old.outputs:  # a dark slab on JupyterLab's white page
                output.get("metadata", {}).pop("needs_background", None)
            assert new.outputs == old.outputs
    assert len(folds) == solutions
    assert all("```python" in fold for fold in folds)


def test_a_drawing_travels_inside_its_notebook(copies):
    (cell,) = [c for c in nbformat.read(copies / "06_last_layer.ipynb", 4).cells if "attachments" in c]
    (drawn,) = [t for t in tokens(PLAIN, cell.source) if t.type == "image"]
    assert drawn.attrs["src"] == "attachment:architecture.png"
    assert len(drawn.content) > 100  # its description, which Colab shows in its place
    assert "*Figure 6.1.* Student and teacher" in cell.source
    image = Image.open(io.BytesIO(base64.b64decode(cell.attachments["architecture.png"]["image/png"])))
    assert image.text["Source"] == digest(BOOK / "_static" / "architecture.svg"), "run book/tools/drawing.py"
    assert min(image.size) > 700


def test_a_copy_that_was_changed_is_kept_and_named(tmp_path, monkeypatch, capsys):
    names = chapter_names()[:2]
    monkeypatch.setattr(readable, "plain_text", functools.cache(readable.plain_text))  # reads the whole book
    assert refresh(names, tmp_path) == []
    mine, other = (tmp_path / f"{name}.ipynb" for name in names)
    fresh = other.read_text()
    notebook = json.loads(mine.read_text())
    notebook["cells"].append({"cell_type": "raw", "id": "mine", "metadata": {}, "source": "my note"})
    mine.write_text(json.dumps(notebook))
    other.write_text(fresh)  # the same text again: not a change
    monkeypatch.setattr(sys, "argv", ["readable.py", "--out", str(tmp_path), *names])
    assert readable.main() == 0
    assert capsys.readouterr().out.startswith(f"{mine} has changes of yours and is kept")
    assert "my note" in mine.read_text()
    assert other.read_text() == fresh
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--overwrite"])
    assert readable.main() == 0
    assert "my note" not in mine.read_text()
    assert refresh(names, tmp_path) == []
