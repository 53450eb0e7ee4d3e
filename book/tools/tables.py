"""Tables of the site keep together what is read together: 2.53 ms, 0.718 ± 0.022, K = 50, 6. DINO's last layer.

A column becomes as narrow as its words allow, and would put a unit below its number.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes

BREAK = re.compile(
    r"(?<=\d) (?=(?:[nµm]?s|h|%|[KMG]i?B)(?!\w))|(?<=\d) (?=±)|(?<=[±≥≤<]) (?=\d)|(?<=\w) (?==)|(?<==) (?=\d)"
    r"|(?<=\d\.) (?=\w)"
)
"""A space between a number and its unit, around a sign, after the number of a chapter."""


def joined(text: str) -> str:
    """The text with a space that does not break in these places."""
    return BREAK.sub("\N{NO-BREAK SPACE}", text)


def join(app: Any, document: nodes.document) -> None:
    """Sphinx calls this with each page that was read: join the words of its tables, not code and formulas."""
    for cell in document.findall(nodes.entry):
        for text in list(cell.findall(nodes.Text)):
            if not isinstance(text.parent, nodes.literal | nodes.math):
                text.parent.replace(text, nodes.Text(joined(text)))
