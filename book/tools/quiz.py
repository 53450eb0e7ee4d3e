"""Write the chapters' quizzes as a question bank in Moodle XML: `python book/tools/quiz.py [--out FILE]`.

One category for each chapter, one essay question for each question of its quiz; the book's answer is what the grader of
an essay sees, and the feedback that a student gets. Moodle, and what imports its XML, show the formulas by MathJax.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

from chapters import BUILD, SRC, chapter_names, read_chapter
from plain import PlainText
from readable import plain_text
from to_html import to_html

NUMBER = re.compile(r"^(?:\*\*(\d+)\.\*\*|(\d+)\.)[ \t]+", re.M)
ANSWER = re.compile(
    r"^(?P<indent>[ \t]*)(?P<mark>[`:]{3,})\{dropdown\} *Answer\n(?P<text>.*?)\n(?P=indent)(?P=mark)$", re.S | re.M
)


@dataclass(frozen=True)
class Question:
    """A question of a chapter's quiz and its answer, as plain Markdown."""

    chapter: str
    number: int
    question: str
    answer: str


def questions(name: str, plain: PlainText, src: Path = SRC) -> list[Question]:
    """The quiz of a chapter; ValueError names a question without an answer, or a chapter without a quiz."""
    text = "\n\n".join(cell.source for cell in read_chapter(src / f"{name}.md").cells if cell.cell_type == "markdown")
    quiz = text.partition("\n## Quiz\n")[2].partition("\n## ")[0]
    answers = [plain.convert(dedent(match["text"])) for match in ANSWER.finditer(quiz)]
    rest = ANSWER.sub("", quiz)
    starts = [*NUMBER.finditer(rest)]
    ends = [match.start() for match in starts[1:]] + [len(rest)]
    if not starts or len(answers) != len(starts):
        raise ValueError(f"{name}: a quiz of {len(starts)} questions with {len(answers)} answers")
    return [
        Question(name, number, plain.convert(dedent(" " * 3 + rest[match.end() : end])), answer)
        for number, (match, end, answer) in enumerate(zip(starts, ends, answers, strict=True), start=1)
    ]


def moodle(bank: dict[str, list[Question]]) -> ElementTree.ElementTree:
    """The questions, by the title of their chapter, as Moodle imports them."""
    quiz = ElementTree.Element("quiz")

    def text(parent: ElementTree.Element, tag: str, words: str, **attributes: str) -> None:
        ElementTree.SubElement(ElementTree.SubElement(parent, tag, attributes), "text").text = words

    for title, found in bank.items():
        category = ElementTree.SubElement(quiz, "question", type="category")
        text(category, "category", f"$course$/top/vmflearn/{title.replace('/', '//')}")
        for question in found:
            item = ElementTree.SubElement(quiz, "question", type="essay")
            text(item, "name", f"{question.chapter} {question.number}")
            text(item, "questiontext", to_html(question.question), format="html")
            text(item, "generalfeedback", to_html(question.answer), format="html")
            ElementTree.SubElement(item, "defaultgrade").text = "1"
            ElementTree.SubElement(item, "responseformat").text = "editor"
            text(item, "graderinfo", to_html(question.answer), format="html")
    ElementTree.indent(quiz)
    return ElementTree.ElementTree(quiz)


def write_bank(out: Path, src: Path = SRC) -> int:
    """Write the bank of all chapters to `out`; the number of its questions."""
    plain = plain_text(src)
    bank = {heading(name, src): questions(name, plain, src) for name in chapter_names(src)}
    out.parent.mkdir(parents=True, exist_ok=True)
    moodle(bank).write(out, encoding="utf-8", xml_declaration=True)
    return sum(map(len, bank.values()))


def heading(name: str, src: Path = SRC) -> str:
    """The title of a chapter with its number."""
    return re.search(r"^# (.+)$", (src / f"{name}.md").read_text(), re.M)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILD / "quiz.xml")
    args = parser.parse_args()
    print(f"{write_bank(args.out)} questions: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
