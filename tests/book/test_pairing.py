"""Text and stored notebook of every chapter are one, and every way in which they could differ is found."""

import base64
import json
import shutil
import sys

import check_pair
import nbformat
import pytest
from chapters import BOOK, SRC, chapter_names, read_chapter, select
from check_pair import pairing_faults


@pytest.mark.parametrize("name", chapter_names())
def test_chapter_and_its_notebook_agree(name):
    assert pairing_faults()[name] == []


@pytest.mark.parametrize("name", chapter_names())
def test_code_that_is_shown_fits_the_page(name):
    """A page has 88 columns; what is folded (checks, tests of figures) may be wider and is scrolled."""
    cells = [cell for cell in read_chapter(SRC / f"{name}.md").cells if cell.cell_type == "code"]
    hidden = {"hide-input", "remove-input"}
    shown = [cell for cell in cells if not hidden & set(cell.metadata.get("tags", []))]
    assert len(shown) > 10
    assert [line for cell in shown for line in cell.source.splitlines() if len(line) > 88] == []


def test_every_notebook_has_a_text():
    assert sorted(pairing_faults()) == chapter_names() != []


@pytest.fixture
def copy(example, tmp_path):
    shutil.copytree(example, tmp_path / "copy")
    return tmp_path / "copy"


def faults(folder):
    return "; ".join(pairing_faults(folder / "src", folder / "notebooks")["09_example"])


def test_a_sound_pair_has_no_fault(copy):
    assert faults(copy) == ""


def edit_text(text):
    return text.replace("2 + 2", "2 + 3")


def edit_tags(text):
    return text.replace('print("two', ':tags: [hide-input]\nprint("two')


def add_cell(text):
    return text + "\nOne more paragraph.\n"


@pytest.mark.parametrize("change", [edit_text, edit_tags, add_cell])
def test_a_changed_text_is_found(copy, change):
    source = copy / "src" / "09_example.md"
    source.write_text(change(source.read_text()))
    assert "text and notebook differ" in faults(copy)


def not_executed(cells):
    for cell in cells:
        cell.update(outputs=[], execution_count=None)


def out_of_order(cells):
    cells[0].execution_count, cells[1].execution_count = 2, 1


def skipped(cells):
    cells[1].execution_count = 3


def run_twice(cells):
    cells[0].execution_count, cells[1].execution_count = 1, 1


def large_drawing(cells):
    cells[0].outputs.append(nbformat.v4.new_output("display_data", data={"image/svg+xml": "é" * 75_001}))


def no_code(cells):
    for cell in cells:
        cell.cell_type = "raw"


def blank_description(cells):
    cells[0].metadata["mystnb"]["image"]["alt"] = " "


def stored_error(cells):
    cells[1].outputs.append(nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]))


def stored_warning(cells):
    cells[1].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="UserWarning: something"))


def undescribed_figure(cells):
    cells[1].outputs.append(cells[0].outputs[-1])


def large_image(cells):
    data = {"image/png": base64.b64encode(bytes(150_001)).decode()}
    cells[0].outputs.append(nbformat.v4.new_output("display_data", data=data))


def large_notebook(cells):
    cells[1].outputs.append(nbformat.v4.new_output("stream", name="stdout", text="x" * 1_000_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (not_executed, "not executed once from top to bottom"),
        (out_of_order, "not executed once from top to bottom"),
        (skipped, "not executed once from top to bottom"),
        (run_twice, "not executed once from top to bottom"),
        (no_code, "no code cell"),
        (blank_description, "code cell 1: a figure without alternative text"),
        (large_drawing, "code cell 1: an image of 150,002 bytes"),
        (stored_error, "code cell 2: a stored error, ValueError: no"),
        (stored_warning, "code cell 2: something on the error stream"),
        (undescribed_figure, "code cell 2: a figure without alternative text"),
        (large_image, "code cell 1: an image of 150,001 bytes"),
        (large_notebook, "bytes, more than 1,000,000"),
    ],
)
def test_a_fault_of_the_notebook_is_found(copy, change, message):
    path = copy / "notebooks" / "09_example.ipynb"
    notebook = nbformat.read(path, 4)
    change([cell for cell in notebook.cells if cell.cell_type == "code"])
    nbformat.write(nbformat.from_dict(json.loads(json.dumps(notebook))), path)
    assert message in faults(copy)


def test_missing_and_stray_notebooks_are_found(copy):
    path = copy / "notebooks" / "09_example.ipynb"
    path.rename(path.with_name("10_stray.ipynb"))
    found = pairing_faults(copy / "src", copy / "notebooks")
    assert "no notebook 09_example.ipynb" in found["09_example"][0]
    assert "has no text" in found["10_stray"][0]


def test_cell_ids_follow_content(copy):
    source = copy / "src" / "09_example.md"
    before = [cell.id for cell in read_chapter(source).cells]
    assert len(set(before)) == len(before)
    source.write_text(edit_text(source.read_text()))
    after = [cell.id for cell in read_chapter(source).cells]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_a_path_of_this_machine_in_an_output_is_found(copy):
    from execute import private_paths

    notebook = nbformat.read(copy / "notebooks" / "09_example.ipynb", 4)
    assert private_paths(notebook) == []
    notebook.cells[-1].outputs[0].text = f"{BOOK.parent}/vmflearn/plots.py:3: a warning"
    assert "code cell 2 holds a path" in private_paths(notebook)[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/home/reader/.cache/x", True),
        ("/home/reader", True),
        ("/home/reader2/x", False),
        ("/home/reader-two", False),
        (f"{sys.prefix}/lib/x.py", True),
    ],
)
def test_the_home_folder_and_the_environment_are_looked_for(copy, monkeypatch, text, found):
    from execute import private_paths

    monkeypatch.setenv("HOME", "/home/reader")
    notebook = nbformat.read(copy / "notebooks" / "09_example.ipynb", 4)
    data = {"text/html": f"<img src='{text}'>"}
    notebook.cells[-1].outputs.append(nbformat.v4.new_output("display_data", data=data))
    assert [fault.partition(" holds")[0] for fault in private_paths(notebook)] == ["the output of code cell 2"] * found


def test_a_notebook_with_a_fault_is_not_stored(copy, monkeypatch, capsys):
    """`execute.py store` neither writes a private path nor says that all is well."""
    import execute

    source, target = copy / "src" / "09_example.md", copy / "notebooks" / "09_example.ipynb"
    for name, value in (("SRC", copy / "src"), ("NOTEBOOKS", copy / "notebooks"), ("BUILD", copy / "build")):
        monkeypatch.setattr(execute, name, value)
    monkeypatch.setattr(execute, "select", lambda names: ["09_example"])
    monkeypatch.setattr(sys, "argv", ["execute.py", "store"])
    before = target.read_bytes()
    source.write_text(source.read_text().replace('"two and two is", 2 + 2', f"{str(copy)!r} and {str(BOOK.parent)!r}"))
    assert execute.main() == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "the output of code cell 2 holds a path of this machine" in said.err
    assert target.read_bytes() == before


def test_the_check_says_what_is_wrong_by_its_exit_status(copy, monkeypatch, capsys):
    found = {"09_example": []}
    monkeypatch.setattr(check_pair, "pairing_faults", lambda: found)
    assert check_pair.main() == 0
    assert capsys.readouterr().out == "09_example: ok\n"
    found["10_other"] = ["first", "second"]
    assert check_pair.main() == 1
    assert "10_other: first; second" in capsys.readouterr().out
    found.clear()
    assert check_pair.main() == 1, "no chapter at all is no success"


def test_chapters_are_named_with_or_without_their_folder(copy):
    src = copy / "src"
    (src / "02_early.md").write_text("# 2. Early\n")
    (src / "notation.md").write_text("# Notation\n")
    assert select([], src) == ["02_early", "09_example"]
    assert select(["book/src/09_example.md", "02_early"], src) == ["09_example", "02_early"]
    with pytest.raises(SystemExit, match=r"no such chapter: 03_late; there are: 02_early, 09_example"):
        select(["02_early", "03_late"], src)
    (copy / "empty").mkdir()
    with pytest.raises(SystemExit, match="no chapter in"):
        select([], copy / "empty")


def test_two_equal_cells_have_two_ids(copy):
    source = copy / "src" / "09_example.md"
    source.write_text(source.read_text() + '\n```{code-cell} ipython3\nprint("two and two is", 2 + 2)\n```\n')
    first, second = [cell.id for cell in read_chapter(source).cells][-2:]
    assert second == f"{first}-2"


def test_a_failing_cell_is_named_with_its_traceback(copy):
    from execute import ChapterError, execute

    source = copy / "src" / "09_example.md"
    source.write_text(source.read_text().replace("2 + 2", "2 / 0"))
    with pytest.raises(ChapterError, match=r"09_example: code cell 2 of 2 failed(.|\n)*ZeroDivisionError"):
        execute(read_chapter(source), "09_example", copy / "work")
