"""Buttons that open a chapter where it can be run, made from the repository's public address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

BINDER = "https://mybinder.org"


def theme_options(citation: Path) -> dict[str, Any]:
    """What the theme is told of the repository: nothing until CITATION.cff has its address as `repository-code`.

    Binder builds the repository with `.binder`, and opens what `.binder/postBuild` writes into book/lab. Colab is not
    offered: it opens notebooks that a repository holds, which are in MyST here, and has no library to run them with.
    """
    address = yaml.safe_load(citation.read_text(encoding="utf-8")).get("repository-code")
    if not address:
        return {}
    return {
        "repository_url": address.removesuffix("/").removesuffix(".git"),
        "repository_branch": "main",
        "path_to_docs": "book/lab",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {"binderhub_url": BINDER, "notebook_interface": "jupyterlab"},
    }
