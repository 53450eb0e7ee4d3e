"""YAML whose scalars stay text, against what is written; and what is refused in one line, with its place."""

import pytest

from vmflearn.yaml_text import MOST_NESTED, Quoted, YAMLTextError, read_yaml, write_yaml


def test_scalars_stay_as_written():
    found = read_yaml("a: 012\n12: [yes, 'no', \"1\", ~, 1e3]\nc: {d: 2024-01-01, e:}\nf: |\n  g\n'h': # i\n")
    assert found == {
        "a": "012",
        "12": ["yes", "no", "1", "~", "1e3"],
        "c": {"d": "2024-01-01", "e": ""},
        "f": "g\n",
        "h": "",
    }
    assert [type(item) for item in found["12"]] == [str, Quoted, Quoted, str, str]
    assert isinstance(found["f"], Quoted)
    assert read_yaml("") is None
    assert read_yaml("# nothing\n") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "has the key a twice, in lines 1 and 3; keep one"),
        ("a:\n  b: 1\n  b: 1\n", "has the key b twice, in lines 2 and 3; keep one"),
        ("- {a: 1, 'a': 2}\n", "has the key a twice, in lines 1 and 1; keep one"),
        ("<<: 1\n<<: 2\n", "has the key << twice, in lines 1 and 2; keep one"),
        ("a: 1\n[b]: 2\n", "has a key that is no word in line 2"),
        ("a: &x 1\nb: *x\n", "has an anchor or alias (x) in line 1; write the value out"),
        ("\na: *x\n", "has an anchor or alias (x) in line 2; write the value out"),
        ("a: !!python/object:os.system x\n", "has a tag (tag:yaml.org,2002:python/object:os.system) in line 1"),
        ("a: [1\n", "is not YAML: while parsing a flow sequence"),
        ("a: 1\n---\nb: 2\n", "is not YAML: expected a single document"),
        ("a: \0", "is not YAML: unacceptable character #x0000"),
        ("[" * 100_000, f"is nested more than {MOST_NESTED} deep in line 1"),
        (
            "".join(" " * i + "-\n" for i in range(200)),
            f"is nested more than {MOST_NESTED} deep in line {MOST_NESTED + 1}",
        ),
    ],
)
def test_what_is_refused_is_said_in_one_line(text, message):
    with pytest.raises(YAMLTextError) as error:
        read_yaml(text)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_depth_is_counted_down_again():
    text = "[" * (MOST_NESTED - 1) + "]" * (MOST_NESTED - 1)
    assert read_yaml(f"[{text[1:-1]}]") is not None
    assert len(read_yaml("\n".join(["- [x]"] * 100))) == 100


def test_what_would_be_guessed_is_written_in_quotes():
    assert write_yaml({"a": "1e-3", "b": "null", "c": "gelu", "d": 1e-3}) == 'a: "1e-3"\nb: "null"\nc: gelu\nd: 0.001\n'
