"""The checks of outside addresses and of spelling say what is wrong, and where."""

import shutil

import pytest
from links import summary
from spelling import unknown, words

CHAPTER = """\
---
jupytext: {text_representation: {format_name: myst}}
---

(ch-wrod)=
# A heading

:::{admonition} Bfore you start
:class: tipp
- Prose in a boxx, {ref}`ch-wrod`, $\\frac wrod 2$, `wrod`, and the [wrong](wrod.md) wrod.
:::

```{math}
:label: eq-wrod
wrod
```

````{solution} ex-wrod
Becuase of

```python
wrod = 1
```

this.
````

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-wrod
    caption: A captoin, and
      its secnod line.
  image:
    alt: A descripton.
    width: 1px
---
wrod = "wrod"
```

```bash
wrod
```

The lsat.
"""

MODULE = '''\
"""A modul."""


def wrod(wrod):
    """Return `wrod`, ``wrod`` and :math:`wrod`, by the formla

        wrod = wrod

    Parameters
    ----------
    wrod : wrod
        The vaule.
    """
    return wrod  # a coment is not read
'''

WRONG = {
    "Bfore": 8, "boxx": 10, "wrod": 10, "Becuase": 19, "captoin": 33, "secnod": 34, "descripton": 36, "lsat": 46,
}  # fmt: skip


def lines(found):
    return {word: number for number, word in reversed(list(found))}


def test_prose_is_read_and_nothing_else(tmp_path):
    chapter, module = tmp_path / "a.md", tmp_path / "a.py"
    chapter.write_text(CHAPTER)
    module.write_text(MODULE)
    found = lines(words(chapter))
    assert {word: found.get(word) for word in WRONG} == WRONG
    assert [number for number, word in words(chapter) if word == "wrod"] == [10]
    assert lines(words(module)).keys() >= {"modul", "formla", "vaule"}
    assert lines(words(module)).keys().isdisjoint({"wrod", "coment"})
    assert lines(words(module))["vaule"] == 12


def test_unknown_words_are_those_of_no_dictionary(tmp_path):
    if shutil.which("hunspell") is None:
        pytest.skip("hunspell is not installed")
    own = tmp_path / "own.txt"
    own.write_text("softmax\n")
    assert unknown({"normaliser", "Softmax", "hte"}, own) == {"hte"}


OK = {"status": "working", "filename": "a.md", "lineno": 1, "uri": "https://a", "info": ""}
LOST = {**OK, "status": "broken", "lineno": 7, "uri": "https://b", "info": "404"}


@pytest.mark.parametrize(
    ("found", "lines", "well"),
    [
        ([OK, {**OK, "status": "redirected"}, {**LOST, "status": "unchecked"}], ["2 addresses, 2 reached"], True),
        ([OK, LOST], ["2 addresses, 1 reached", "a.md:7: https://b: 404"], False),
        ([LOST], ["1 addresses, 0 reached", "no address at all", "a.md:7: https://b: 404"], False),
    ],
)
def test_lost_addresses_are_named_with_their_place(found, lines, well):
    said, right = summary(found)
    assert right is well
    assert len(said) == len(lines)
    assert all(line.startswith(start) for line, start in zip(said, lines, strict=True))
