"""The methods that the trainer knows, by their names in a configuration.

A method is a file: a `Settings` dataclass, which is the configuration's section ``method``, and a class of
`vmflearn.train.methods.base.Method`. The loop names none of them. Those of this project stand here; one of your own is
made known by `add_method`, from any file. The book's page "Add a method" writes one.
"""

import dataclasses
from typing import TypeVar

from vmflearn.train.methods.base import Aim, Method, Part, Work, divided
from vmflearn.train.methods.dino import DINO
from vmflearn.train.methods.ibot import IBOT
from vmflearn.train.methods.msn import MSN

METHODS: dict[str, type[Method]] = {"dino": DINO, "ibot": IBOT, "msn": MSN}
"""Every method that is known, by its name."""

M = TypeVar("M", bound=type[Method])


def add_method(method: M) -> M:
    """Make a method known, under the name that its settings have by default; a decorator of its class.

    Executing the same definition again (a notebook's cell, say) replaces it.

    Parameters
    ----------
    method : type
        A class of `Method` with all hooks that have no default, and ``Settings``, a dataclass whose field ``name`` has
        the method's name as default.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    ValueError
        If a hook is missing, the settings do not name the method, or the name is another method's.
    """
    told, settings = f"method {method.__name__}", getattr(method, "Settings", None)
    if missing := sorted(method.__abstractmethods__):
        raise ValueError(f"{told} lacks {', '.join(missing)}: define each, with nothing to do if there is nothing")
    fields = dataclasses.fields(settings) if isinstance(settings, type) and dataclasses.is_dataclass(settings) else ()
    name = next((field.default for field in fields if field.name == "name"), None)
    if not isinstance(name, str):
        raise ValueError(
            f"{told} has no name: give it Settings, a dataclass with a field such as name: Literal['mine'] = 'mine'"
        )
    known = METHODS.get(name, method)
    if (known.__module__, known.__qualname__) != (method.__module__, method.__qualname__):
        raise ValueError(f"{told}: the name {name} is that of {known.__module__}.{known.__qualname__}; choose another")
    METHODS[name] = method
    return method


__all__ = ["DINO", "IBOT", "METHODS", "MSN", "Aim", "Method", "Part", "Work", "add_method", "divided"]
