"""The commands of ``scripts/evaluate.py``, each a module that is imported when it is asked for.

A module's docstring begins with the line of help. It has ``add_arguments(parser)`` and ``run(arguments, model)``, which
returns a `Report`; ``NEEDS_MODEL = False`` is a command without a network, whose ``model`` is None, and
``NEEDS_DATA = False`` one without ``--data``.
"""

import argparse
import importlib
from typing import Protocol, cast

from vmflearn.evaluate.model import Model
from vmflearn.evaluate.report import Report

COMMANDS: dict[str, str] = {
    "features": "vmflearn.evaluate.commands.features",
    "fewshot": "vmflearn.evaluate.commands.fewshot",
    "knn": "vmflearn.evaluate.commands.knn",
    "linear": "vmflearn.evaluate.commands.linear",
    "transfer": "vmflearn.evaluate.commands.transfer",
    "retrieval": "vmflearn.evaluate.commands.retrieval",
    "copies": "vmflearn.evaluate.commands.copies",
    "segmentation": "vmflearn.evaluate.commands.segmentation",
    "finetune": "vmflearn.evaluate.commands.finetune",
    "prototypes": "vmflearn.evaluate.commands.prototypes",
}


class Command(Protocol):
    """What a command's module has."""

    NEEDS_MODEL: bool
    NEEDS_DATA: bool
    __doc__: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what this command alone takes."""

    def run(self, arguments: argparse.Namespace, model: Model | None) -> Report:
        """Do it."""


def load_command(name: str) -> Command:
    """The module of a command, one of `COMMANDS`."""
    module = importlib.import_module(COMMANDS[name])
    for needs in ("NEEDS_MODEL", "NEEDS_DATA"):
        if not hasattr(module, needs):
            setattr(module, needs, True)
    return cast(Command, module)
