"""Print the built site as one PDF: `python book/tools/pdf.py [--site DIR] [--out FILE.pdf] [NAME ...]`.

Chromium prints each page in the site's own print style: light, code wrapped, hints and solutions open. The sheets are
joined in the order of the table of contents, which comes first, with page numbers; they get an outline, a running head
and a number, and links between pages lead inside the file. Chromium must be on the path; build the site first
(`make html`). The library's reference is left out: it is for looking things up.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from browser import chromium, served
from chapters import BUILD, SRC
from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.generic import ArrayObject, Destination, DictionaryObject, FloatObject, NameObject, NullObject

if TYPE_CHECKING:
    from playwright.sync_api import Page

LEFT_OUT = ("api",)
SHEET = {"format": "A4", "print_background": True}
MARGIN = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
READY = """async () => {
  if (document.querySelector('.math')) await MathJax.startup.promise;
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  await document.fonts.ready;
}"""
# What something links to keeps its name in the file: so other pages can lead there, and headings be found. (Chromium's
# own outline repeats a heading that comes after a page break, and joins the words around the end of a line.)
REACHABLE = """ids => {
  const headings = [...document.querySelectorAll('.bd-article section > :is(h1, h2, h3)')].map((heading, i) => {
    heading.id = 'heading-' + i;
    const copy = heading.cloneNode(true);
    copy.querySelectorAll('.headerlink, mjx-assistive-mml').forEach(e => e.remove());
    return [Number(heading.tagName[1]) - 1, copy.textContent, heading.id];
  });
  const links = document.createElement('div');
  links.style.cssText = 'font-size: 1px; color: transparent; line-height: 1px';
  for (const id of [...ids, ...headings.map(h => h[2])].filter(id => document.getElementById(id))) {
    const link = links.appendChild(document.createElement('a'));
    link.href = '#' + id;
    link.textContent = '.';
    link.style.textDecoration = 'none';
  }
  document.querySelector('.bd-article').append(links);
  return headings;
}"""
STYLE = """@page { size: A4; margin: MARGIN } * { box-sizing: border-box } body { margin: 0; font: 10.5pt sans-serif }
a { color: inherit; text-decoration: none }"""


@dataclass
class Printed:
    """A page of the site on paper."""

    name: str
    reader: PdfReader
    headings: list[tuple[int, str, str]]  # level, words, the name of the place
    named: dict[str, Destination]
    start: int = 0  # the sheet of the file that it begins on, from 0

    def sheet(self, place: str) -> tuple[int, float | None] | None:
        """The sheet of the file that a place of the page is on, and its height there; None if the place has no name."""
        found = self.named.get(f"/{place}")
        if found is None:
            return None
        top = None if isinstance(found.top, NullObject | None) else float(found.top)
        return self.start + self.reader.get_destination_page_number(found), top

    @property
    def contents(self) -> list[tuple[int, str, int]]:
        """Level, words and sheet of each heading; the first is the page's, which the theme prints in its own way."""
        sheets = [self.start, *(self.sheet(place)[0] for _, _, place in self.headings[1:])]
        found = zip(self.headings, sheets, strict=True)
        return [(level, " ".join(words.split()), sheet) for (level, words, _), sheet in found]


def page_names() -> list[str]:
    """The pages in the order of the table of contents."""
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", (SRC / "index.md").read_text(encoding="utf-8"), re.S | re.M)
    lines = (line for tree in trees for line in tree.split("\n"))
    return [line for line in lines if line and not line.startswith(":") and line not in LEFT_OUT]


def places(site: Path, names: list[str]) -> dict[str, list[str]]:
    """The places in each page that other pages link to."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for name in names:
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        for target, place in re.findall(r'href="([\w-]+)\.html#([^"]+)"', text):
            if target in found:
                found[target].add(unquote(place))
    return {name: sorted(ids) for name, ids in found.items()}


def print_page(page: Page, name: str, url: str, out: Path, ids: list[str]) -> Printed:
    """Print one page of the site."""
    page.goto(url)
    page.evaluate(READY)
    headings = page.evaluate(REACHABLE, ids)
    page.emulate_media(media="print")  # book.js opens what is folded
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    page.pdf(path=out, margin=MARGIN, scale=0.8, **SHEET)
    page.emulate_media(media="screen")
    reader = PdfReader(out)
    return Printed(name, reader, headings, reader.named_destinations)


def print_html(page: Page, body: str, out: Path, margin: str = "0") -> PdfReader:
    """Print what is made here: the title, the contents, the numbers."""
    page.set_content(f"<style>{STYLE.replace('MARGIN', margin)}</style>{body}")
    page.pdf(path=out, prefer_css_page_size=True, **SHEET)
    return PdfReader(out)


def title_html(site: Path) -> str:
    """The title page: the cover's heading and its first paragraphs."""
    text = (site / "index.html").read_text(encoding="utf-8")
    article = text.partition("<article")[2]
    heading = re.sub(r"<[^>]+>|#", "", re.search(r"<h1>(.*?)</h1>", article, re.S)[1]).strip()
    name, _, what = heading.partition(": ")
    return (
        '<div style="height:295mm;padding:70mm 25mm;text-align:center">'
        f'<h1 style="font-size:40pt;margin:0">{escape(name)}</h1><p style="font-size:16pt">{escape(what)}</p>'
        '<p style="margin-top:20mm;font-size:12pt">DINO as a von Mises-Fisher mixture:<br>chapters that run, over a '
        "small, tested library</p></div>"
    )


def contents_html(printed: list[Printed], base: str) -> str:
    """The table of contents: chapters and their sections."""
    rows = []
    for part in printed:
        for level, words, sheet in part.contents:
            if level > 1:
                continue
            style = "font-weight:600;margin-top:7pt" if level == 0 else "padding-left:8mm"
            link = f'<a href="{base}sheet/{sheet}" style="display:flex;{style}">'
            dots = '<span style="flex:1;border-bottom:1px dotted #999;margin:0 4pt 3pt"></span>'
            rows.append(f"{link}<span>{escape(words)}</span>{dots}<span>{sheet + 1}</span></a>")
    return '<h1 style="font-size:18pt">Contents</h1>' + "".join(rows)


def numbers_html(printed: list[Printed], first: int, total: int) -> str:
    """A sheet with nothing but a number and a running head for each sheet from `first` on."""
    heads = {}
    for part in printed:
        title = next((words for level, words, _ in part.contents if level == 0), "")
        heads |= dict.fromkeys(range(part.start, part.start + len(part.reader.pages)), title)
    box = '<div style="height:296.8mm;position:relative;break-after:page;color:#444;font-size:9pt">'
    return "".join(
        f'{box}<div style="position:absolute;top:8mm;left:16mm">{escape(heads.get(sheet, ""))}</div>'
        f'<div style="position:absolute;bottom:8mm;right:16mm">{sheet + 1}</div></div>'
        for sheet in range(first, total)
    )


def lead_inside(writer: PdfWriter, printed: list[Printed], contents: int, base: str) -> None:
    """Turn links to pages of the site, and to places in the same page, into links to sheets of the file."""
    by_name = {part.name: part for part in printed}

    def target(part: Printed, place: str) -> ArrayObject:
        return sheet(*(part.sheet(place) or (part.start, None)))

    def sheet(number: int, top: float | None) -> ArrayObject:
        height = NullObject() if top is None else FloatObject(top)
        page = writer.pages[number].indirect_reference
        return ArrayObject([page, NameObject("/XYZ"), NullObject(), height, NullObject()])

    def follow(link: DictionaryObject, part: Printed | None) -> ArrayObject | None:
        action = link.get("/A", {})
        uri = str(action.get("/URI", ""))
        if place := link.get("/Dest") or action.get("/D"):
            return target(part, str(place).removeprefix("/")) if part and isinstance(place, str) else None
        if not uri.startswith(base):
            return None
        name, _, place = uri.removeprefix(base).partition("#")
        if name.startswith("sheet/"):
            return sheet(int(name.removeprefix("sheet/")), None)
        other = by_name.get(name.removesuffix(".html"))
        return target(other, unquote(place)) if other else sheet(0, None)

    starts = {part.start + i: part for part in printed for i in range(len(part.reader.pages))}
    for number, page in enumerate(writer.pages[contents:], start=contents):
        for reference in page.get("/Annots", []):
            link = reference.get_object()
            if link.get("/Subtype") == "/Link" and (found := follow(link, starts.get(number))) is not None:
                link.pop("/A", None)
                link[NameObject("/Dest")] = found


def outline(writer: PdfWriter, printed: list[Printed]) -> None:
    """The file's outline: chapters, sections, and what is in them."""
    for part in printed:
        above: list = []
        for level, words, sheet in part.contents:
            parent = above[level - 1] if level and above else None
            item = writer.add_outline_item(title=words, page_number=sheet, parent=parent)
            above[level:] = [item]


def print_book(site: Path, out: Path, names: list[str]) -> int:
    """Print the pages `names` of the folder `site` into the file `out`; the number of its sheets."""
    if missing := [name for name in ["index", *names] if not (site / f"{name}.html").exists()]:
        sys.exit(f"no {missing[0]}.html in {site}: build the site first (make html)")
    ids = places(site, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, chromium() as browser, served(site) as base:
        folder, page = Path(scratch), browser.new_page()
        printed = []
        for name in names:
            print(f"{name} ", end="", flush=True)
            printed.append(print_page(page, name, f"{base}{name}.html", folder / f"{name}.pdf", ids[name]))
        page.goto("about:blank")
        title = print_html(page, title_html(site), folder / "title.pdf")
        draft = print_html(page, contents_html(printed, base), folder / "draft.pdf", "18mm 16mm")
        ahead = len(title.pages) + len(draft.pages)
        sheets = ahead
        for part in printed:
            part.start, sheets = sheets, sheets + len(part.reader.pages)
        contents = print_html(page, contents_html(printed, base), folder / "contents.pdf", "18mm 16mm")
        numbers = print_html(page, numbers_html(printed, len(title.pages), sheets), folder / "numbers.pdf")
        writer = PdfWriter()
        for reader in (title, contents, *(part.reader for part in printed)):
            for one in reader.pages:
                writer.add_page(one)
        for one, number in zip(writer.pages[len(title.pages) :], numbers.pages, strict=True):
            number: PageObject
            one.merge_page(number)
            one.compress_content_streams()
        lead_inside(writer, printed, len(title.pages), base)
        outline(writer, printed)
        writer.add_metadata({"/Title": "vmflearn: a textbook that runs"})
        writer.compress_identical_objects()
        whole = folder / "book.pdf"
        writer.write(whole)
        whole.replace(out)
    print()
    return sheets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="pages, e.g. 04_mixtures (default: the whole book)")
    parser.add_argument("--site", type=Path, default=BUILD / "html", help="folder of the built site")
    parser.add_argument("--out", type=Path, default=BUILD / "vmflearn.pdf", help="file to write")
    args = parser.parse_args()
    sheets = print_book(args.site.resolve(), args.out.resolve(), args.names or page_names())
    print(f"{sheets} pages in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
