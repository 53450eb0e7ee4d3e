"""No module of the package imports another in a circle, not within a function either.

The contract of import-linter orders the rooms; this looks into them. An import for types alone is never executed, and
does not count.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules(package):
    """Files by the names of their modules."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def executed(node):
    """The import statements below a node, wherever they stand, but for those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from executed(ast.Module(child.orelse, []))
        else:
            yield from executed(child)


def imported(name, path, known):
    """The modules of ``known`` that a module names in its imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for statement in executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            named = [alias.name for alias in statement.names]
        else:
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            home = ".".join([*above, *filter(None, [statement.module])])
            named = [f"{home}.{alias.name}" for alias in statement.names]
            named = [each if each in known else home for each in named]
        yield from (each for each in named if each in known and each != name)


def circle(package):
    """Modules that import each other in turn, the first named twice; an empty list if there are none."""
    known = modules(package)
    try:
        TopologicalSorter({name: set(imported(name, path, known)) for name, path in known.items()}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_another_in_a_circle():
    assert len(modules(ROOT / "vmflearn")) > 100
    assert circle(ROOT / "vmflearn") == []


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("import house.b", "from house import a", True),
        ("from .b import x", "def f():\n    from .a import y", True),
        ("from . import b", "class A:\n    import house.a", True),
        ("from house.b import x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.a", False),
        ("import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import house.b", "import house.a", True),
        ("from house.b import x", "import os", False),
    ],
)
def test_a_circle_is_found(first, second, found, tmp_path):
    house = tmp_path / "house"
    house.mkdir()
    for name, text in (("__init__", ""), ("a", first), ("b", second)):
        (house / f"{name}.py").write_text(text)
    assert bool(circle(house)) == found
