"""The site builds without a warning, has the pages its table of contents names, and works in a browser, offline."""

import functools
import html
import http.server
import os
import re
import shutil
import threading
from contextlib import contextmanager

import pytest
from build_site import build
from chapters import BOOK, NOTEBOOKS, SRC, chapter_names
from labels import chapter_labels

pytestmark = pytest.mark.slow
TEXT_PAGES = sorted(path.stem for path in SRC.glob("*.md") if path.stem not in chapter_names())
PAGES = TEXT_PAGES + chapter_names()
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LOCAL_MATHJAX = BOOK / "_static" / "mathjax" / "tex-chtml.js"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built from the committed notebooks."""
    out = tmp_path_factory.mktemp("site") / "html"
    assert build(NOTEBOOKS, out) == 0
    return out


def test_a_broken_reference_stops_the_build(example, tmp_path, monkeypatch):
    import build_site

    src = tmp_path / "src"
    shutil.copytree(example / "src", src)
    monkeypatch.setattr(build_site, "SRC", src)
    monkeypatch.setattr(build_site, "chapter_names", lambda: ["09_example"])
    (src / "index.md").write_text("# Cover\n\nSee {ref}`ch-example`.\n\n```{toctree}\n09_example\n```\n")
    assert build(example / "notebooks", tmp_path / "good") == 0
    (src / "index.md").write_text("# Cover\n\nSee {ref}`ch-nowhere`.\n\n```{toctree}\n09_example\n```\n")
    assert build(example / "notebooks", tmp_path / "bad") != 0


def test_pages_are_those_of_the_table_of_contents(site):
    toctrees = re.findall(r"^```\{toctree\}\n(.*?)^```", (SRC / "index.md").read_text(), re.S | re.M)
    named = {line for tree in toctrees for line in tree.split("\n") if line and not line.startswith(":")}
    built = {path.stem for path in site.glob("*.html")} - {"index", "search"}
    assert built == named == set(PAGES) - {"index"}


@pytest.mark.parametrize("name", chapter_names())
def test_numbers_are_those_of_the_chapter(site, name):
    page = re.sub(r"<[^>]+>", "", (site / f"{name}.html").read_text())
    heading = re.search(r"^# (.+)$", (SRC / f"{name}.md").read_text(), re.M)[1]
    assert heading.startswith(f"{int(name[:2])}. ")
    sidebar = html.unescape(re.sub(r"<[^>]+>|\s+", " ", (site / "index.html").read_text())).replace("’", "'")
    assert heading.replace("`", "") in sidebar
    for label, words in chapter_labels(SRC / f"{name}.md").items():
        if not label.startswith("ch-") and re.search(r"\d", words):
            assert words in page, label


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it, or without local MathJax, these tests are skipped or, where it is required, fail."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None or not LOCAL_MATHJAX.exists():
        reason = "no Chromium on the path" if chromium is None else "no local MathJax: run book/tools/vendor.py"
        if os.environ.get("VMFLEARN_REQUIRE_BROWSER"):
            pytest.fail(f"{reason}, and VMFLEARN_REQUIRE_BROWSER is set")
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, "--disable-sync"])
        yield chrome
        chrome.close()


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
def opened(browser, url, *, width=1280, mode="light"):
    """A page of the site, its formulas set, with what went wrong while it loaded in `page.faults`."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.add_init_script(f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')")
    page = context.new_page()
    faults = page.faults = []
    local = (url.rsplit("/", 1)[0], "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else faults.append(f"external request {r.url}"))
    page.on("response", lambda r: faults.append(f"status {r.status}: {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda error: faults.append(f"page error {error}"))
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
    try:
        page.goto(url, wait_until="load")
        page.evaluate("async () => { if (document.querySelector('.math')) { await MathJax.startup.promise } }")
        yield page
    finally:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_and_local(browser, address, name):
    with opened(browser, f"{address}{name}.html") as page:
        page.wait_for_load_state("networkidle")
        assert page.faults == []
        assert page.locator("mjx-container").count() >= page.locator(".bd-article .math").count()
        assert page.locator("mjx-merror").count() == 0
        assert "\\(" not in page.locator(".bd-article").inner_text()
        if name in chapter_names():
            assert page.locator("mjx-container").count() > 0
        alts = page.eval_on_selector_all(".bd-article img", "images => images.map(image => image.alt)")
        assert all(len(alt) > 20 and "_images" not in alt for alt in alts), alts


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_narrow_screen(browser, address, name):
    with opened(browser, f"{address}{name}.html", width=390) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


DRAWN = """input => {
  const box = input.closest('figure, [role=group], .cell_output, .output');
  const drawn = [...box.querySelectorAll('svg')].map(s => s.outerHTML);
  return drawn.concat([...box.querySelectorAll('canvas')].map(c => c.toDataURL())).join();
}"""


@pytest.mark.parametrize("name", chapter_names())
def test_every_slider_moves_its_figure(browser, address, name):
    with opened(browser, f"{address}{name}.html") as page:
        sliders = page.locator(".cell_output input[type=range]")
        assert sliders.count() + page.locator(".cell_output button, .cell_output select").count() > 0
        for index in range(sliders.count()):
            slider = sliders.nth(index)
            assert slider.evaluate("input => input.labels.length > 0 || !!input.ariaLabel")
            before, at_end = slider.evaluate(DRAWN), slider.evaluate("input => input.value === input.max")
            slider.focus()
            page.keyboard.press("Home" if at_end else "End")
            page.wait_for_timeout(200)
            assert slider.evaluate(DRAWN) != before, f"slider {index + 1} moves nothing"
        assert page.faults == []


@pytest.mark.parametrize("name", chapter_names())
def test_hints_and_solutions_open(browser, address, name):
    with opened(browser, f"{address}{name}.html") as page:
        for solution in page.locator(".solution.dropdown").all():
            assert not solution.locator("section").first.is_visible()
            solution.locator(".toggle-button").click()
            solution.locator("section").first.wait_for(state="visible", timeout=5000)
        hints = page.locator("details.sd-dropdown")
        assert hints.count() > 0
        hints.first.locator("summary").click()
        assert hints.first.evaluate("hint => hint.open")


LUMINANCE = """element => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const of = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
                         return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b) };
  return [of(getComputedStyle(element).color), of(getComputedStyle(document.body).backgroundColor)];
}"""


@pytest.mark.parametrize("name", PAGES)
def test_dark_mode_is_readable(browser, address, name):
    with opened(browser, f"{address}{name}.html", mode="dark") as page:
        assert page.locator("html").get_attribute("data-theme") == "dark"
        for selector in (
            ".bd-article p",
            ".bd-article figcaption .caption-text",
            ".bd-article .cell_output .text_html",
        ):
            for element in page.locator(selector).all()[:20]:
                text, ground = element.evaluate(LUMINANCE)
                assert ground < 0.05
                assert (text + 0.05) / (ground + 0.05) > 4.5, selector
        images = page.locator(".bd-article .cell_output img")
        for image in images.all():  # the figures bring their own colours for both modes
            assert image.evaluate("image => getComputedStyle(image).backgroundColor") == "rgba(0, 0, 0, 0)"
