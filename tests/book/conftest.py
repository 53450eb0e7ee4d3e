"""The tools of the book are scripts in book/tools; the tests import them from there."""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "book" / "tools"
sys.path.insert(0, str(TOOLS))

CHAPTER = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

(ch-example)=
# 9. An example

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-example-line
    caption: A line.
  image:
    alt: A line that rises from left to right.
---
import matplotlib.pyplot as plt
_ = plt.figure(figsize=(1, 1)).gca().plot([0, 1])
```

```{code-cell} ipython3
print("two and two is", 2 + 2)
```
"""


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    """A folder with `src/09_example.md` and the notebook executed from it; copy it before changing anything."""
    import nbformat
    from chapters import read_chapter
    from execute import execute

    folder = tmp_path_factory.mktemp("example")
    for name in ("src", "notebooks", "work"):
        (folder / name).mkdir()
    source = folder / "src" / "09_example.md"
    source.write_text(CHAPTER)
    notebook = execute(read_chapter(source), "09_example", folder / "work")
    nbformat.write(notebook, folder / "notebooks" / "09_example.ipynb")
    return folder
