"""Look whether the outside addresses in the book and the docstrings can be reached: `python book/tools/links.py`.

Sphinx's own checker does it, so the machine must be on the Internet. `--out DIR` says where its report goes; the
addresses that were not reached are printed, by page and line, and the command then ends with 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from build_site import assemble
from chapters import BOOK, BUILD, NOTEBOOKS

REACHED = ("working", "redirected")
ASIDE = ("unchecked", "ignored")  # places in a page, and links inside the book


def summary(found: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """What to say of the checker's report, and whether all is well."""
    asked = [link for link in found if link["status"] not in ASIDE]
    lost = [link for link in asked if link["status"] not in REACHED]
    lines = [f"{len(asked)} addresses, {len(asked) - len(lost)} reached"]
    if asked and len(lost) == len(asked):
        lines.append("no address at all was reached, which says more about the network here than about them")
    lines += [f"{link['filename']}:{link['lineno']}: {link['uri']}: {link['info'] or link['status']}" for link in lost]
    return lines, not lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILD / "links")
    out = parser.parse_args().out.resolve()
    pages = out.with_name(out.name + "-pages")
    assemble(NOTEBOOKS, pages)
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "linkcheck", "-d", str(out / "doctrees")]
    subprocess.run([*command, "-c", str(BOOK), str(pages), str(out)], check=False, stderr=subprocess.DEVNULL)
    report = out / "output.json"
    if not report.exists():
        sys.exit("the book could not be read: build it first (make html), which says why")
    lines, well = summary([json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()])
    print("\n".join(lines))
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
