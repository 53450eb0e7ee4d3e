"""A method of one's own: what is added, what is refused, and what a mistake in its file says."""

from dataclasses import dataclass
from typing import Literal

import pytest

from vmflearn.train import ConfigError, load_config
from vmflearn.train.methods import DINO, METHODS, Method, add_method
from vmflearn.train.methods.from_file import add_methods_from

MINE = """\
from dataclasses import dataclass
from typing import Literal
from vmflearn.train.methods import DINO, add_method

@dataclass
class Mine:
    name: Literal["mine"] = "mine"
    strength: float = 2.0

@add_method
class MyMethod(DINO):
    Settings = Mine
"""


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    """The methods of the library alone, before and after."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def write(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return folder / name


def test_a_method_from_a_file_is_chosen_by_its_name(tmp_path):
    assert add_methods_from(write(tmp_path, MINE)) == ["mine"]
    config = load_config(None, ["method.name=mine", "method.strength=3"])
    assert config.method.strength == 3
    assert METHODS["mine"].__name__ == "MyMethod"
    assert add_methods_from(tmp_path / "mine.py") == ["mine"]  # again: it is replaced
    with pytest.raises(ConfigError, match=r"unknown key method\.strenght; did you mean method\.strength\?"):
        load_config(None, ["method.name=mine", "method.strenght=3"])


def test_an_unknown_name_says_what_there_is(tmp_path):
    said = r"^method\.name must be one of dino, ibot, msn, not 'mine'; one of your own comes with --method-file FILE$"
    with pytest.raises(ConfigError, match=said):
        load_config(None, ["method.name=mine"])
    add_methods_from(write(tmp_path, MINE))
    with pytest.raises(ConfigError, match=r"must be one of dino, ibot, msn, mine, not 'yours'"):
        load_config(None, ["method.name=yours"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", r"mine\.py adds no method: put @add_method"),
        ("x = 1\n\ny = z\n", r"mine\.py, line 3: NameError: name 'z' is not defined"),
        ("x = (\n", r"mine\.py: SyntaxError: .*line 1"),
        (
            MINE.replace("mine", "msn"),
            r"line 10: ValueError: method MyMethod: the name msn is that of .*msn\.MSN; choose",
        ),
        (MINE + "1 / 0\n", r"line 13: ZeroDivisionError"),
    ],
)
def test_a_file_that_does_not_serve_is_refused(text, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        add_methods_from(write(tmp_path, text))
    assert list(METHODS) == ["dino", "ibot", "msn"]


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"method file .*absent\.py does not exist"):
        add_methods_from(tmp_path / "absent.py")
    with pytest.raises(ConfigError, match="is no file"):
        add_methods_from(tmp_path)
    with pytest.raises(ConfigError, match=r"its name must end in \.py"):
        add_methods_from(write(tmp_path, MINE, "mine.txt"))


def test_a_class_without_its_hooks_is_refused():
    class Half(Method):
        def update(self, aim):
            """Nothing."""

    with pytest.raises(ValueError, match="method Half lacks aim, centerings, create, divide, terms, work: define each"):
        add_method(Half)


def test_settings_must_name_the_method():
    class Nameless(DINO):
        Settings = None

    @dataclass
    class Settings:
        name: Literal["a"]

    for given in (None, dict, Settings):
        Nameless.Settings = given
        with pytest.raises(ValueError, match="method Nameless has no name: give it Settings"):
            add_method(Nameless)
