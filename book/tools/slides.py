"""Make slides of the chapters, one deck for each part of the book: `python book/tools/slides.py [--out DIR]`.

A deck is one HTML file that needs no network: for each chapter what it teaches, then for each section its heading, its
first sentence, its numbered formulas and its figures, and at the end the exercises, the quiz with folded answers, and
the summary. Arrow keys turn the slides; printing gives one to a page. The copy of MathJax beside it draws the formulas.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

import nbformat
from chapters import BOOK, BUILD, NOTEBOOKS, SRC, chapter_names
from exercises import chapter_exercises
from nbformat import NotebookNode
from plain import PlainText
from quiz import heading, questions
from readable import grading, plain_text
from to_html import to_html

MATHJAX = BOOK / "_static" / "mathjax"
ONLINE = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml.js"  # what Sphinx takes where there is no copy
PART = re.compile(r"```\{toctree\}\n(?:(?!```).*\n)*?:caption: (?P<title>[IVX]+\. .+)\n(?P<pages>(?:(?!```).*\n)*)```")
FORMULA = re.compile(r"^\$\$\n(?:(?!\$\$).*\n)*?\\tag\{.*\n\$\$$", re.M)
SENTENCE = re.compile(r".+?[.:?!](?=\s|$)", re.S)
NO_PROSE = re.compile(r"#|>|\||-\s|\*\s|\$\$|<|```|\d+\.\s")
LAST = ("Exercises", "Quiz", "Summary", "Further reading")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
html {{ font: clamp(15px, 2.1vw, 28px)/1.4 system-ui, sans-serif; color: #1b1b1b; background: #fff; }}
body {{ margin: 0; }}
section {{ box-sizing: border-box; min-height: 100vh; padding: 2.5rem 4rem; display: none; }}
section.shown {{ display: block; }}
h1 {{ font-size: 2.2rem; margin-top: 30vh; }}
h2 {{ font-size: 1.5rem; margin: 0 0 1rem; }}
small {{ color: #555; display: block; margin-bottom: .4rem; }}
img {{ display: block; max-width: 100%; height: 55vh; object-fit: contain; margin: 0 auto; }}
figcaption {{ font-size: .75rem; color: #444; max-width: 50rem; margin: .6rem auto 0; }}
figure {{ margin: 0; }}
li {{ margin: .35rem 0; }}
details {{ font-size: .85rem; margin: .2rem 0 .6rem; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .25rem .8rem; text-align: left; border-bottom: 1px solid #ccc; }}
mjx-assistive-mml {{ width: 1px !important; height: 1px !important; overflow: hidden !important; }}
nav {{ position: fixed; right: 1rem; bottom: .6rem; font-size: .7rem; color: #555; }}
@media print {{
  @page {{ size: 297mm 167mm; margin: 0; }}
  html {{ font-size: 15px; }}
  section {{ display: block; break-after: page; min-height: 0; height: 167mm; }}
  nav {{ display: none; }}
}}
</style>
<script>window.MathJax = {{tex: {{inlineMath: [["\\\\(", "\\\\)"]], displayMath: [["\\\\[", "\\\\]"]]}},
  startup: {{pageReady: () => MathJax.startup.defaultPageReady().then(() => fit())}}}};</script>
<script async src="{mathjax}"></script>
</head>
<body>
{slides}
<nav aria-live="polite"></nav>
<script>
const slides = [...document.querySelectorAll("section")];
const place = () => Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), slides.length);
function show() {{
  slides.forEach((slide, i) => slide.classList.toggle("shown", i + 1 === place()));
  document.querySelector("nav").textContent = place() + " / " + slides.length;
  window.scrollTo(0, 0);
  fit();
}}
function fit() {{  // what is too large for the screen is shown smaller
  const slide = slides[place() - 1], page = document.documentElement;
  slide.style.zoom = 1;
  for (let zoom = 0.95; zoom > 0.4; zoom -= 0.05) {{
    if (page.scrollHeight <= innerHeight && page.scrollWidth <= innerWidth) break;
    slide.style.zoom = zoom;
    slide.style.minHeight = 0;
  }}
}}
addEventListener("keydown", event => {{
  const step = {{ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Home: -1e6, End: 1e6}}[event.key];
  if (step === undefined || event.target.closest("summary")) return;
  event.preventDefault();
  location.hash = Math.min(Math.max(place() + step, 1), slides.length);
}});
addEventListener("hashchange", show);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => d.open = true));
document.querySelectorAll("details").forEach(fold => fold.addEventListener("toggle", fit));
addEventListener("resize", fit);
show();
</script>
</body>
</html>
"""


def parts(src: Path = SRC) -> dict[str, list[str]]:
    """The chapters of each part, as the cover lists them."""
    names = chapter_names(src)
    found = {m["title"]: m["pages"].split() for m in PART.finditer((src / "index.md").read_text())}
    return {title: [page for page in pages if page in names] for title, pages in found.items()}


def slide(chapter: str, title: str, body: str) -> str:
    """One slide as HTML; `body` is Markdown."""
    head = f"<h2>{escape(title)}</h2>\n" if title else ""
    return f"<section>\n<small>{escape(chapter)}</small>\n{head}{to_html(body)}</section>"


def pictures(cell: NotebookNode, plain: PlainText) -> Iterator[str]:
    """The figures that a cell has stored, with their captions."""
    told = cell.metadata.get("mystnb", {})
    alt = " ".join(told.get("image", {}).get("alt", "").split())
    figure = told.get("figure", {})
    caption = figure.get("caption", "")
    words = f"{plain.words[figure['name']]}. {plain.convert(caption)}" if caption else ""
    for output in cell.outputs:
        if image := output.get("data", {}).get("image/png"):
            code = "".join(image.split())
            caption = to_html(words).removeprefix("<p>").removesuffix("</p>\n")
            yield (
                f'<figure><img src="data:image/png;base64,{code}" alt="{escape(alt)}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )


def first_sentence(text: str) -> str:
    """The first sentence of a section; empty if it does not begin with prose."""
    paragraph = text.strip().partition("\n\n")[0]
    found = None if NO_PROSE.match(paragraph) else SENTENCE.match(paragraph)
    return found[0] if found else ""


def chapter_slides(name: str, plain: PlainText, src: Path = SRC, notebooks: Path = NOTEBOOKS) -> list[str]:
    """The slides of a chapter."""
    title = heading(name, src)
    chapter = nbformat.read(notebooks / f"{name}.ipynb", 4)
    found = [f"<section>\n<h1>{escape(title)}</h1>\n</section>"]
    section, seen = "", set()
    for cell in chapter.cells:
        if cell.cell_type == "code":
            if not grading(cell, "grade_id"):
                found += [
                    slide(title, section, "").replace("</section>", f"{p}</section>") for p in pictures(cell, plain)
                ]
            continue
        text = plain.convert(cell.source)
        if "**You will learn**" in text:
            learn = text.partition("**You will learn**")[2].partition("\n> - **")[0]
            found.append(slide(title, "You will learn", re.sub(r"^> ?(?:  )?", "", learn, flags=re.M)))
        for piece in re.split(r"^(?=## )", text, flags=re.M):
            if match := re.match(r"## (.+)\n?", piece):
                section = match[1]
            if not section or section in LAST or (section in seen and not FORMULA.search(piece)):
                continue
            formulas = FORMULA.findall(piece)
            lead = first_sentence(piece.partition("\n")[2]) if section not in seen else ""
            body = "\n\n".join([lead, *formulas[:2]])
            found.append(slide(title, section, body))
            found += [slide(title, section, formula) for formula in formulas[2:]]
            seen.add(section)
    rows = [f"| {e.title} | {e.minutes} | {e.level} | {e.points} |" for e in chapter_exercises(name, src)]
    found.append(slide(title, "Exercises", "\n".join(["| | minutes | level | points |", "|---|---|---|---|", *rows])))
    for q in questions(name, plain, src):
        fold = f"<details><summary>Answer</summary>\n\n{q.answer}\n\n</details>"
        found.append(slide(title, f"Quiz, question {q.number}", f"{q.question}\n\n{fold}"))
    text = "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    summary = text.partition("\n## Summary\n")[2].partition("\n## ")[0]
    return [*found, slide(title, "Summary", plain.convert(summary))]


def write_decks(out: Path, src: Path = SRC, notebooks: Path = NOTEBOOKS) -> list[Path]:
    """Write a deck for each part of the book into `out`, with MathJax beside them if there is a copy; their paths."""
    plain = plain_text(src)
    out.mkdir(parents=True, exist_ok=True)
    if MATHJAX.is_dir():
        shutil.copytree(MATHJAX, out / "mathjax", dirs_exist_ok=True)
    found = []
    for number, (title, names) in enumerate(parts(src).items(), start=1):
        slides = [f"<section>\n<h1>{escape(title)}</h1>\n</section>"]
        for name in names:
            slides += chapter_slides(name, plain, src, notebooks)
        path = out / f"part_{number}.html"
        mathjax = "mathjax/tex-chtml.js" if MATHJAX.is_dir() else ONLINE
        path.write_text(PAGE.format(title=escape(title), mathjax=mathjax, slides="\n".join(slides)), encoding="utf-8")
        found.append(path)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILD / "slides")
    args = parser.parse_args()
    for path in write_decks(args.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
