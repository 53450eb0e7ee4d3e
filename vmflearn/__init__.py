"""DINO as a von Mises-Fisher mixture: the library under the book.

``vmflearn.sphere`` holds the distribution and its mixture, ``vmflearn.ssl`` the heads, losses and centring of DINO and
DINO-vMF, ``vmflearn.train`` the pretraining loop, ``vmflearn.evaluate`` what judges a representation. The rooms load
when they are used, so that importing the package costs next to nothing.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"
__all__ = ["data", "distributed", "evaluate", "paper", "plots", "sphere", "ssl", "train"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
