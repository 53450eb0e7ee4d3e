"""Docstrings as reStructuredText: they are written to be read in a terminal, where |x| is a length.

Sphinx calls `before` with each docstring as it is written, `after` when napoleon has turned its sections into fields,
and `rejoin` with each page when it is read.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes

SECTION = re.compile(r"^\S.*\n-{3,}$", re.M)
AS_IT_IS = re.compile(r"(``.*?``|(?::[\w:]+:)?`[^`]*`|\.\. math::(?:.|\n(?!\n\S))*|>>> (?:.(?!\n\n))*)", re.S)
DEFAULT = re.compile(r"<(?:class '|function )[\w.]*?(\w+)'?>")
TYPE = re.compile(r"^(\s*:(?:type [^:]+|rtype):) ([^`]+)$")


def literal_blocks(text: str) -> str:
    """Mark indented blocks of an introduction, its formulas in plain text, as such: their lines are kept."""
    out: list[str] = []
    for block in text.split("\n\n"):
        before = out[-1] if out else ""
        inside = before.startswith("   ") or before == "::"
        if block.startswith("   ") and not before.lstrip().startswith((".. ", "- ", "* ")):
            out += [block.replace("``", "")] if inside else ["::", block.replace("``", "")]
        else:
            out.append(block)
    return "\n\n".join(out)


def escaped(text: str) -> str:
    """Bars and a name's last underscore as characters; code, sessions, roles and formulas as they are."""
    parts = AS_IT_IS.split(text)
    parts[::2] = [re.sub(r"\||(?<=\w)_(?=[\s,.;)])", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


PARAMETERS = re.compile(r"^Parameters\n-+\n.*?(?=^\S[^\n]*\n-{3,}$|\Z)", re.M | re.S)
NAMES = re.compile(r"^\w+(?:, \w+)+(?= :|$)", re.M)
COMMA = "\ue001"  # in place of one between parameters that are said to be something together: napoleon would part them
COLON = "\ue000"  # in place of one in a property's first line, which napoleon takes for the end of a type


def before(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Prepare a docstring for napoleon."""
    text = "\n".join(lines)
    start = found.start() if (found := SECTION.search(text)) else len(text)
    introduction = literal_blocks(text[:start])
    pieces = re.split(r"(^::\n\n(?:   .*\n?|\n(?=   ))*)", introduction, flags=re.M)
    pieces[::2] = map(escaped, pieces[::2])
    sections = PARAMETERS.sub(
        lambda found: NAMES.sub(lambda names: names[0].replace(", ", COMMA), found[0]), escaped(text[start:])
    )
    lines[:] = ("".join(pieces) + sections).split("\n")
    if what in ("property", "attribute"):
        lines[0] = lines[0].replace(":", COLON)


def after(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Show types and shapes as code: words of them are no references."""
    lines[:] = [TYPE.sub(r"\1 ``\2``", line).replace(COLON, ":") for line in lines]


def rejoin(app: Any, document: nodes.document) -> None:
    """Put commas back between the names of parameters."""
    for text in list(document.findall(nodes.Text)):
        if COMMA in text:
            text.parent.replace(text, nodes.Text(text.replace(COMMA, ", ")))


def signature(
    app: Any, what: str, name: str, thing: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show a class or function that is a default by its name: `str` for "<class 'str'>"."""
    return arguments and DEFAULT.sub(r"\1", arguments), returned


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what a class has from another library, and a named tuple's fields, which its docstring lists."""
    owner = getattr(thing, "__objclass__", None)  # a built-in method has this and no module
    home = getattr(getattr(thing, "fget", thing), "__module__", None) or getattr(owner, "__module__", "vmflearn")
    return None if home.startswith("vmflearn") and type(thing).__name__ != "_tuplegetter" else True
