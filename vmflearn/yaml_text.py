"""YAML without guesses: a scalar stays the text that was written, for whoever knows its type to convert.

YAML 1.1, as PyYAML reads it, takes ``12:30`` for 750, ``010`` for 8, ``no`` for false, ``2024-01-01`` for a date and
``1e-3`` for text, before anything can say that a path, a name or a number was meant. Where no type is known, ``guess``
applies rules of one line each. What could lose a setting without a word is refused with its line: a key that stands
twice (PyYAML keeps the last) and an alias.
"""

import math
from typing import Any

import yaml

MOST_NESTED = 20


class Quoted(str):
    """Text that stood in quotes or in a block: never null, a number or a truth value."""


class YAMLTextError(ValueError):
    """A text that is not read; the message goes on after its name: "c.yaml" + " is not YAML: ..."."""


class _Loader(yaml.BaseLoader):
    """Composes nodes without tags, anchors and aliases, and not too deep, which would end in a RecursionError."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise YAMLTextError(f"has an anchor or alias ({event.anchor}) in line {line}; write the value out")
        if event.tag not in (None, "!"):
            raise YAMLTextError(f"has a tag ({event.tag}) in line {line}; leave it out")
        if self.depth == MOST_NESTED:
            raise YAMLTextError(f"is nested more than {MOST_NESTED} deep in line {line}")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Writes no alias, and quotes what ``guess`` would take for something else, and unusual line ends and spaces."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if isinstance(guess(text), str) and text.isprintable() else '"'
    ),
)


def read_yaml(text: str) -> Any:
    """Nested dictionaries and lists of ``str``, with ``Quoted`` for what stood in quotes; None for an empty text.

    Raises
    ------
    YAMLTextError
        In one line, for what is not YAML, and for keys that stand twice, tags, anchors, aliases and deep nesting.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise YAMLTextError(f"is not YAML: {' '.join(str(error).split())}") from None
    return None if node is None else _plain(node)


def _plain(node: yaml.Node) -> Any:
    """A node as dictionaries, lists and text."""
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style is None else Quoted(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise YAMLTextError(f"has a key that is no word in line {line}")
        if key.value in lines:
            raise YAMLTextError(f"has the key {key.value} twice, in lines {lines[key.value]} and {line}; keep one")
        lines[key.value], found[key.value] = line, _plain(value)
    return found


def is_null(value: Any) -> bool:
    """Whether a value stands for nothing: ``null``, ``~`` or an empty place, not in quotes."""
    return isinstance(value, str) and not isinstance(value, Quoted) and value.lower() in ("", "~", "null")


def truth(value: Any) -> bool | None:
    """``true`` and ``false``, in small letters or capitals; None for all else, ``yes`` and ``on`` included."""
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def guess(value: Any) -> Any:
    """What ``read_yaml`` gave, where no type is known: null, true, false, decimal numbers (1e-3 too), and else text."""
    if isinstance(value, dict):
        return {key: guess(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [guess(inner) for inner in value]
    if isinstance(value, Quoted):
        return str(value)
    if is_null(value):
        return None
    if (answer := truth(value)) is not None:
        return answer
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if kind is int or math.isfinite(number):
            return number
    return value


def write_yaml(data: Any) -> str:
    """Nested dictionaries, lists, numbers and text as YAML that comes back equal, from here and from PyYAML."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
