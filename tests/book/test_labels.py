"""References in words: numbers count by kind and chapter as on the site, authors are named as they are cited."""

import pytest
from labels import book_labels, citations

FIRST = """\
(ch-one)=
# 1. One

(sec-part)=
## A part of `it`

$$
a = b
$$ (eq-a)

```{math}
:nowrap:
:label: eq-b
c = d
```

- in a list

  $$
  e = f
  $$ (eq-c)

  :::{prf:theorem} Name
  :label: thm-a
  It holds.
  :::

```{exercise-start} Title
:label: ex-a
```

```{exercise-end}
```

```{prf:lemma}
:label: lem-a
It helps.
```

```{exercise}
:class: x
:label: ex-b
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig-a, caption: A.}
---
```

```{figure} _static/b.svg
---
alt: A drawing.
name: fig-b
---
Drawn.
```
"""


def test_each_kind_is_counted_by_itself_in_each_chapter(tmp_path):
    head = "---\nkernelspec: {display_name: Python 3, language: python, name: python3}\n---\n\n"
    (tmp_path / "01_one.md").write_text(head + FIRST)
    (tmp_path / "12_two.md").write_text(head + "(ch-two)=\n# 12. Two\n\n$$\nx\n$$ (eq-x)\n")
    (tmp_path / "notation.md").write_text(
        "# Notation\n\n$$\ny\n$$ (eq-y)\n\n```{figure} y.svg\n---\nname: fig-y\n---\n```\n"
    )
    assert book_labels(tmp_path) == {
        **{"ch-one": "1. One", "sec-part": "A part of `it`", "ch-two": "12. Two", "thm-a": "Theorem 1.1"},
        **{"eq-a": "(1.1)", "eq-b": "(1.2)", "eq-c": "(1.3)", "eq-x": "(12.1)", "lem-a": "Lemma 1.1"},
        **{"ex-a": "Exercise 1.1", "ex-b": "Exercise 1.2", "fig-a": "Figure 1.1", "fig-b": "Figure 1.2"},
        "eq-y": "the equation on the notation page",
        "fig-y": "the figure on the notation page",
    }


@pytest.mark.parametrize(
    ("authors", "cited"),
    [
        ("Wood, Andrew", "Wood"),
        ("Mardia, Kanti and Jupp, Peter", "Mardia and Jupp"),
        ("Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff", "Hinton et al."),
        ("Kalamkar, Dhiraj and others", "Kalamkar et al."),
        ("Narang, S. and Devlin, J. and others", "Narang et al."),
        ("Steele, Jr., Guy L.", "Steele"),
        ("Capp{\\'e}, Olivier and Gr{\\\"u}n, Bettina", "Cappé and Grün"),
        ("van der Maaten, Laurens", "Maaten"),
        ("{DLMF}", "DLMF"),
    ],
)
def test_authors_are_named_as_they_are_cited(tmp_path, authors, cited):
    (tmp_path / "x.bib").write_text(f"@misc{{key, title = {{T}}, author = {{{authors}}}, year = {{2024}}}}\n")
    assert citations(tmp_path / "x.bib") == {"key": (cited, "2024")}
