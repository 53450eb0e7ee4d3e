"""An empty environment that holds what is named and what that needs, linked from this one."""

import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(requirements):
    """The installed distributions of requirements, and all that these need."""
    environment = {**default_environment(), "extra": ""}
    found, todo = {}, [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate(environment)):
            continue
        found[name] = metadata.distribution(name)
        todo += [Requirement(text) for text in found[name].requires or []]
        for extra in requirement.extras:
            inside = {**environment, "extra": extra}
            for text in found[name].requires or []:
                more = Requirement(text)
                if more.marker and more.marker.evaluate(inside):
                    more.marker = None
                    todo.append(more)
    return found.values()


def merge(source, target):
    """Link what a folder holds into a folder of the same name."""
    if target.is_symlink():
        first = target.resolve()
        target.unlink()
        merge(first, target)
    target.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry)


@pytest.fixture(scope="session")
def bare_environment():
    """Make an environment in a folder, with requirements linked; returns its site-packages and its Python."""

    def make(folder, requirements):
        venv.create(folder, with_pip=False)
        (site,) = folder.glob("[Ll]ib/**/site-packages")
        for distribution in needed(requirements):
            files = distribution.files or []
            for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
                source, link = Path(distribution.locate_file(top)), site / top
                if source.is_dir() and (link.exists() or top in ("nvidia", "google", "torch", "mpl_toolkits")):
                    merge(source, link)  # a folder that several distributions share
                elif not link.exists():
                    link.symlink_to(source)
        return site, next(folder.glob("bin/python"))

    return make
