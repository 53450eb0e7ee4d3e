"""The page for the first minutes with a GPU names every test that needs one, and words that stand where it says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "benchmarks" / "GPU.md").read_text(encoding="utf-8")


def test_every_test_that_needs_a_gpu_is_in_both_forms_of_the_command():
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "\n@pytest.mark.gpu" in path.read_text("utf-8")}
    wanted = {str(path.relative_to(ROOT)) for path in marked}
    commands = re.findall(r"python -m pytest -m gpu ((?:tests/\S+\.py|\\\n| )+)", PAGE)
    assert [set(re.findall(r"tests/\S+\.py", command)) for command in commands] == [wanted, wanted]


def test_the_words_that_a_figure_replaces_stand_where_the_page_says():
    rows = re.findall(r'^\|[^|]*\|[^|]*\| `([^`]+)` \| "(.+?)"(?:;|\s*\|)', PAGE, re.M)
    assert len(rows) > 10
    for path, words in rows:
        text = " ".join((ROOT / path).read_text(encoding="utf-8").split())
        assert words in text, f"{path}: {words}"
