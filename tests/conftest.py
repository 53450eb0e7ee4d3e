"""What tests of several folders need: settings of a small run, and an empty environment with what is named."""

import signal
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).parent))  # preloaded.py

HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(autouse=True)
def signals():
    """What a script that was run in this process did with signals is no other test's matter."""
    yield
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


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
def small_run():
    """Settings that make the recipe for photographs a run of seconds: one epoch, two blocks, sixteen prototypes."""
    return [
        "head.out_dim=16",
        "head.hidden_dim=16",
        "head.bottleneck_dim=8",
        "model.options={img_size: 32, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",
        "views.global_size=32",
        "run.epochs=1",
        "optimizer.warmup_epochs=0",
        "optimizer.freeze_last_layer_epochs=0",
        "teacher.temp_warmup_epochs=0",
        "run.device=cpu",
    ]


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
