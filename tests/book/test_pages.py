"""Every page of the site in Chromium: whole, offline, reachable, readable in light, dark, on a phone and on paper.

A gate is a question to the page, answered with a list of offences. Each page is loaded once and asked all of them; the
last tests plant a defect for each gate, which it must find.
"""

import base64
import functools
import hashlib
import html
import http.server
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from urllib.parse import unquote

import pytest
from api import PACKAGES, entries, file_name
from build_site import build
from chapters import BOOK, BUILD, NOTEBOOKS, SRC, chapter_names
from labels import chapter_labels

pytestmark = pytest.mark.slow
TEXT_PAGES = sorted(path.stem for path in SRC.glob("*.md") if path.stem not in chapter_names())
REFERENCE = ["api", *map(file_name, PACKAGES)]
PAGES = [*TEXT_PAGES, *chapter_names(), "api", "api_sphere", "api_ssl", "api_weights"]  # the others are alike
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LOCAL_MATHJAX = BOOK / "_static" / "mathjax" / "tex-chtml.js"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAPER = {"width": 718, "height": 1000}  # A4 less its margins
AXE, AXE_SHA512 = "4.14.1", "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="

GATES = {
    "formulas": """() => [...document.querySelectorAll('mjx-merror')].map(e => e.textContent)
        .concat([...document.querySelectorAll('.bd-article .math')].filter(e => !e.querySelector('mjx-container'))
        .map(e => 'not set: ' + e.textContent))""",
    "raw TeX": r"""() => {
        const walk = document.createTreeWalker(document.querySelector('.bd-article'), NodeFilter.SHOW_TEXT);
        const found = [];
        while (walk.nextNode()) {
          const skip = walk.currentNode.parentElement.closest('pre, code, script, style, svg, mjx-container');
          if (!skip && /\\[a-zA-Z]{2,}|\\\(/.test(walk.currentNode.data)) found.push(walk.currentNode.data);
        }
        return found; }""",
    "alternative texts": """() => [...document.querySelectorAll('.bd-article img')]
        .filter(e => e.alt.length <= 20 || e.alt.includes('_images')).map(e => e.src)""",
    "figures loaded": """() => [...document.querySelectorAll('.bd-article img')]
        .filter(e => e.complete && e.naturalWidth === 0).map(e => e.src)""",
    "88 columns": """() => [...document.querySelectorAll('.bd-article div.highlight pre')]
        .filter(e => e.scrollWidth > e.clientWidth + 1 && e.textContent.split('\\n').every(l => l.length <= 88))
        .map(e => e.textContent)""",
    "slider values": """() => [...document.querySelectorAll('.cell_output input[type=range]')].filter(e => {
        const read = document.querySelector(`output[for~="${e.id}"]`);
        return (!e.labels.length && !e.ariaLabel) || (read && e.ariaValueText !== read.textContent.trim());
        }).map(e => e.id)""",
    "description": """() => document.querySelectorAll('meta[name=description]').length === 1 ? [] : ['not one']""",
    "headings": """() => [...document.querySelectorAll('.bd-article section > :is(h1, h2, h3, h4)')]
        .map(e => e.textContent).filter(text => text.length > 90)""",
    "folds in a row": """() => {
        const called = cell => cell?.querySelector('details.hide > summary > .collapsed')?.textContent;
        return [...document.querySelectorAll('.bd-article div.cell')].map(cell => [cell, cell.nextElementSibling])
          .filter(([one, next]) => called(one) && called(one) === called(next)).map(([one]) => called(one)); }""",
}
ON_PHONE = {
    "page": """() => document.documentElement.scrollWidth <= 390 ? [] : [document.documentElement.scrollWidth]""",
    "formulas": """() => [...document.querySelectorAll('.bd-article div.math')].filter(e =>
        e.scrollWidth > e.clientWidth + 1 && (e.tabIndex !== 0 || getComputedStyle(e).overflowX !== 'auto'))
        .map(e => e.id)""",
    "formulas begin": """() => [...document.querySelectorAll('.bd-article div.math')].filter(e =>
        e.querySelector('mjx-container').getBoundingClientRect().left < e.getBoundingClientRect().left - 1)
        .map(e => e.id)""",
    "formulas in sentences": """() => [...document.querySelectorAll('.bd-article span.math')].filter(e =>
        e.querySelector('mjx-container')?.getBoundingClientRect().right > e.getBoundingClientRect().right + 2)
        .map(e => e.textContent)""",
    "words broken in tables": """() => {
        const found = [];
        for (const cell of document.querySelectorAll('.bd-article td, .bd-article th')) {
          const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
          while (walk.nextNode()) for (const word of walk.currentNode.data.matchAll(/[A-Za-z]{3,14}/g)) {
            const range = document.createRange();
            range.setStart(walk.currentNode, word.index);
            range.setEnd(walk.currentNode, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) found.push(word[0]);
          }
        }
        return found; }""",
    "units": """() => {
        const found = [], number = /[\\d.]+\\s(?:[nµm]?s|h|%|[KMG]i?B|±)(?!\\w)/g;
        for (const cell of document.querySelectorAll('.bd-article td')) {
          const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
          while (walk.nextNode()) for (const match of walk.currentNode.data.matchAll(number)) {
            const range = document.createRange();
            range.setStart(walk.currentNode, match.index);
            range.setEnd(walk.currentNode, match.index + match[0].length);
            if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) found.push(match[0]);
          }
        }
        return found; }""",
}
ON_PAPER = {
    "fading": """() => [...document.querySelectorAll('.bd-article details.hide > :not(summary)')]
        .filter(e => getComputedStyle(e).animationName !== 'none' || getComputedStyle(e).opacity !== '1')
        .map(e => e.textContent.slice(0, 60))""",
    "answers": """() => [...document.querySelectorAll('.bd-article .cell_input pre')].map(e => e.innerText)
        .filter(text => text.includes('### BEGIN SOLUTION'))""",
    "division": """() => [...document.querySelectorAll('.bd-article :is(table, .cell_input pre)')]
        .filter(e => e.matches('table') ? e.rows.length > 12 : e.textContent.split('\\n').length > 40)
        .filter(e => { for (let box = e; box.matches('.bd-article *'); box = box.parentElement) {
          const style = getComputedStyle(box);
          if (style.breakInside !== 'auto' || style.overflowX !== 'visible') return true; } })
        .map(e => e.textContent.slice(0, 60))""",
    "title": """() => [...document.querySelectorAll('#jb-print-docs-body h1')]
        .filter(e => parseFloat(getComputedStyle(e).marginBottom) < 10).map(e => e.textContent)""",
    "folds": """() => [...document.querySelectorAll('.bd-article details:not([open]), .bd-article .toggle-hidden')]
        .map(e => e.textContent.slice(0, 60))""",
    "code": """() => [...document.querySelectorAll('.bd-article div.highlight pre')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))""",
    "light": """() => { const text = getComputedStyle(document.querySelector('.bd-article p') || document.body).color;
        return Math.max(...text.match(/[\\d.]+/g).slice(0, 3).map(Number)) < 110 ? [] : [text]; }""",
    "controls": """() => [...document.querySelectorAll('.bd-sidebar, .copybtn, .toggle-button, .prev-next-footer')]
        .filter(e => getComputedStyle(e).display !== 'none').map(e => e.className)""",
}
# What axe shall leave out it would walk through, and formulas are thousands of elements: meanwhile an x stands there.
AXE_RUN = """async ([without, rules]) => {
    const taken = [...document.querySelectorAll(['mjx-container', ...without])].map(e => [e, [...e.childNodes]]);
    taken.forEach(([e]) => e.replaceChildren('x'));
    try {
      return (await axe.run({exclude: ['mjx-container', ...without]},
        {resultTypes: ['violations'], ...(rules.length ? {runOnly: rules} : {})})).violations
        .filter(v => ['serious', 'critical'].includes(v.impact))
        .flatMap(v => v.nodes.map(n => v.id + ': ' + n.html.slice(0, 120) + ' ' + n.failureSummary.slice(0, 200)));
    } finally { taken.forEach(([e, inside]) => e.replaceChildren(...inside)) } }"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built from the committed notebooks."""
    out = tmp_path_factory.mktemp("site") / "html"
    assert build(NOTEBOOKS, out) == 0
    return out


def skip_or_fail(reason):
    if os.environ.get("VMFLEARN_REQUIRE_BROWSER"):
        pytest.fail(f"{reason}, and VMFLEARN_REQUIRE_BROWSER is set")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it, or without local MathJax, these tests are skipped or, where it is required, fail."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        skip_or_fail("no Chromium on the path")
    if not LOCAL_MATHJAX.exists():
        skip_or_fail("no local MathJax: run book/tools/vendor.py")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, "--disable-sync"])
        yield chrome
        chrome.close()


@pytest.fixture(scope="module")
def axe():
    """The program of axe-core, fetched once through npm into book/_build."""
    package = BUILD / f"axe-core-{AXE}.tgz"
    if not package.exists():
        if shutil.which("npm") is None:
            skip_or_fail("npm is not installed, from which axe-core comes")
        BUILD.mkdir(exist_ok=True)
        command = ["npm", "pack", f"axe-core@{AXE}", "--silent", "--pack-destination", str(BUILD)]
        done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            skip_or_fail(f"npm could not fetch axe-core: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    assert base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode() == AXE_SHA512
    with tarfile.open(package) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@contextmanager
def opened(browser, url, mode="light"):
    """A page of the site, its formulas set, with what went wrong while it loaded in `page.faults`."""
    context = browser.new_context(viewport=DESKTOP)
    context.add_init_script(f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')")
    page = context.new_page()
    faults = page.faults = []
    local = (url.rsplit("/", 1)[0], "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else faults.append(f"external request {r.url}"))
    page.on("response", lambda r: faults.append(f"status {r.status}: {r.url}") if r.status >= 400 else None)
    page.on("requestfailed", lambda r: faults.append(f"failed request {r.url}"))
    page.on("pageerror", lambda error: faults.append(f"page error {error}"))
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
    try:
        page.goto(url, wait_until="load")
        page.evaluate("async () => { if (document.querySelector('.math')) { await MathJax.startup.promise } }")
        page.add_style_tag(content="* { transition: none !important }")  # a colour half-way is nobody's
        yield page
    finally:
        context.close()


@pytest.fixture(scope="module", params=PAGES)
def page(request, browser, address):
    """One page after another, each loaded once for all tests that take it."""
    with opened(browser, f"{address}{request.param}.html") as loaded:
        loaded.name = request.param
        yield loaded


@contextmanager
def as_seen(page, *, viewport=DESKTOP, theme="light", media="screen"):
    """The page on another screen, in the other theme or on paper; afterwards as it was."""
    page.set_viewport_size(viewport)
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    page.emulate_media(media=media)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    try:
        yield
    finally:
        page.emulate_media(media="screen")
        page.evaluate("() => { document.documentElement.dataset.theme = 'light' }")
        page.set_viewport_size(DESKTOP)


def offences(page, gates):
    """What each gate finds, without the gates that find nothing."""
    return {name: found for name, gate in gates.items() if (found := page.evaluate(gate))}


def test_pages_are_those_of_the_table_of_contents(site):
    toctrees = re.findall(r"^```\{toctree\}\n(.*?)^```", (SRC / "index.md").read_text(), re.S | re.M)
    named = {line for tree in toctrees for line in tree.split("\n") if line and not line.startswith(":")}
    built = {path.stem for path in site.glob("*.html")} - {"index", "search"}
    assert named == {*TEXT_PAGES, *chapter_names(), "api"} - {"index"}
    assert built == named | set(REFERENCE)


@pytest.mark.parametrize("name", PACKAGES)
def test_reference_says_something_of_every_public_name(site, name):
    page = (site / f"{file_name(name)}.html").read_text()
    assert not re.search(r"[\ue000-\uf8ff]", page)  # what docstrings.py puts in place of other characters
    for entry in entries(name):
        place = page.partition(f'id="{entry.path}"')[2].partition('<dt class="sig')[0]
        words = re.findall(r"\w+", re.sub(r"<[^>]+>", " ", place.partition("<dd>")[2]))
        assert len(words) > 3, entry.path
        assert "see above" not in place, entry.path  # above is its module, of which the page says nothing


@pytest.mark.parametrize("name", chapter_names())
def test_numbers_are_those_of_the_chapter(site, name):
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / f"{name}.html").read_text())).replace("’", "'")
    heading = re.search(r"^# (.+)$", (SRC / f"{name}.md").read_text(), re.M)[1]
    assert heading.startswith(f"{int(name[:2])}. ")
    sidebar = html.unescape(re.sub(r"<[^>]+>|\s+", " ", (site / "index.html").read_text())).replace("’", "'")
    assert heading.replace("`", "") in sidebar
    for label, words in chapter_labels(SRC / f"{name}.md").items():
        if not label.startswith("ch-") and re.search(r"\d", words):
            assert words in page, label


def dead_links(pages):
    """Links between the pages of a folder that lead to no file or to no place in it."""
    texts = {path.name: path.read_text() for path in pages.glob("*.html")}
    places = {name: {html.unescape(i) for i in re.findall(r'\bid="([^"]+)"', text)} for name, text in texts.items()}
    dead = []
    for name, text in texts.items():
        for link in {html.unescape(href) for href in re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text)}:
            target, _, place = unquote(link).partition("#")
            target = target.partition("?")[0] or name
            if re.match(r"[a-z]+:", target) or link == "#":
                continue
            if not (pages / target).exists() or (place and target in places and place not in places[target]):
                dead.append(f"{name}: {link}")
    return dead


def test_links_lead_somewhere(site, tmp_path):
    assert dead_links(site) == []
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here">x</a><a href="b.html">x</a><a href="#gone">x</a>')
    assert sorted(dead_links(tmp_path)) == ["a.html: #gone", "a.html: b.html"]


def test_next_from_the_cover_is_chapter_1(site):
    assert re.search(r'class="right-next"\s+href="01_directions.html"', (site / "index.html").read_text())


def test_page_is_whole_and_local(page):
    page.wait_for_load_state("networkidle")
    assert page.faults == []
    assert offences(page, GATES) == {}
    if page.name in chapter_names():
        assert page.locator("mjx-container").count() > 0


def test_axe_finds_nothing_serious(page, axe):
    page.evaluate(axe)
    without = [] if page.name == "01_directions" else ["div.highlight"]  # code has the same colours on every page
    assert page.evaluate(AXE_RUN, [without, []]) == []
    with as_seen(page, theme="dark"):
        assert page.evaluate(AXE_RUN, [without, ["color-contrast"]]) == []


def test_page_fits_a_phone(page):
    with as_seen(page, viewport=PHONE):
        assert offences(page, ON_PHONE) == {}


def test_page_goes_onto_paper(page):
    with as_seen(page, viewport=PAPER, theme="dark", media="print"):
        assert offences(page, ON_PAPER) == {}
        page.evaluate("() => { document.documentElement.dataset.theme = 'light' }")
        assert offences(page, ON_PAPER) == {}
    assert page.locator(".bd-article details[open]").count() == 0  # closed again on the screen


DRAWN = """input => {
  const box = input.closest('figure, [role=group], .cell_output, .output');
  const drawn = [...box.querySelectorAll('svg')].map(s => s.outerHTML);
  return drawn.concat([...box.querySelectorAll('canvas')].map(c => c.toDataURL())).join();
}"""


def test_every_slider_moves_its_figure(page):
    sliders = page.locator(".cell_output input[type=range]")
    if page.name in chapter_names():
        assert sliders.count() + page.locator(".cell_output button, .cell_output select").count() > 0
    for index in range(sliders.count()):
        slider = sliders.nth(index)
        before, at_end = slider.evaluate(DRAWN), slider.evaluate("input => input.value === input.max")
        slider.focus()
        page.keyboard.press("Home" if at_end else "End")
        page.wait_for_timeout(200)
        assert slider.evaluate(DRAWN) != before, f"slider {index + 1} moves nothing"
    assert offences(page, {"slider values": GATES["slider values"]}) == {}
    assert page.faults == []


def test_hints_and_solutions_open(page):
    for solution in page.locator(".solution.dropdown").all():
        assert not solution.locator("section").first.is_visible()
        solution.locator(".toggle-button").click()
        solution.locator("section").first.wait_for(state="visible", timeout=5000)
    hints = page.locator("details.sd-dropdown")
    if page.name in chapter_names():
        assert hints.count() > 0
        hints.first.locator("summary").click()
        assert hints.first.evaluate("hint => hint.open")


LUMINANCE = """element => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const of = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
                         return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b) };
  return [of(getComputedStyle(element).color), of(getComputedStyle(document.body).backgroundColor)];
}"""


def test_dark_mode_is_readable(page):
    with as_seen(page, theme="dark"):
        for selector in (
            ".bd-article p",
            ".bd-article figcaption .caption-text",
            ".bd-article .cell_output .text_html",
        ):
            for element in page.locator(selector).all()[:20]:
                text, ground = element.evaluate(LUMINANCE)
                assert ground < 0.05
                assert (text + 0.05) / (ground + 0.05) > 4.5, selector
        for image in page.locator(".bd-article img").all():  # figures bring colours for both modes
            assert image.evaluate("image => getComputedStyle(image).backgroundColor") == "rgba(0, 0, 0, 0)"


def test_dark_is_kept_from_page_to_page(browser, address):
    with opened(browser, f"{address}index.html", mode="dark") as page:
        assert page.locator("html").get_attribute("data-theme") == "dark"


def test_search_finds_a_term(browser, address):
    with opened(browser, f"{address}search.html?q=Bessel") as page:
        page.locator("#search-results li a").first.wait_for(timeout=10000)
        found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
        assert any("03_log_normalizer.html" in link for link in found)
        assert page.faults == []


def test_search_leads_to_the_section_by_keyboard(browser, address, axe):
    with opened(browser, f"{address}search.html?q=proposal+envelope") as page:
        links = page.locator("#search-results ul.sections a")
        links.first.wait_for(timeout=10000)
        page.wait_for_load_state("networkidle")
        found = links.evaluate_all("links => links.map(link => link.href.split('/').pop())")
        assert [link for link in found if link.startswith("02_distribution.html#")]
        assert all("#" in link for link in found)
        for text in page.locator("#search-results p.context").all_text_contents():
            assert re.search("propos|envelop", text, re.I)
            assert "\\" not in text  # no raw TeX
        page.evaluate(axe)
        assert page.evaluate(AXE_RUN, [[], []]) == []
        page.locator("#search-results a").first.focus()
        page.keyboard.press("Tab")
        target = page.evaluate("document.activeElement.href")
        page.keyboard.press("Enter")
        page.wait_for_url(target)
        section = page.locator(f"section[id='{target.partition('#')[2]}']")
        assert re.search("propos|envelop", section.inner_text(), re.I)
        assert abs(section.evaluate("section => section.getBoundingClientRect().top")) < 200
        assert page.faults == []


def test_book_goes_into_one_file_that_leads_inside_itself(site, browser, tmp_path):
    from pypdf import PdfReader

    out = tmp_path / "book.pdf"  # by the command: one process has one Playwright
    command = [sys.executable, BOOK / "tools" / "pdf.py", "--site", site, "--out", out, "notation", "references"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    sheets = int(re.search(r"^(\d+) pages in ", done.stdout, re.M)[1])
    book = PdfReader(out)
    assert len(book.pages) == sheets
    heads = [item for item in book.outline if not isinstance(item, list)]
    assert [item.title for item in heads] == ["Notation", "References"]
    first, last = map(book.get_destination_page_number, heads)
    assert 2 <= first < last
    texts = [page.extract_text() for page in book.pages]
    assert re.search(rf"Notation\D*{first + 1}\b", texts[1])  # the contents give the number that the sheet shows
    assert re.search(rf"\b{first + 1}\b", texts[first])
    assert "Directions and mixtures" in texts[first] + texts[first + 1]
    (density, *_) = book.outline[1]
    assert density.title == "The density"
    cited = "Govindarajan"  # the notation's last line leads to the references
    links = [link.get_object() for page in book.pages[first:last] for link in page.get("/Annots", [])]
    numbers = {page.indirect_reference.idnum: i for i, page in enumerate(book.pages)}
    targets = [numbers[link["/Dest"][0].idnum] for link in links if "/Dest" in link]
    assert any(cited in texts[target] for target in targets if target >= last)
    assert not [link for link in links if "127.0.0.1" in str(link.get("/A", {}).get("/URI", ""))]


PLANTED = [  # a gate, where it looks, and a defect
    (GATES, "formulas", {}, "article.insertAdjacentHTML('beforeend', '<span class=math>x</span>')"),
    (GATES, "raw TeX", {}, r"article.insertAdjacentHTML('beforeend', '<p>the \\mathbb{R} of it</p>')"),
    (GATES, "alternative texts", {}, "article.append(new Image())"),
    (GATES, "88 columns", {}, "document.head.append(Object.assign(document.createElement('style'), "
     "{textContent: '.bd-article div.highlight pre { font-size: 1rem !important }'}))"),
    (GATES, "slider values", {}, "article.querySelector('input[type=range]').ariaValueText = '7'"),
    (GATES, "description", {}, "document.querySelector('meta[name=description]').remove()"),
    (GATES, "headings", {}, "article.querySelector('section > h2').append('one word after the other, '.repeat(4))"),
    (GATES, "folds in a row", {}, "article.querySelectorAll('details.hide > summary > .collapsed')"
     ".forEach(e => e.textContent = 'Show code')"),
    (ON_PHONE, "page", {"viewport": PHONE}, "article.insertAdjacentHTML('beforeend', '<p style=width:800px>a</p>')"),
    (ON_PHONE, "formulas", {"viewport": PHONE}, "document.querySelectorAll('.bd-article div.math')"
     ".forEach(e => e.tabIndex = -1)"),
    (ON_PHONE, "formulas begin", {"viewport": PHONE}, "document.querySelectorAll('.bd-article div.math')"
     ".forEach(e => e.style.flexDirection = 'row-reverse')"),
    (ON_PHONE, "formulas in sentences", {"viewport": PHONE}, "article.insertAdjacentHTML('beforeend', '<p>"
     "<span class=math><mjx-container style=\"display:inline-block;min-width:500px\"></mjx-container></span></p>')"),
    (ON_PHONE, "words broken in tables", {"viewport": PHONE}, "article.insertAdjacentHTML('beforeend', '<table><tr>"
     "<td style=\"max-width:9px;padding:0;overflow-wrap:anywhere\">word</td></tr></table>')"),
    (ON_PHONE, "units", {"viewport": PHONE}, "article.insertAdjacentHTML('beforeend', '<table><tr>"
     "<td style=\"max-width:30px;padding:0\">12.53 ms</td></tr></table>')"),
    (ON_PAPER, "fading", {"media": "print"}, "article.querySelectorAll('details.hide > :not(summary)')"
     ".forEach(e => e.style.setProperty('animation', 'collapsed-fade-in 9s', 'important'))"),
    (ON_PAPER, "answers", {"media": "print"}, "article.querySelectorAll('.given').forEach(e => e.className = '')"),
    (ON_PAPER, "division", {"media": "print"}, "article.insertAdjacentHTML('beforeend', "
     "'<table style=break-inside:avoid>' + '<tr><td>a</td></tr>'.repeat(13) + '</table>')"),
    (ON_PAPER, "title", {"media": "print"}, "document.querySelector('#jb-print-docs-body h1').style"
     ".setProperty('margin', '0', 'important')"),
    (ON_PAPER, "folds", {"media": "print"}, "article.querySelector('details').open = false"),
    (ON_PAPER, "code", {"media": "print", "viewport": PAPER},
     "article.querySelectorAll('pre').forEach(e => e.style.whiteSpace = 'pre')"),
    (ON_PAPER, "light", {"media": "print"}, "document.documentElement.dataset.theme = 'dark'"),
    (ON_PAPER, "controls", {"media": "print"}, "const bar = document.querySelector('.bd-sidebar');"
     "bar.style.setProperty('display', 'block', 'important')"),
]  # fmt: skip


@pytest.fixture(scope="module")
def victim(browser, address):
    """A page with formulas, code, folds and a slider, in which the defects gather."""
    with opened(browser, f"{address}07_dino_vmf.html") as page:
        yield page


@pytest.mark.parametrize(("gates", "gate", "seen", "plant"), PLANTED, ids=[planted[1] for planted in PLANTED])
def test_a_planted_defect_is_found(victim, gates, gate, seen, plant):
    with as_seen(victim, **seen):
        assert victim.evaluate(gates[gate]) == []
        victim.evaluate(f"() => {{ const article = document.querySelector('.bd-article'); {plant} }}")
        assert victim.evaluate(gates[gate]) != []


def test_axe_finds_planted_defects(browser, address, axe):
    with opened(browser, f"{address}index.html") as page:
        page.evaluate(axe)
        page.evaluate("""() => document.querySelector('.bd-article').insertAdjacentHTML('beforeend',
            '<p style="color:#999">pale</p><input type="range"><img src="_static/logo.svg">')""")
        found = {line.split(":")[0] for line in page.evaluate(AXE_RUN, [[], []])}
        assert found >= {"color-contrast", "label", "image-alt"}
