"""The reference shows docstrings as their readers in a terminal have them: formulas in lines, |x| as a length."""

import docutils.core
import pytest
import torch
from api import Entry, entries
from docstrings import after, before, rejoin, signature, skip
from docutils import nodes

from vmflearn.data import Household
from vmflearn.sphere import VonMisesFisher

DOCSTRING = """\
Scores of a row, s = g |v| over all x_ of it.

With lengths |w_k|,

    L = |W|^2 + ``2``     over rows
    M = 0

and :math:`\\|x\\|` as it is. ``a | b`` is code.

- a list

  goes on

Parameters
----------
x : Tensor, (n, dim)
    Rows of |x| = 1.

    Indented in a section: |not| a formula."""


def document(lines):
    """What docutils makes of a prepared docstring; the error stream stays empty."""
    settings = {"report_level": 1, "halt_level": 2}
    return docutils.core.publish_doctree("\n".join(lines), settings_overrides=settings)


def test_formulas_keep_their_lines_and_bars_are_bars():
    lines = DOCSTRING.partition("\nParameters")[0].split("\n")
    before(None, "function", "f", None, None, lines)
    tree = document(lines)
    (block,) = tree.findall(nodes.literal_block)
    assert block.astext() == "L = |W|^2 + 2     over rows\nM = 0"
    assert [p.astext() for p in tree.findall(nodes.paragraph)] == [
        "Scores of a row, s = g |v| over all x_ of it.",
        "With lengths |w_k|,",
        "and \\|x\\| as it is. a | b is code.",
        "a list",
        "goes on",
    ]
    assert [m.astext() for m in tree.findall(nodes.math)] == ["\\|x\\|"]


def test_sections_are_left_to_napoleon():
    lines = DOCSTRING.split("\n")
    before(None, "function", "f", None, None, lines)
    text = "\n".join(lines)
    assert "x : Tensor, (n, dim)\n    Rows of \\|x\\| = 1.\n\n    Indented in a section: \\|not\\| a formula." in text
    assert text.count("\n::\n") == 1


def test_parameters_that_are_something_together_stay_together():
    text = "Sum.\n\nParameters\n----------\nn, m : int\n    At least 1 and 2.\na, b\n    More, and so on.\n"
    lines = [*text.split("\n"), "Raises", "------", "OSError, ValueError", "    If not."]
    before(None, "function", "f", None, None, lines)
    assert not [line for line in lines if line.startswith(("n, m", "a, b"))]  # napoleon would part them
    assert "OSError, ValueError" in lines
    tree = nodes.document("", "")
    tree += [nodes.paragraph("", line) for line in lines if line]
    rejoin(None, tree)
    assert "\n\nn, m : int\n\n" in tree.astext()
    assert "\n\na, b\n\n" in tree.astext()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (":type x: Tensor, (n, dim)", ":type x: ``Tensor, (n, dim)``"),
        (":rtype: Tensor", ":rtype: ``Tensor``"),
        (":type x: `Config`", ":type x: `Config`"),
        (":param x: A type: of", ":param x: A type: of"),
    ],
)
def test_types_are_code(line, shown):
    lines = [line]
    after(None, "function", "f", None, None, lines)
    assert lines == [shown]


def test_a_colon_in_a_property_is_no_end_of_a_type():
    lines = ["The zero vector: the centre."]
    before(None, "property", "p", None, None, lines)
    assert ":" not in lines[0]
    after(None, "property", "p", None, None, lines)
    assert lines == ["The zero vector: the centre."]


def test_what_a_class_has_from_elsewhere_is_left_out():
    def shown(owner, name):
        return skip(None, "class", name, vars(owner)[name], False, None) is None

    assert shown(VonMisesFisher, "log_prob")
    assert shown(VonMisesFisher, "mean")
    assert not shown(torch.distributions.Distribution, "cdf")
    assert not shown(tuple, "index")  # a built-in method has no module
    assert not shown(Household, "gender")  # "Alias for field number 1"


def test_a_class_as_default_is_its_name():
    arguments = "(x, layer=<class 'timm.layers.mlp.Mlp'>, *, read=<function _output>, name=<class 'str'>, k=<factory>)"
    shown = "(x, layer=Mlp, *, read=_output, name=str, k=<factory>)"
    assert signature(None, "function", "f", None, None, arguments, None) == (shown, None)
    assert signature(None, "class", "C", None, None, None, None) == (None, None)


def test_a_class_without_bases_names_none():
    directives = {entry.path: entry.directive([]) for entry in entries("sphere") + entries("data")}
    assert ":show-inheritance:" in directives["vmflearn.sphere.VonMisesFisher"]
    assert ":show-inheritance:" not in directives["vmflearn.data.Photos"]


def test_public_is_what_a_package_lists_or_defines():
    listed = {entry.path for entry in entries("ssl")}
    assert "vmflearn.ssl.DINOHead" in listed
    assert "vmflearn.ssl.dino_crops" not in listed  # of views, and said there
    defined = {entry.path for entry in entries("views")}
    assert "vmflearn.views.crops.dino_crops" in defined
    assert not [path for path in defined if path.rpartition(".")[2].startswith("_")]
    assert "vmflearn.views.batched.dino_crops" not in defined  # imported there
    (tables,) = [entry for entry in entries("paper") if entry.path == "vmflearn.paper.TABLES"]
    assert isinstance(tables, Entry)
    assert len(tables.text) > 20


def test_a_session_shows_what_python_prints():
    lines = ["Rows x_ of it.", "", ">>> a_ == a_", "np.True_", "", "Then y_ too."]
    before(None, "function", "f", None, None, lines)
    tree = document(lines)
    assert [block.astext() for block in tree.findall(nodes.doctest_block)] == [">>> a_ == a_\nnp.True_"]
    assert [p.astext() for p in tree.findall(nodes.paragraph)] == ["Rows x_ of it.", "Then y_ too."]
