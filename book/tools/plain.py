"""Turn MyST Markdown into plain Markdown: JupyterLab by itself shows directives and roles as they are written."""

from __future__ import annotations

import re
from textwrap import indent

import yaml
from chapters import MACROS

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ \t]*(?P<argument>.*)$")
TOKEN = re.compile(  # code in a block, a role, code in a line: whichever begins first
    r"^(?P<lead>(?:> |[ \t])*)(?P<fence>`{3,}).*?^(?P=lead)(?P=fence)[ \t]*$"
    r"|\{(?P<role>[a-z:]+)\}(?P<tick>`+)(?P<body>.+?)(?P=tick)"
    r"|(?P<quote>`+)[^`]+(?P=quote)",
    re.S | re.M,
)
TARGET = re.compile(r"^[ \t]*\([\w-]+\)=\s*$\n?", re.M)
EQUATION_LABEL = re.compile(r"^([ \t]*)\$\$[ \t]*\(([\w-]+)\)[ \t]*$", re.M)
LOCAL_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\([\w./-]+\.(?:md|ipynb)(?:#[\w-]+)?\)")
ADMONITIONS = {"note", "tip", "hint", "important", "warning", "caution", "attention", "danger", "seealso"}


class PlainText:
    """Converts the text of one chapter; `words` and `cites` say what its references mean.

    Solutions are folded with `solutions=True`, and left out without.
    """

    def __init__(self, words: dict[str, str], cites: dict[str, tuple[str, str]], *, solutions: bool = False) -> None:
        self.words = words
        self.cites = cites
        self.solutions = solutions

    def convert(self, text: str) -> str:
        """The plain Markdown of `text`; ValueError names a directive, a role or a reference that it does not know."""
        return re.sub(r"\n{3,}", "\n\n", self.inline(self.blocks(text))).strip()

    def blocks(self, text: str) -> str:
        """Rewrite every directive, the nested ones first; one in a list keeps its indentation."""
        out: list[str] = []
        lines = text.split("\n")
        while lines:
            line = lines.pop(0)
            fence = FENCE.match(line)
            if fence is None:
                out.append(line)
                if code := re.match(r"^[ \t]*(`{3,})", line):  # a code block: nothing in it is a directive
                    mark = code[1]
                    while lines:
                        out.append(lines.pop(0))
                        if out[-1].strip() == mark:
                            break
                continue
            end = next((i for i, inner in enumerate(lines) if inner.strip() == fence["mark"]), None)
            if end is None:
                raise ValueError(f"the directive {line!r} is not closed")
            body, lines = [inner.removeprefix(fence["indent"]) for inner in lines[:end]], lines[end + 1 :]
            options = {}
            if body[:1] == ["---"]:  # options in YAML, which may be long
                end = body.index("---", 1)
                options, body = yaml.safe_load("\n".join(body[1:end])), body[end + 1 :]
            while body and (option := re.match(r"^:([\w-]+):[ \t]*(.*)$", body[0])):
                options[option[1]] = option[2]
                body.pop(0)
            plain = self.directive(fence["name"], fence["argument"].strip(), options, "\n".join(body).strip())
            out.append(indent(plain, fence["indent"]))
        return "\n".join(out)

    def directive(self, name: str, argument: str, options: dict[str, str], body: str) -> str:
        """One directive in plain Markdown."""
        label = self.words.get(options.get("label", ""), "")
        if name == "exercise-end" or (name == "solution" and not self.solutions):
            return ""
        if name in ("exercise", "exercise-start"):
            return f"### {label}: {argument}\n\n{self.blocks(body)}"
        if name == "math":
            return self.display(body, label)
        if name in ("dropdown", "solution"):
            argument = "Solution" if name == "solution" else argument
            return f"<details>\n<summary><b>{argument}</b></summary>\n\n{self.blocks(body)}\n\n</details>"
        if name == "admonition" or name in ADMONITIONS:
            return quote(f"**{argument or name.capitalize()}**\n\n{self.blocks(body)}")
        if name == "prf:proof":
            return quote(f"**Proof.** {self.blocks(body)}")
        if name.startswith("prf:"):
            title = f" ({argument})" if argument else ""
            return quote(f"**{label or name[4:].capitalize()}{title}.** {self.blocks(body)}")
        if name == "figure":
            return f"![{options['alt']}]({argument})\n\n*{self.words[options['name']]}.* {self.blocks(body)}"
        if name in ("code-block", "code"):
            return f"```{argument}\n{body}\n```"
        raise ValueError(f"the directive {{{name}}} has no plain form; use one of those in book/tools/plain.py")

    def display(self, body: str, label: str) -> str:
        """A displayed formula with its number; several lines are aligned as on the site."""
        if r"\\" in body and r"\begin{" not in body:
            body = f"\\begin{{split}}\n{body}\n\\end{{split}}"
        tag = f"\n\\tag{{{label.strip('()')}}}" if label else ""
        return f"$$\n{body}{tag}\n$$"

    def inline(self, text: str) -> str:
        """Rewrite labels, roles, local links and the book's own TeX commands; code stays as it is."""
        text = LOCAL_LINK.sub(r"\1", TARGET.sub("", text))
        text = EQUATION_LABEL.sub(lambda m: f"{m[1]}\\tag{{{self.words[m[2]].strip('()')}}}\n{m[1]}$$", text)
        out, position = [], 0
        for token in TOKEN.finditer(text):
            out.append(write_out_macros(text[position : token.start()]))
            out.append(self.role(token["role"], token["body"]) if token["role"] else token[0])
            position = token.end()
        return "".join([*out, write_out_macros(text[position:])])

    def role(self, name: str, body: str) -> str:
        """One role in words."""
        if name == "math":
            return write_out_macros(f"${body}$")
        if name in ("cite", "cite:p", "cite:t"):
            authors = [self.cites[key.strip()] for key in body.split(",")]
            if name == "cite:t":
                return ", ".join(f"{author} ({year})" for author, year in authors)
            return "(" + "; ".join(f"{author}, {year}" for author, year in authors) + ")"
        title = re.match(r"^(.*?)\s*<(.+)>$", body, re.S)
        text, target = (title[1], title[2]) if title else ("", body)
        if name == "doc":
            return text or target
        if name not in ("eq", "numref", "ref", "prf:ref"):
            raise ValueError(f"the role {{{name}}} has no plain form; use one of those in book/tools/plain.py")
        if target not in self.words:
            raise ValueError(f"{{{name}}}`{body}` refers to nothing in the book")
        words = self.words[target]
        number = words.strip("()").split()[-1]
        return re.sub(r"%s|\{number\}", number, text) if text else words


def quote(text: str) -> str:
    """`text` as a block quotation."""
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))


def write_out_macros(text: str) -> str:
    """Replace the TeX commands that only the site defines by what they stand for."""
    for name, meaning in MACROS.items():
        text = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, m=meaning: f"{{{m}}}" if m.startswith(r"\math") else m, text)
    return text
