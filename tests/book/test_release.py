"""Student notebooks: no solution in them, and plain Markdown; `test_notebooks` executes them."""

import re
import sys

import nbformat
import pytest
import release as release_tool
from chapters import SRC, chapter_names, read_chapter
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
    assert not re.search(r"(?i)begin.solution|end.solution|\{solution|[`:]{3,}\{|^[ \t]*\([\w-]+\)=", text, re.M)
    answers = [cell.source for cell in student.cells if "<b>Answer</b>" in cell.source]
    assert sum(source.count("<b>Answer</b>") for source in answers) == 5
    for source in answers:  # all of the quiz that is not a question is folded
        quiz = re.sub(r"<details>.*?</details>", "", source.partition("## Quiz")[2].partition("\n## ")[0], flags=re.S)
        given = re.findall(r"\{dropdown\} Answer\n(.*?)\n *[`:]{3,}", "\n".join(c.source for c in teacher.cells), re.S)
        assert len(given) == 5
        assert not [answer for answer in given if plain_words(answer)[:30] in plain_words(quiz)]
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


def plain_words(text):
    return " ".join(re.findall(r"[a-z]+", text.lower()))


EXERCISE = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

(ch-example)=
# 9. An example

1. A question?

   :::{dropdown} Answer
   Yes, by {ref}`ch-example`.

   ```python
   x
   ```
   :::

```{code-cell} ipython3
---
nbgrader: {grade: false, grade_id: ex-sum, solution: true}
---
def total(a, b):
    ### BEGIN SOLUTION
    return a + b
    ### END SOLUTION
```

```{code-cell} ipython3
---
nbgrader: {grade: true, grade_id: ex-sum-check, solution: false}
---
assert total(1, 2) == 3
```
"""


def released(tmp_path, text):
    """The cells of a released chapter."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "09_example.md").write_text(text)
    (path,) = release(["09_example"], tmp_path / "out", src=tmp_path / "src")
    return [cell.source for cell in nbformat.read(path, 4).cells]


def test_a_quiz_in_a_list_is_folded_where_it_stands(tmp_path):
    text, solution, check = released(tmp_path, EXERCISE)
    assert text.split("1. A question?")[1] == (
        "\n\n   <details>\n   <summary><b>Answer</b></summary>\n\n   Yes, by 9. An example.\n\n"
        "   ```python\n   x\n   ```\n\n   </details>"
    )
    assert solution == "def total(a, b):\n    # your code here\n    raise NotImplementedError"
    assert check == "assert total(1, 2) == 3"


GRADE = "grade_id: ex-sum, solution: true"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    ### BEGIN SOLUTION\n", "", "cell 2 (ex-sum): a solution without the lines"),
        ("    ### END SOLUTION\n", "", "cell 2 (ex-sum): a solution without the lines"),
        ("### BEGIN SOLUTION", "### begin solution", "cell 2 (ex-sum): a solution without the lines"),
        ("### END SOLUTION\n", "### END SOLUTION\n    # Begin solution\n", "'Begin solution' would be left"),
        (GRADE, "grade_id: ex-sum, solution: false", "ex-sum-check"),
        ("grade_id: ex-sum-check", "grade_id: ex-other-check", "ex-other-check, ex-sum-check"),
        ("---\nnbgrader: {grade: false, grade_id: ex-sum, solution: true}\n---\n", "", "ex-sum-check"),
        ("   :::\n\n", "   ```{solution} x\n   ```\n\n", "is not closed"),
        ("   x\n", "   > :::{note}\n", "cell 1 ('(ch-example)="),
        ("   ```python\n", "   ```{python}\n", "{python} has no plain form"),
        ("assert", "x = 1  # ### END SOLUTION\nassert", "cell 3 (ex-sum-check): 'END SOLUTION' would be left"),
    ],
)
def test_what_would_give_a_solution_away_is_refused(tmp_path, old, new, message):
    assert old in EXERCISE
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        released(tmp_path, EXERCISE.replace(old, new))
    assert str(error.value).startswith("09_example: ")
    assert not (tmp_path / "out").exists()


def test_the_command_says_it_in_one_line_and_writes_nothing(tmp_path, monkeypatch):
    good, bad = read_chapter(SRC / "01_directions.md"), read_chapter(SRC / "02_distribution.md")
    (cell, *_) = [cell for cell in bad.cells if grading(cell, "solution")]
    cell.source = cell.source.replace("BEGIN", "begin")
    monkeypatch.setattr(release_tool, "read_chapter", lambda path: good if "01" in path.name else bad)
    monkeypatch.setattr(sys, "argv", ["release.py", "--out", str(tmp_path), "01_directions", "02_distribution"])
    with pytest.raises(
        SystemExit, match=r"^nothing is released: 02_distribution: cell \d+ \(ex-distribution-equator\): a"
    ):
        release_tool.main()
    assert list(tmp_path.iterdir()) == []


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
        ("1. a\n   ```python\n   :::{note}\n   ```\n   b", "1. a\n   ```python\n   :::{note}\n   ```\n   b"),
        ("- a\n\n  :::{tip}\n  - b\n    - c\n  :::", "- a\n\n  > **Tip**\n  >\n  > - b\n  >   - c"),
        ("- a\n\n  $$\n  x\n  $$ (eq-a)", "- a\n\n  $$\n  x\n  \\tag{4.2}\n  $$"),
        ("- a\n\n  (ch-a)=\n  b", "- a\n\n  b"),
        ("- a\n\n  ```python\n  {eq}`eq-a` $\\T$\n  ```", "- a\n\n  ```python\n  {eq}`eq-a` $\\T$\n  ```"),
        ("- a\n\n  ````{solution} ex-a\n  secret\n  ````\n\n  b", "- a\n\n  b"),
        ("```{math}\n\\begin{aligned}a\\\\b\\end{aligned}\n```", "$$\n\\begin{aligned}a\\\\b\\end{aligned}\n$$"),
        ("```{prf:proof}\nClear.\n```", "> **Proof.** Clear."),
        ("{math}`\\E`", r"${\mathbb{E}}$"),
        ("{doc}`other`, {doc}`words <other>`", "other, words"),
        ("a\n\n\n\n\nb", "a\n\nb"),
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
