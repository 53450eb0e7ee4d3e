"""Student notebooks: no solution in them, every check fails until its exercise is solved, and nothing else fails."""

import re

import nbformat
import pytest
from chapters import SRC, chapter_names, read_chapter
from execute import execute
from plain import PlainText
from release import release


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """The folder of the released notebooks of all chapters."""
    folder = tmp_path_factory.mktemp("release")
    release(chapter_names(), folder)
    return folder


def grading(cell, key):
    return cell.metadata.get("nbgrader", {}).get(key, False)


@pytest.mark.parametrize("name", chapter_names())
def test_nothing_is_given_away(students, name):
    teacher = read_chapter(SRC / f"{name}.md")
    student = nbformat.read(students / f"{name}.ipynb", 4)
    text = "\n".join(cell.source for cell in student.cells)
    assert not re.search(r"SOLUTION|\{solution|^[`:]{3,}\{|^\([\w-]+\)=", text, re.M)
    solutions = [cell for cell in teacher.cells if grading(cell, "solution")]
    checks = [cell.source for cell in teacher.cells if grading(cell, "grade")]
    assert 3 <= len(solutions) == len(checks) <= 6
    for cell in solutions:
        body = re.search(r"### BEGIN SOLUTION\n(.*?)\n[ \t]*### END SOLUTION", cell.source, re.S)[1]
        assert body not in text
    assert [cell.source for cell in student.cells if grading(cell, "grade")] == checks
    assert text.count("raise NotImplementedError") == len(solutions)
    code = [cell for cell in student.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("name", chapter_names())
def test_checks_fail_until_solved_and_nothing_else_does(students, name, tmp_path):
    notebook = nbformat.read(students / f"{name}.ipynb", 4)
    unsolved = [cell for cell in notebook.cells if cell.cell_type == "code"]
    solved = [c for c in read_chapter(SRC / f"{name}.md").cells if grading(c, "solution") or grading(c, "grade")]
    for number, cell in enumerate(solved):
        cell.id = f"solved-{number}"
    notebook.cells = unsolved + solved  # as a student does: run all, then solve one after the other in the same kernel
    execute(notebook, name, tmp_path, allow_errors=True)
    for cell in unsolved:
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        assert errors == (["NotImplementedError"] if grading(cell, "grade") else []), cell.source
    for cell in solved:
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert errors == [], f"{cell.source}\n{errors}"


PLAIN = PlainText(
    {"eq-a": "(4.2)", "fig-a": "Figure 4.1", "thm-a": "Theorem 4.1", "ex-a": "Exercise 4.3", "ch-a": "4. Mixtures"},
    {"key": ("Mardia and Jupp", "2000"), "other": ("Wood", "1994")},
)


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("(ch-a)=\n# 4. Mixtures", "# 4. Mixtures"),
        ("See {eq}`eq-a`, {numref}`fig-a`, {ref}`ch-a`.", "See (4.2), Figure 4.1, 4. Mixtures."),
        ("{numref}`Fig. %s <fig-a>` and {ref}`here <ch-a>`", "Fig. 4.1 and here"),
        ("{cite:t}`key`, {cite}`key,other`", "Mardia and Jupp (2000), (Mardia and Jupp, 2000; Wood, 1994)"),
        ("[the notation](notation.md#x) and [out](https://a.b)", "the notation and [out](https://a.b)"),
        (r"$x \sim \vMF(\mu), y^\T, \top$", r"$x \sim \operatorname{vMF}(\mu), y^{\mathsf{T}}, \top$"),
        (r"`\vMF` and `{x}` and `{eq}`", r"`\vMF` and `{x}` and `{eq}`"),
        ("```{math}\n:label: eq-a\na = b\n```", "$$\na = b\n\\tag{4.2}\n$$"),
        ("$$\na = b\n$$ (eq-a)", "$$\na = b\n\\tag{4.2}\n$$"),
        ("```{math}\na &= b\\\\\nc &= d\n```", "$$\n\\begin{split}\na &= b\\\\\nc &= d\n\\end{split}\n$$"),
        (":::{admonition} Before\n:class: tip\n- one\n- two\n:::", "> **Before**\n>\n> - one\n> - two"),
        ("```{note}\nText\n```", "> **Note**\n>\n> Text"),
        (
            "```{exercise-start} Title\n:label: ex-a\n```\n\nDo.\n\n```{exercise-end}\n```",
            "### Exercise 4.3: Title\n\nDo.",
        ),
        (
            ":::{dropdown} Hint\nThink of {eq}`eq-a`.\n:::",
            "<details>\n<summary><b>Hint</b></summary>\n\nThink of (4.2).\n\n</details>",
        ),
        ("Before\n\n````{solution} ex-a\n:class: dropdown\n```python\nx\n```\n````\n\nAfter", "Before\n\nAfter"),
        ("```{prf:theorem} Name\n:label: thm-a\nIt holds.\n```", "> **Theorem 4.1 (Name).** It holds."),
        ("````{tip}\n```python\n{eq}`a`\n```\n````", "> **Tip**\n>\n> ```python\n> {eq}`a`\n> ```"),
        ("```python\n:::{note}\n```", "```python\n:::{note}\n```"),
    ],
)
def test_plain_markdown(myst, plain):
    assert PLAIN.convert(myst) == plain


@pytest.mark.parametrize(
    ("myst", "message"),
    [
        ("```{carousel}\n```", "{carousel} has no plain form"),
        ("{kbd}`x`", "{kbd} has no plain form"),
        ("{eq}`eq-none`", "refers to nothing"),
        (":::{note}\nText", "is not closed"),
    ],
)
def test_what_has_no_plain_form_is_named(myst, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PLAIN.convert(myst)
