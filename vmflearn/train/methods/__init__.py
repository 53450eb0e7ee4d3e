"""The methods that the trainer knows, by their names in a configuration.

A method is a file here: a `Settings` dataclass, which is the configuration's section ``method``, and a class of
`vmflearn.train.methods.base.Method`. The loop names none of them.
"""

from vmflearn.train.methods.base import Method
from vmflearn.train.methods.dino import DINO
from vmflearn.train.methods.ibot import IBOT
from vmflearn.train.methods.msn import MSN

METHODS: dict[str, type[Method]] = {"dino": DINO, "ibot": IBOT, "msn": MSN}

__all__ = ["DINO", "IBOT", "METHODS", "MSN", "Method"]
