"""Methods of a reader's own, from a Python file that calls `vmflearn.train.methods.add_method`."""

import importlib.util
import sys
import traceback
from pathlib import Path

from vmflearn.train.methods import METHODS
from vmflearn.train.typed import ConfigError


def add_methods_from(path: str | Path) -> list[str]:
    """Execute a Python file that adds methods; every process of a run does it, before it reads a configuration.

    Parameters
    ----------
    path : path
        What is in the file is executed as it stands. Files beside it are not found by ``import``.

    Returns
    -------
    list of str
        Names of the methods that it has added.

    Raises
    ------
    ConfigError
        If there is no such file, it fails (with the line where), or it adds no method.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(f"method file {path} {'is no file' if path.exists() else 'does not exist'}")
    name, before = f"vmflearn_method_file_{path.stem}", dict(METHODS)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"method file {path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks its annotations up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        METHODS.clear()
        METHODS.update(before)
        raise ConfigError(f"method file {path}{_line(error, path)}: {type(error).__name__}: {error}") from error
    added = [each for each, method in METHODS.items() if before.get(each) is not method]
    if not added:
        raise ConfigError(
            f"method file {path} adds no method: put @add_method of vmflearn.train.methods above its class"
        )
    return added


def _line(error: Exception, path: Path) -> str:
    """Where in the file an error arose."""
    if isinstance(error, SyntaxError):  # its message has the line
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
