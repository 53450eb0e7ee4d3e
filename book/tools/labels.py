"""What the cross-references of the book say in words, for readers without the site: Figure 4.2, (4.1), Theorem 7.1.

The numbers are those of the site: each kind of thing is counted by chapter, in the order of the text.
"""

from __future__ import annotations

import re
from pathlib import Path

from chapters import SRC, chapter_names, read_chapter
from pybtex.database import parse_file

KINDS = {"fig": "Figure {}", "eq": "({})", "ex": "Exercise {}"}
HEADING = re.compile(r"^\(([\w-]+)\)=\s*\n+#+ +(.+)$", re.M)
LABEL = re.compile(
    r"^[ \t]*[`:]{3,}\{(?P<directive>math|exercise|exercise-start|prf:\w+)\}[^\n]*\n"
    r"(?:[ \t]*:(?!label)[^\n]*\n)*[ \t]*:label: (?P<name>[\w-]+)"
    r"|^[`:]{3,}\{figure\}[^\n]*\n---\n(?:(?!---)[^\n]*\n)*?name: (?P<figure>[\w-]+)"
    r"|^[ \t]*\$\$ *\((?P<equation>[\w-]+)\)",
    re.M,
)


def label(match: re.Match[str]) -> str:
    """The name that something is labelled with."""
    return match["name"] or match["figure"] or match["equation"]


def chapter_labels(path: Path) -> dict[str, str]:
    """Label to words, for everything that is labelled in one chapter."""
    chapter = int(path.stem[:2])
    words: dict[str, str] = {}
    counts: dict[str, int] = {}

    def count(name: str, kind: str) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        words[name] = KINDS.get(kind, kind.capitalize() + " {}").format(f"{chapter}.{counts[kind]}")

    for cell in read_chapter(path).cells:
        if cell.cell_type == "code":
            if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
                count(name, "fig")
            continue
        words |= {match[1]: match[2].strip() for match in HEADING.finditer(cell.source)}
        for match in LABEL.finditer(cell.source):
            directive = match["directive"] or ("figure" if match["figure"] else "math")
            kind = {"math": "eq", "exercise": "ex", "exercise-start": "ex", "figure": "fig"}.get(
                directive, directive.removeprefix("prf:")
            )
            count(label(match), kind)
    return words


def book_labels(src: Path = SRC) -> dict[str, str]:
    """Label to words, for the whole book; the labels of the text pages as `notation`, by their page."""
    words: dict[str, str] = {}
    for page in src.glob("*.md"):
        if page.stem not in chapter_names(src):
            for match in LABEL.finditer(page.read_text()):
                kind = "figure" if match["figure"] else "equation"
                words[label(match)] = f"the {kind} on the {page.stem} page"
    for name in chapter_names(src):
        words |= chapter_labels(src / f"{name}.md")
    return words


def citations(bibliography: Path) -> dict[str, tuple[str, str]]:
    """Key to (authors, year), such as `("Govindarajan et al.", "2023")`."""
    found = {}
    for key, entry in parse_file(str(bibliography), bib_format="bibtex").entries.items():
        names = [
            re.sub(r"[{}]", "", " ".join(str(person.rich_last_names[0]).split())) for person in entry.persons["author"]
        ]
        more = len(names) > 2 or names[-1] == "others"  # BibTeX's own word
        found[key] = (f"{names[0]} et al." if more else " and ".join(names), entry.fields["year"])
    return found
