"""The site is built without a warning, or not at all; `test_pages.py` looks at what was built."""

import shutil

import build_site
import pytest

pytestmark = pytest.mark.slow


def test_a_broken_reference_stops_the_build(example, tmp_path, monkeypatch):
    src = tmp_path / "src"
    shutil.copytree(example / "src", src)
    monkeypatch.setattr(build_site, "SRC", src)
    monkeypatch.setattr(build_site, "chapter_names", lambda: ["09_example"])
    (src / "index.md").write_text("# Cover\n\nSee {ref}`ch-example`.\n\n```{toctree}\n09_example\n```\n")
    assert build_site.build(example / "notebooks", tmp_path / "good") == 0
    (src / "index.md").write_text("# Cover\n\nSee {ref}`ch-nowhere`.\n\n```{toctree}\n09_example\n```\n")
    assert build_site.build(example / "notebooks", tmp_path / "bad") != 0
