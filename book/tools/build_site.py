"""Build the site: `python book/tools/build_site.py [--notebooks DIR] [--out DIR]`.

The pages are the text pages of book/src (cover, notation, references) and one notebook for every chapter, by default
the committed ones of book/notebooks; `make book` gives the copies it has just executed. They are put together in
a folder beside the output and built with every warning an error.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from chapters import BOOK, BUILD, NOTEBOOKS, SRC, chapter_names
from readable import write_readable
from syllabus import fill

from vmflearn.paper import TABLES
from vmflearn.paper.rendering import to_markdown

LINKED = ("LICENSE", "CITATION.cff", "book/_static/architecture.svg")
"""Files that pages show or offer, by the names they have in the repository."""
CAPTION = re.compile(r"^(#+ Table \d+\. .+?)(?:[:;,] | (?=by ))(.+)$", re.M)
"""The title of a table: what is said first is a heading, the rest a line below it."""
MEASURED = sorted((BOOK.parent / "benchmarks" / "results").glob("*.md"))
"""What the benchmarks wrote, in the order of their names."""


def include_results(pages: Path) -> None:
    """Put the paper's tables and the benchmarks' files where results.md includes them, as files that are no page."""
    folder = pages / "included"
    folder.mkdir()
    tables = CAPTION.sub(lambda m: f"{m[1]}\n\n{m[2][0].upper()}{m[2][1:]}", to_markdown(TABLES.values()))
    (folder / "tables.txt").write_text(tables, encoding="utf-8")
    for path in MEASURED:
        shutil.copy2(path, folder / f"{path.stem}.txt")
    page = pages / "results.md"
    includes = "\n".join(f"```{{include}} included/{path.stem}.txt\n:heading-offset: 2\n```\n" for path in MEASURED)
    page.write_text(page.read_text(encoding="utf-8").replace("BENCHMARKS\n", includes), encoding="utf-8")


def assemble(notebooks: Path, pages: Path) -> None:
    """Fill the folder `pages` with the text pages and the notebooks of all chapters, and with nothing else."""
    names = chapter_names()
    if missing := [name for name in names if not (notebooks / f"{name}.ipynb").exists()]:
        sys.exit(f"no notebook in {notebooks} for: {', '.join(missing)}; execute the chapters first (execute.py run)")
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    for text in sorted(SRC.glob("*.md")):
        if text.stem not in names:
            (pages / text.name).write_text(fill(text.read_text(encoding="utf-8")), encoding="utf-8")
    for name in names:
        shutil.copy2(notebooks / f"{name}.ipynb", pages)
    (pages / "_static").mkdir()
    for name in LINKED:
        shutil.copy2(BOOK.parent / name, pages / name.removeprefix("book/"))
    if (pages / "results.md").exists():
        include_results(pages)


def build(notebooks: Path = NOTEBOOKS, out: Path = BUILD / "html") -> int:
    """Build the site of `notebooks` into `out`; returns the exit status of sphinx-build."""
    pages = out.with_name(out.name + "-pages")
    assemble(notebooks, pages)
    shutil.rmtree(out, ignore_errors=True)  # no page of a chapter that was renamed
    doctrees = out.with_name(out.name + "-doctrees")
    shutil.rmtree(doctrees, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-b", "html", "-d", str(doctrees)]
    status = subprocess.run([*command, "-c", str(BOOK), str(pages), str(out)], check=False).returncode
    if status == 0:
        write_readable(chapter_names(), out / "_sources", notebooks, SRC)  # what the download button gives
        print(f"the site is in {out}: open {out / 'index.html'}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="folder of the executed notebooks")
    parser.add_argument("--out", type=Path, default=BUILD / "html", help="folder of the site")
    args = parser.parse_args()
    return build(args.notebooks.resolve(), args.out.resolve())


if __name__ == "__main__":
    sys.exit(main())
