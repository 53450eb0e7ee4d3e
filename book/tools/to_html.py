"""Turn plain Markdown into HTML with its formulas left to MathJax: for slides and for the quiz bank."""

from __future__ import annotations

from html import escape

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin


def formula(content: str, options: dict[str, bool]) -> str:
    """A formula between the marks that MathJax and Moodle know."""
    left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return f"{left}{escape(content.strip(), quote=False)}{right}"


MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, renderer=formula)


def to_html(text: str) -> str:
    """The HTML of a plain text."""
    return MARKDOWN.render(text)
