"""From text to the typed fields of nested dataclasses, or one line that says which value does not fit.

The type of a field is known before its value is read, so nothing has to be guessed.
"""

import dataclasses
import difflib
import json
import math
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from vmflearn.yaml_text import Quoted, YAMLTextError, guess, is_null, read_yaml, truth

T = TypeVar("T")
LARGEST_WHOLE = 2**63 - 1  # what a tensor of whole numbers holds
LARGEST = 10**6  # no setting comes near it, and products of such numbers leave float32


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key, the value and what is possible."""


@dataclass(frozen=True)
class Limits:
    """Least and largest value of a number, and what its error line says it must do."""

    must: str
    least: float
    most: float = math.inf


Whole = Annotated[int, Limits("be at least 0", 0)]
Count = Annotated[int, Limits("be at least 1", 1)]
Several = Annotated[int, Limits("be at least 2", 2)]
Amount = Annotated[float, Limits("be at least 0", 0)]
Share = Annotated[float, Limits("lie in [0, 1]", 0, 1)]
SMALLEST = 1e-6  # what is divided by must not vanish in float32, its square neither
Temperature = Annotated[float, Limits(f"be above 0 ({SMALLEST} or more)", SMALLEST)]


@dataclass(frozen=True)
class Variants:
    """Sections of which a configuration has one, chosen by their key ``name``; ``known`` gives them by it.

    ``known`` is called when a configuration is read: sections may be defined in modules that use configurations.
    """

    known: Callable[[], Mapping[str, type]]
    default: str
    otherwise: str = ""
    """What to do for a name that is not known."""

    def chosen(self, settings: Any, section: str) -> type:
        """The dataclass that settings name."""
        name, known = self.default, self.known()
        if isinstance(settings, dict):
            name = settings.get("name", name)
        if name not in known:
            raise ConfigError(f"{section}.name must be one of {', '.join(known)}, not {shown(name)}{self.otherwise}")
        return known[name]


def apply_override(cls: type, settings: dict[str, Any], override: str) -> None:
    """Put the value of one override, ``section.key=value``, into nested settings for ``build``.

    A value of one piece stays as it stands: no YAML, so that a path may hold ``#`` or ``: ``. Quotes around all of it
    are taken off; a path that is itself in quotes, or called ``null``, is given in quotes. Pairs, sections and what is
    inside a free mapping are YAML. A section is merged into what is there; anything else is replaced.
    """
    key, equals, text = override.lstrip("-").partition("=")
    if not equals or not key:
        raise ConfigError(f"override {shown(override)} is not of the form --section.key=value")
    hint: Any = cls
    *sections, last = key.split(".")
    for part in (*sections, last):
        hint = typing.get_type_hints(hint).get(part, Any) if dataclasses.is_dataclass(hint) else Any
    here = settings
    for section in sections:
        here = here.setdefault(section, {})
        if not isinstance(here, dict):
            raise ConfigError(f"override {shown(override)}: {section!r} is a value, not a section")
    if not (hint is Any or dataclasses.is_dataclass(hint) or typing.get_origin(hint) in (tuple, dict)):
        here[last] = _unquoted(text)
        return
    try:
        value = read_yaml(text)
    except YAMLTextError as error:
        raise ConfigError(f"override {shown(override)} {error}") from None
    whole_section = dataclasses.is_dataclass(hint) and isinstance(value, dict) and isinstance(here.get(last), dict)
    here[last] = {**here[last], **value} if whole_section else value


def _unquoted(text: str) -> str:
    """An override's single value: as it stands, or what quotes enclose (JSON's, or single ones doubled inside)."""
    if re.fullmatch(r"'([^']|'')*'", text):
        return Quoted(text[1:-1].replace("''", "'"))
    try:
        inner = json.loads(text, strict=False) if text.startswith('"') else None
    except ValueError:
        inner = None
    return Quoted(inner) if isinstance(inner, str) else text or Quoted()


def shown(value: Any) -> str:
    """A value as an error line shows it: not pages of it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


def build(cls: type[T], settings: Any, prefix: str = "") -> T:
    """Make a dataclass of a mapping, refusing what does not fit.

    Parameters
    ----------
    cls : type
        A dataclass of ``bool``, ``int``, ``float``, ``str``, ``Literal``, one of them or None, tuples,
        ``dict[str, Any]`` and such dataclasses. ``Annotated`` with ``Limits`` restricts a number.
    settings : mapping
        Field to text, or to lists and mappings of text, as ``read_yaml`` gives them.
    prefix : str
        What stands before a field's name in an error line.

    Raises
    ------
    ConfigError
        For an unknown key, a wrong type, or a number out of its limits.
    """
    if not isinstance(settings, dict):
        raise ConfigError(f"{prefix.rstrip('.')} must be a section of keys, not {shown(settings)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hope = f"; did you mean {prefix}{near[0]}?" if near else f"; known here: {', '.join(hints)}"
            raise ConfigError(f"unknown key {shown(name)[1:-1]}{hope}")
        values[key] = _convert(hints[key], value, name)
    return cls(**values)


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Read one value, text or a list or mapping of it, by the type of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, f"{name}.")  # type: ignore[arg-type]
    if origin is Annotated:
        base, limits = arguments
        if isinstance(limits, Variants):
            return build(limits.chosen(value, name), value, f"{name}.")
        number = _convert(base, value, name)
        if not limits.least <= number <= limits.most:
            raise ConfigError(f"{name} must {limits.must}, not {number}")
        return number
    if origin is types.UnionType:
        return None if is_null(value) else _convert(next(a for a in arguments if a is not types.NoneType), value, name)
    if origin is Literal:
        for argument in arguments:
            if argument == (truth(value) if isinstance(argument, bool) else value):
                return argument
        wanted = f"one of {', '.join(map(str, arguments))}"
    elif origin is tuple:
        if isinstance(value, list) and len(value) == len(arguments):
            return tuple(_convert(a, v, name) for a, v in zip(arguments, value, strict=True))
        wanted = "a pair of numbers"
    elif origin is dict:
        if isinstance(value, dict):
            return guess(value)
        wanted = "a mapping of keys"
    elif hint is bool:
        if (answer := truth(value)) is not None:
            return answer
        wanted = "true or false"
    elif hint is str:
        if isinstance(value, str) and not is_null(value):
            return _text(value, name)
        wanted = "text, in quotes if it is meant"
    else:
        try:
            number = hint(value)
        except (TypeError, ValueError):  # no number at all, or a whole one of thousands of digits
            number = math.nan
        most = LARGEST_WHOLE if hint is int else LARGEST
        if abs(number) <= most:
            return number
        wanted = "a whole number" if hint is int else "a finite number"
        wanted += "" if math.isnan(number) else f" of size at most {most:,}"
    raise ConfigError(f"{name} must be {wanted}, not {shown(value)}")


def _text(value: str, name: str) -> str:
    """Text that can be a path: not empty, without NUL and half characters."""
    if not value:
        raise ConfigError(f"{name} must not be empty")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ConfigError(f"{name} holds half a character: {shown(value)}") from None
    if "\0" in value:
        raise ConfigError(f"{name} must not hold a NUL character: {shown(value)}")
    return str(value)
