"""Look for words that no dictionary has: `python book/tools/spelling.py [FILE ...]`.

The chapters and text pages, README and its neighbours, and every docstring of the library are read by hunspell (Debian:
hunspell hunspell-en-gb), without code, formulas, roles and names in them. Words that are right and in no dictionary
stand in book/words.txt, one a line. Each unknown word is printed with its first place; the command ends with 1 if there
is one.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from chapters import BOOK

ROOT = BOOK.parent
WORDS = BOOK / "words.txt"
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "book/src/*.md", "vmflearn/**/*.py")
FENCE = re.compile(r"[ \t]*(?P<mark>`{3,}|:{3,})(?:\{(?P<name>[\w:-]+)\}|(?P<code>\w*)[ \t]*$)")
SETTING = re.compile(r" {4}(?P<prose>caption|alt)?[\w]*: |---")
PROSE = re.compile("admonition|dropdown|exercise|solution|figure|prf:|note|tip|hint|important|warning")
NO_PROSE = re.compile(  # blanked with its line breaks kept, so that lines keep their numbers
    r"\A---\n.*?\n---\n|^[ \t]*:[\w-]+:[^\n]*$|^\([\w-]+\)=$"
    r"|\$\$.*?\$\$|\$[^$]+?\$|\\\(.*?\\\)"
    r"|\{[\w:]+\}`[^`]*`|:[\w:]+:`[^`]*`|``.*?``|`[^`]*`"
    r"|<[^>\n]+>|https?://\S+|\.\. math::(?:.|\n(?!\n\S))*",
    re.S | re.M,
)
WORD = re.compile(r"(?<![\w./\\@-])[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ'’]*[A-Za-zÀ-ÿ](?![\w/\\@(=]|\.\w)")
CODE = re.compile(r"^ {4,}\S.*$|^>>> .*$|^\.\.\. .*$", re.M)


def blank(match: re.Match[str]) -> str:
    """A match's line breaks."""
    return "\n" * match[0].count("\n") or " "


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """First line and text of each docstring, without the formulas in plain text of its introduction."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            text = ast.get_docstring(node)
            head, rule, rest = text.partition("\n---")
            yield node.body[0].lineno, CODE.sub("", head) + rule + re.sub(r"^\S.* : .*$|^>>> .*$", "", rest, flags=re.M)


def without_code(text: str) -> str:
    """Markdown with empty lines in place of code, formulas and the marks of directives."""
    out: list[str] = []
    open_marks: list[str] = []
    code = ""  # the mark that ends what is not prose
    told = False  # in a caption or a description, which are prose in a cell's settings
    for line in text.split("\n"):
        fence = FENCE.match(line)
        setting = SETTING.match(line)
        told = bool(code) and (bool(setting["prose"]) if setting else told and line.startswith("      "))
        out.append(line.partition(": ")[2] if told and setting else line if told or not (code or fence) else "")
        if code:
            code = "" if line.strip() == code else code
        elif fence and open_marks and line.strip() == open_marks[-1]:
            open_marks.pop()
        elif fence and fence["name"] and PROSE.match(fence["name"]):
            if fence["name"] not in ("solution", "figure"):  # whose arguments are no titles
                out[-1] = line[fence.end() :]
            open_marks.append(fence["mark"])
        elif fence:
            code = fence["mark"]
    return "\n".join(out)


def words(path: Path) -> Iterator[tuple[int, str]]:
    """Line and word, for all prose of a file."""
    text = path.read_text(encoding="utf-8")
    parts = docstrings(text) if path.suffix == ".py" else [(1, without_code(text))]
    for first, part in parts:
        for number, line in enumerate(NO_PROSE.sub(blank, part).split("\n"), start=first):
            for word in WORD.findall(line):
                if not any(letter.isupper() for letter in word[1:]):  # names of code and abbreviations
                    yield number, word.replace("’", "'").removesuffix("'s")


def unknown(found: set[str], dictionary: Path = WORDS) -> set[str]:
    """Those of the words that neither hunspell nor the project's dictionary knows."""
    hunspell = shutil.which("hunspell")
    if hunspell is None:
        sys.exit("hunspell is not on the path: install it with its British dictionary (hunspell hunspell-en-gb)")
    own = set(dictionary.read_text(encoding="utf-8").split())  # hunspell's -p has no Eq beside the language's EQ
    command = [hunspell, "-d", "en_GB", "-i", "UTF-8", "-l"]
    done = subprocess.run(command, input="\n".join(sorted(found)), capture_output=True, text=True, check=True)
    return {word for word in done.stdout.split() if not {word, word[0].lower() + word[1:]} & own}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all texts of the project")
    args = parser.parse_args()
    first: dict[str, str] = {}
    for path in args.files or [path for pattern in TEXTS for path in sorted(ROOT.glob(pattern))]:
        for number, word in words(path):
            first.setdefault(word, f"{path.resolve().relative_to(ROOT)}:{number}")
    lost = unknown(set(first))
    for word in sorted(lost, key=str.lower):
        print(f"{first[word]}: {word}")
    print(f"{len(first)} different words, {len(lost)} unknown")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
