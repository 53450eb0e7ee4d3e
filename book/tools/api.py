"""Write the pages of the library's reference: what is public in each package, for Sphinx to fill from the docstrings.

Public is what a package lists in `__all__`; in a package without one, every function and class of its modules whose
name does not begin with an underscore. `book/conf.py` calls `write_pages`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any

from docstrings import escaped
from sphinx.pycode import ModuleAnalyzer

PACKAGES = {  # in the order of the book; the title of each page
    "sphere": "The sphere",
    "ssl": "Self-distillation",
    "views": "Views of images",
    "backbones": "Backbones",
    "data": "Data",
    "train": "Training",
    "train.methods": "Methods",
    "monitor": "Monitoring",
    "weights": "Weights",
    "evaluate": "Evaluation",
    "paper": "The paper's tables",
}
INTRODUCTION = """\
Library reference
=================

Every public function and class of the library, from its docstring. The chapters say why a thing is as it is; these
pages say what goes in, in which shape, what comes out, and what is refused.

.. list-table::
   :class: names
   :widths: auto

"""


@dataclass(frozen=True)
class Entry:
    """A public name: where it is imported from, and what it is."""

    path: str
    thing: Any

    def directive(self, public: list[Any]) -> str:
        """What Sphinx is told of it; what it has from a class that is public itself is said there."""
        if inspect.isclass(self.thing):
            said = issubclass(self.thing, BaseException) or any(base in public for base in self.thing.__mro__[1:])
            inherited = "" if said else "   :inherited-members:\n"
            bases = "" if self.thing.__bases__ == (object,) else "   :show-inheritance:\n"
            return f".. autoclass:: {self.path}\n   :members:\n{inherited}{bases}"
        if callable(self.thing):
            return f".. autofunction:: {self.path}\n"
        return f".. py:data:: {self.path}\n\n{indent(self.text, '   ')}\n"

    @property
    def summary(self) -> str:
        """What it is, in the first paragraph of its docstring."""
        text = inspect.getdoc(self.thing) if callable(self.thing) else self.text
        return escaped(" ".join(text.partition("\n\n")[0].split()))

    @property
    def text(self) -> str:
        """The docstring of a constant, which stands under its assignment in one of the package's modules."""
        package, _, name = self.path.rpartition(".")
        home = importlib.import_module(package)
        for module in (home, *modules(home)):
            if found := ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", name)):
                return "\n".join(found).strip()
        raise ValueError(f"{self.path} has no docstring")


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """The modules of a package, without its packages."""
    for found in pkgutil.iter_modules(package.__path__):
        if not found.ispkg:
            yield importlib.import_module(f"{package.__name__}.{found.name}")


def entries(name: str) -> list[Entry]:
    """What is public in the package `vmflearn.name`, and defined below it."""
    package = importlib.import_module(f"vmflearn.{name}")
    if listed := getattr(package, "__all__", None):
        found = [Entry(f"{package.__name__}.{public}", getattr(package, public)) for public in listed]
        return [e for e in found if getattr(e.thing, "__module__", package.__name__).startswith(package.__name__)]
    return [
        Entry(f"{module.__name__}.{public}", thing)
        for module in modules(package)
        for public, thing in vars(module).items()
        if not public.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
    ]


def page(name: str) -> str:
    """The page of a package: what it is for, a table of its names, and each of them."""
    package = importlib.import_module(f"vmflearn.{name}")
    title, found = PACKAGES[name], entries(name)
    public = [entry.thing for entry in found]
    head = f"{title}\n{'=' * len(title)}\n\n``vmflearn.{name}``. {inspect.getdoc(package)}\n\n"
    rows = "".join(f"   * - `~{entry.path}`\n     - {entry.summary}\n" for entry in found)
    table = f".. list-table::\n   :class: names\n   :widths: auto\n\n{rows}\n"
    return head + table + "\n".join(entry.directive(public) for entry in found)


def file_name(name: str) -> str:
    """The page of a package as Sphinx names it."""
    return f"api_{name.replace('.', '_')}"


def write_pages(folder: Path) -> None:
    """Write the reference, `api.rst` and a page for each package, into a folder."""
    rows, tree = "", ".. toctree::\n   :hidden:\n\n"
    for name, title in PACKAGES.items():
        first = inspect.getdoc(importlib.import_module(f"vmflearn.{name}")).partition("\n\n")[0].replace("\n", " ")
        rows += f"   * - :doc:`{title} <{file_name(name)}>`\n     - ``vmflearn.{name}``\n     - {first}\n"
        tree += f"   {file_name(name)}\n"
        (folder / f"{file_name(name)}.rst").write_text(page(name), encoding="utf-8")
    (folder / "api.rst").write_text(f"{INTRODUCTION}{rows}\n{tree}", encoding="utf-8")
