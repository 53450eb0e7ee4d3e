"""Make the PNG files of the drawings in book/_static: `python book/tools/drawing.py`.

A drawing is an SVG file. Notebooks carry it inside, as an attachment of its cell, which JupyterLab, VS Code and GitHub
show; JupyterLab shows no SVG there. Each PNG says in its entry `Source` of which SVG it was made, so that a test can
tell one that is out of date.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
from pathlib import Path

from browser import chromium
from chapters import BOOK
from PIL import Image, PngImagePlugin

STATIC = BOOK / "_static"
DRAWINGS = ("architecture.svg",)
SCALE = 2  # pixels of the PNG for one of the SVG
LINK = re.compile(r"(!\[[^\]]*\])\(_static/([\w-]+)\.svg\)")


def digest(svg: Path) -> str:
    """What a PNG says of its SVG."""
    return hashlib.sha256(svg.read_bytes()).hexdigest()


def attach(text: str, static: Path = STATIC) -> tuple[str, dict[str, dict[str, str]]]:
    """Markdown whose drawings are attachments, and the attachments of its cell, as nbformat has them."""
    attachments = {}
    for _, name in LINK.findall(text):
        png = (static / f"{name}.png").read_bytes()
        attachments[f"{name}.png"] = {"image/png": base64.b64encode(png).decode()}
    return LINK.sub(r"\1(attachment:\2.png)", text), attachments


def main() -> int:
    with chromium() as browser:
        for name in DRAWINGS:
            svg = STATIC / name
            width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg.read_text(encoding="utf-8")).groups())
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=SCALE)
            code = base64.b64encode(svg.read_bytes()).decode()
            page.set_content(f'<body style="margin:0"><img src="data:image/svg+xml;base64,{code}"></body>')
            page.evaluate("document.images[0].decode()")
            image = Image.open(io.BytesIO(page.screenshot())).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
            told = PngImagePlugin.PngInfo()
            told.add_text("Source", digest(svg))
            image.save(svg.with_suffix(".png"), pnginfo=told, optimize=True)
            print(svg.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
