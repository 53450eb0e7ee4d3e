"""Sphinx settings of the book. `book/tools/build_site.py` builds the site with them; everything it shows is local."""

import html
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "tools"))

import docstrings
import tables
from api import write_pages
from chapters import MACROS
from launch import theme_options

project = "vmflearn"
author = "the vmflearn authors"
copyright = author
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_exercise",
    "sphinx_proof",
    "sphinx_togglebutton",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
source_suffix = {".ipynb": "myst-nb", ".md": "myst-nb", ".rst": "restructuredtext"}
root_doc = "index"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "off"  # the outputs shown are the stored ones
nb_merge_streams = True
nb_ipywidgets_js = {}  # no ipywidgets: they would bring a second, older MathJax

numfig = True
math_numfig = True
numfig_format = {"figure": "Figure %s", "table": "Table %s", "code-block": "Listing %s", "section": "Section %s"}
math_eqref_format = "({number})"

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"
bibtex_reference_style = "author_year"

# The reference: one name in backquotes is a link where the library has such a name, and code where it has none.
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types and shapes stand in the docstrings
default_role = "py:obj"
napoleon_custom_sections = [("Attributes", "params_style")]  # as a list: their names are no references
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "sphinx_book_theme"
html_title = "vmflearn"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["book.js", "search.js"]
html_favicon = "_static/logo.svg"
html_logo = "_static/logo.svg"
html_show_sourcelink = False
html_domain_indices = False
html_use_index = False
html_theme_options = {
    "logo": {"text": "vmflearn"},
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar has the search field already
    "use_download_button": True,
    "use_fullscreen_button": True,
    "use_repository_button": False,
    **theme_options(HERE.parent / "CITATION.cff"),
}
togglebutton_open_on_print = False  # book.js does it, for hints and folded code too
togglebutton_hint = "Show"
togglebutton_hint_hide = "Hide"
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True

linkcheck_timeout = 20
linkcheck_anchors = False  # many pages make theirs by a script
linkcheck_workers = 10

mathjax3_config = {"tex": {"macros": MACROS}}
if (HERE / "_static" / "mathjax" / "tex-chtml.js").exists():
    mathjax_path = "mathjax/tex-chtml.js"
else:
    print("no local MathJax in book/_static/mathjax: formulas on the site will need the network")


def add_reference(app: Sphinx) -> None:
    """Write the reference's pages before any page is read, where the table of contents asks for them."""
    if re.search(r"^api$", (Path(app.srcdir) / "index.md").read_text(encoding="utf-8"), re.M):
        write_pages(Path(app.srcdir))


def number_by_chapter(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Number figures, equations, exercises and theorems by chapter (Figure 4.2), after the chapter's file name.

    Sphinx itself counts the chapters that exist, which would give other numbers while some are still to be written.
    """
    for page, kinds in env.toc_fignumbers.items():
        chapter = re.match(r"(\d+)_", page)
        lead = (int(chapter[1]),) if chapter else ()
        for numbers in kinds.values():
            for count, key in enumerate(sorted(numbers, key=numbers.__getitem__), start=1):
                numbers[key] = (*lead, count)
    return sorted(env.toc_fignumbers)


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Describe a page to search engines by its first paragraph, without its formulas."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        if isinstance(paragraph.parent, nodes.section) and len(paragraph.astext()) > 80:
            plain = [str(node) for node in paragraph.findall(nodes.Text) if not isinstance(node.parent, nodes.math)]
            text = html.escape(textwrap.shorten("".join(plain), 200, placeholder=" ..."))
            context["metatags"] += f'\n<meta name="description" content="{text}">'
            return


def setup(app: Sphinx) -> None:
    """Renumber after Sphinx has numbered, which it does at priority 500; napoleon too has that priority."""
    app.connect("builder-inited", add_reference)
    app.connect("autodoc-process-docstring", docstrings.before, priority=400)
    app.connect("autodoc-process-docstring", docstrings.after, priority=600)
    app.connect("autodoc-process-signature", docstrings.signature)
    app.connect("autodoc-skip-member", docstrings.skip)
    app.connect("doctree-read", docstrings.rejoin)
    app.connect("doctree-read", tables.join)
    app.connect("env-get-updated", number_by_chapter, priority=900)
    app.connect("html-page-context", describe)
