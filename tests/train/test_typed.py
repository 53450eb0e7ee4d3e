"""What stands in a file or in an override, and what it is by the type of its field: written out, one by one."""

import pytest

from vmflearn.train.config import ConfigError, load_config


def both(tmp_path, section, key, text):
    """The value of a key, from a file and from an override."""
    path = tmp_path / "c.yaml"
    path.write_text(f"{section}: {{{key}: {text}}}\n", encoding="utf-8")
    return [
        getattr(getattr(c, section), key) for c in (load_config(path), load_config(None, [f"{section}.{key}={text}"]))
    ]


@pytest.mark.parametrize("text", ["007", "12:30", "2024-01-01", "1e3", "yes", "true", "0x10", ".5", "=", "<<", "no"])
def test_text_is_as_written(tmp_path, text):
    assert both(tmp_path, "data", "root", text) == [text, text]


@pytest.mark.parametrize(
    "text",
    ["/d/train #1", "/d/a: b", "[x", "{x}", "*x", "&x", "!x", "it's", '"x', "'a' and 'b'", "- x", " x ", "a=b", "x\ny"],
)
def test_an_override_of_text_is_no_yaml(text):
    assert load_config(None, [f"--data.root={text}"]).data.root == text


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('"null"', "null"),
        ("'~'", "~"),
        ('"a b"', "a b"),
        ("'it''s'", "it's"),
        (r'"\u00e9\n"', "é\n"),
        ("'\"x\"'", '"x"'),
    ],
)
def test_quotes_around_all_of_it_are_taken_off(text, path):
    assert load_config(None, [f"data.root={text}"]).data.root == path


@pytest.mark.parametrize("text", ["null", "~", "Null"])
def test_null_is_nothing_where_there_may_be_nothing(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text("data: {root: x}\n")
    assert load_config(path, [f"data.root={text}"]).data.root is None
    with pytest.raises(ConfigError, match="name must be text, in quotes if it is meant, not"):
        load_config(None, [f"name={text}"])
    path.write_text(f"name: {text}\n")
    with pytest.raises(ConfigError, match="name must be text, in quotes if it is meant, not"):
        load_config(path)
    path.write_text(f'name: "{text}"\ndata:\n  root:\n  val_root: "{text}"\n')
    config = load_config(path)
    assert (config.name, config.data.root, config.data.val_root) == (text, None, text)


def test_a_block_is_text(tmp_path):
    (tmp_path / "c.yaml").write_text("data:\n  root: >-\n    null\n")
    assert load_config(tmp_path / "c.yaml").data.root == "null"


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("+3", 3), ("010", 10), ("1_000", 1000), ("9223372036854775807", 2**63 - 1)]
)
def test_whole_numbers_are_decimal(tmp_path, text, number):
    found = both(tmp_path, "run", "max_steps", text)
    assert found == [number, number]
    assert all(type(value) is int for value in found)


@pytest.mark.parametrize("text", ["0x10", "0o10", "0b1", "1e3", "1.0", "12:30", "", "null", "yes", "1 # x", "[1]"])
def test_what_is_no_whole_number_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"run\.max_steps must be a whole number, not"):
        load_config(None, [f"run.max_steps={text}"])
    (tmp_path / "c.yaml").write_text(f"run:\n  max_steps: {text.partition(' ')[0]}\n")
    if text != "1 # x":  # a comment in a file
        with pytest.raises(ConfigError, match=r"run\.max_steps must be a whole number, not"):
            load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 0.001), ("1.0E-3", 0.001), (".5", 0.5), ("5.", 5.0), ("1_0.5", 10.5), ("010", 10.0), ("2", 2.0)],
)
def test_numbers_are_decimal(tmp_path, text, number):
    found = both(tmp_path, "optimizer", "lr", text)
    assert found == [number, number]
    assert all(type(value) is float for value in found)


@pytest.mark.parametrize("text", ["nan", ".nan", "inf", ".inf", "0x10", "12:30", "1,5", "", "null", "true"])
def test_what_is_no_finite_number_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be a finite number"):
        both(tmp_path, "optimizer", "lr", text if text != "1,5" else "'1,5'")
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be a finite number"):
        load_config(None, [f"optimizer.lr={text}"])


def test_truth_values_are_true_and_false(tmp_path):
    for text in ("true", "True", "TRUE"):
        assert both(tmp_path, "run", "compile", text) == [True, True]
        assert both(tmp_path, "data", "cache", text) == [True, True]
        assert both(
            tmp_path,
            "head",
            "learn_magnitudes",
            text.replace("rue", "alse").replace("RUE", "ALSE").replace("t", "f").replace("T", "F"),
        ) == [False, False]
    for text in ("yes", "no", "on", "off", "y", "1", "null", ""):
        with pytest.raises(ConfigError, match=rf"run\.compile must be true or false, not '{text}'"):
            load_config(None, [f"run.compile={text}"])
        with pytest.raises(ConfigError, match=r"data\.cache must be one of auto, True, False, not"):
            load_config(None, [f"data.cache={text}"])


def test_a_free_mapping_is_guessed_by_short_rules(tmp_path):
    written = {
        **{
            "depth": "2",
            "eps": "1e-6",
            "scale": ".5",
            "zero": "007",
            "und": "1_0",
            "long": "9" * 400,
            "in": "{x: -1.5}",
        },
        **{"bias": "true", "norm": "null", "none": "", "act": "gelu", "size": '[8, "8"]', "word": '"true"', "dot": "."},
        **{
            "on": "yes",
            "time": "12:30",
            "day": "2024-01-01",
            "hex": "0x10",
            "big": "1e999",
            "nan": "nan",
            "inf": ".inf",
        },
    }
    expected = {
        **{"depth": 2, "eps": 1e-6, "scale": 0.5, "zero": 7, "und": 10, "long": 10**400 - 1, "in": {"x": -1.5}},
        **{"bias": True, "norm": None, "none": None, "act": "gelu", "size": [8, "8"], "word": "true", "dot": "."},
        **{
            "on": "yes",
            "time": "12:30",
            "day": "2024-01-01",
            "hex": "0x10",
            "big": "1e999",
            "nan": "nan",
            "inf": ".inf",
        },
    }
    text = "{" + ", ".join(f"{key}: {value}" for key, value in written.items()) + "}"
    (tmp_path / "c.yaml").write_text(f"model:\n  options: {text}\n")
    for config in (load_config(tmp_path / "c.yaml"), load_config(None, [f"model.options={text}"])):
        assert repr(config.model.options) == repr(expected)


def test_overrides_reach_into_sections_and_free_mappings(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "model: {options: {depth: 2, patch_size: 4}}\noptimizer: {lr: 1, batch_size: 64}\n"
    )
    config = load_config(
        tmp_path / "c.yaml", ["model.options.depth=3", "model.options.act=12:30", "optimizer={lr: 2, clip_grad: 3}"]
    )
    assert config.model.options == {"depth": 3, "patch_size": 4, "act": "12:30"}
    assert (config.optimizer.lr, config.optimizer.clip_grad) == (2.0, 3.0)
    assert config.optimizer.batch_size == 64, "a section given as a whole adds to the file's"
    assert load_config(tmp_path / "c.yaml", ["model.options={depth: 5}"]).model.options == {"depth": 5}
    assert load_config(None, ["seed=1", "seed=2"]).seed == 2
