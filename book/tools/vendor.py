"""Put MathJax 3 into book/_static/mathjax, from its npm package: `python book/tools/vendor.py`.

The book then shows formulas without the network. Done once; the second call finds the version there and does nothing.
Without npm, or without the network, the site is still built, and its formulas need the network when it is read.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from chapters import BOOK, BUILD

VERSION = "3.2.2"
SHA512 = "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw=="
TARGET = BOOK / "_static" / "mathjax"
NEEDED = (  # the program, its fonts, the TeX extensions it loads by need, and what its menu loads for screen readers
    "tex-chtml.js",
    "output/chtml/fonts/woff-v2/",
    "input/tex/",
    "a11y/",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
    "sre/mathmaps/nemeth.json",
)


def fetch(folder: Path) -> Path | None:
    """Download the package into `folder` through npm; None, with the reason printed, if that is not possible."""
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: formulas on the site will need the network")
        return None
    command = [npm, "pack", f"mathjax@{VERSION}", "--silent", "--pack-destination", str(folder)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"npm could not fetch MathJax {VERSION} ({reason}): formulas on the site will need the network")
        return None
    return folder / f"mathjax-{VERSION}.tgz"


def unpack(package: Path, folder: Path) -> None:
    """Copy the needed files of the package into `folder`, after checking that it is the package we know."""
    if base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode() != SHA512:
        sys.exit(f"{package.name} is not the published MathJax {VERSION}: its checksum differs")
    with tarfile.open(package) as archive:
        for member in archive.getmembers():
            path = member.name.removeprefix("package/es5/")
            if member.isfile() and path.startswith(NEEDED) and ".." not in Path(path).parts:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(archive.extractfile(member).read())
    (folder / "VERSION").write_text(VERSION + "\n")


def main() -> int:
    marker = TARGET / "VERSION"
    if marker.exists() and marker.read_text().strip() == VERSION:
        return 0
    BUILD.mkdir(exist_ok=True)  # on the same disk as the target, so that it appears there whole or not at all
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        if package := fetch(Path(scratch)):
            unpack(package, Path(scratch) / "mathjax")
            shutil.rmtree(TARGET, ignore_errors=True)
            TARGET.parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / "mathjax").rename(TARGET)
            print(f"MathJax {VERSION} is in {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
