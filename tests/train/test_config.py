import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vmflearn.train.checkpoints.checkpoint import differences
from vmflearn.train.config import Config, ConfigError, DataConfig, ModelConfig, RunConfig, join_overrides, load_config
from vmflearn.train.methods import METHODS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "scripts" / "configs").glob("*.yaml"))
MODELS = sorted((ROOT / "book" / "models").glob("*.yaml"))


def test_defaults_pass_and_survive_yaml(tmp_path):
    config = load_config()
    assert config == Config()
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configurations_load(path):
    overrides = ["data.root=somewhere"]  # which a recipe for a folder leaves to its user
    config = load_config(path, overrides)
    assert config.name in (path.stem, "photos")


@pytest.mark.parametrize("path", [*CONFIGS, *MODELS], ids=lambda p: p.stem)
def test_what_is_stored_means_what_yaml_says(path):
    """Nothing in a recipe needs reading by type: PyYAML's guesses are the same, and so is the rest of the defaults."""
    config: Any = load_config(path, ["data.root=somewhere"])
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected: Any = Config()
    for key, value in stated.items():
        if not isinstance(value, dict):
            setattr(expected, key, value)
            continue
        if key == "method":
            expected.method = METHODS[value["name"]].Settings()
        section = getattr(expected, key)
        for name, inner in value.items():
            default = getattr(section, name)
            assert default is None or type(inner) in (type(default), list), f"{key}.{name}"
            setattr(section, name, tuple(inner) if isinstance(inner, list) else inner)
    expected.data.root = "somewhere"
    assert repr(config) == repr(expected)  # 1 and 1.0 differ


PAIRS = (
    "imagenet_vit_small16",
    "imagenet_vit_base16",
    "imagenet_vit_small8",
    "imagenette_vit_small16",
    "cifar10_vit_tiny",
)


def shipped(name):
    (path,) = [path for path in CONFIGS if path.stem == name]
    return load_config(path, ["data.root=somewhere"])


def test_shipped_configurations_are_all_here():
    names = {path.stem for path in CONFIGS}
    assert {f"{pair}_{method}" for pair in PAIRS for method in ("dino", "dino_vmf")} <= names
    others = {"imagenet_vit_small16_ablation", "cifar10_ablation", "photos_ablation", "photos_book", "photos_patches"}
    assert others <= names
    patches = {"imagenet_vit_small16", "imagenet_vit_base16", "imagenette_vit_small16", "photos_vit_tiny"}
    assert {f"{name}_{method}" for name in patches for method in ("ibot", "ibot_vmf")} <= names
    assert {"imagenet_vit_small16_msn", "photos_vit_tiny_msn"} <= names
    assert len(names) == 2 * len(PAIRS) + 1 + len(others) + 2 * len(patches) + 2


@pytest.mark.parametrize("pair", PAIRS)
def test_dino_and_dino_vmf_differ_in_what_is_stated_and_nothing_else(pair):
    """The method: normaliser and centring. On ImageNet also what the paper states otherwise than DINO's arguments."""
    dino, vmf = shipped(f"{pair}_dino"), shipped(f"{pair}_dino_vmf")
    stated = {
        f"name: {pair}_dino -> {pair}_dino_vmf",
        f"head.normalization: {'l2' if 'base' in pair else 'none'} -> vmf",
        "teacher.centering: logit -> probability",
    }
    if pair == "imagenet_vit_small16":
        stated |= {"teacher.temp_warmup_epochs: 30 -> 50"}
    if pair == "imagenet_vit_base16":
        stated |= {
            "head.learn_magnitudes: False -> True",
            "teacher.temp_warmup_epochs: 50 -> 30",
            "optimizer.batch_size: 1024 -> 512",
        }
    assert set(differences(dino.to_dict(), vmf.to_dict())) == stated


@pytest.mark.parametrize("name", ["imagenet_vit_small16", "imagenette_vit_small16", "photos_vit_tiny"])
def test_ibot_and_ibot_vmf_differ_in_normaliser_and_centring_alone(name):
    ibot, vmf = shipped(f"{name}_ibot"), shipped(f"{name}_ibot_vmf")
    found = {line for line in differences(ibot.to_dict(), vmf.to_dict()) if not line.startswith("name")}
    assert found == {"head.normalization: none -> vmf", "teacher.centering: logit -> probability"}


def test_msn_carries_its_published_settings():
    """Rates for its batch of 1024: from 2e-4 to 1e-3; sharpening 0.25."""
    config = shipped("imagenet_vit_small16_msn")
    scale = config.optimizer.batch_size / 256
    assert config.method.warmup_lr * scale == pytest.approx(2e-4)
    assert config.optimizer.lr * scale == pytest.approx(1e-3)
    assert config.teacher.temp / config.teacher.student_temp == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.name=simclr"], "method.name must be one of dino, ibot, msn, not 'simclr'"),
        (["method.name=ibot", "method.mask_ratios=[0, 1.2]"], "a mask's share must lie in"),
        (["method.name=ibot", "method.masks=1"], "unknown key method.masks; did you mean method.mask"),
        (["method.name=ibot", "method.patch_out_dim=64"], "shared_head=true scores both with the same prototypes"),
        (["method.name=ibot", "method.start_epoch=90"], "together longer than the run"),
        (["method.name=ibot", "teacher.centering=sinkhorn"], "iBOT centres its patches; give logit or probability"),
        (["method.name=msn"], "teacher.centering=probability: MSN has no centre"),
        (["method.name=msn", "teacher.centering=sinkhorn", "optimizer.accumulation=2"], "accumulation=2: the mean"),
        (["method.name=msn", "teacher.centering=sinkhorn", "method.dropped=1"], "method.dropped must be below 1"),
        (["method.name=msn", "method.stretch=0.5"], "method.stretch must be at least 1, not 0.5"),
        (["method.shared_head=false"], "unknown key method.shared_head"),
    ],
)
def test_settings_that_a_method_cannot_run_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(None, overrides)


def test_the_ablation_on_imagenet_is_the_recipe_at_100_epochs():
    ablation, recipe = shipped("imagenet_vit_small16_ablation"), shipped("imagenet_vit_small16_dino_vmf")
    assert differences(recipe.to_dict(), ablation.to_dict()) == [
        "name: imagenet_vit_small16_dino_vmf -> imagenet_vit_small16_ablation",
        "run.epochs: 800 -> 100",
    ]


def test_lengths_and_patches_of_the_paper():
    for name, epochs, patch in (("small16", 800, 16), ("base16", 400, 16), ("small8", 40, 8)):
        for method in ("dino", "dino_vmf"):
            config = shipped(f"imagenet_vit_{name}_{method}")
            assert config.run.epochs == epochs
            assert f"patch{patch}_" in config.model.backbone
            assert config.head.out_dim == 65536


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_recipe_says_where_its_values_come_from(path):
    """Or points to the one that it departs from; and no setting stands in it twice."""
    text = path.read_text(encoding="utf-8")
    assert "Source" in text or path.stem == "photos_vit_tiny_dino_vmf"
    marks = {mark for mark in ("(D)", "(I)", "(M)", "(P)", "(S)", "(V)") if mark in text}
    head = text[: text.index("name:")]
    assert all(mark in head for mark in marks)
    assert f"configs/{path.name}" in head or path.stem == "photos_vit_tiny_dino_vmf"


def test_overrides_win_and_keep_types(tmp_path):
    (tmp_path / "c.yaml").write_text("optimizer: {lr: 1.0e-3, batch_size: 64}\n")
    config = load_config(
        tmp_path / "c.yaml",
        ["--optimizer.lr=5e-4", "views.global_scale=[0.3, 1]", "--model.options={patch_size: 4}", "data.root=null"],
    )
    assert config.optimizer.lr == 5e-4
    assert config.optimizer.batch_size == 64
    assert config.views.global_scale == (0.3, 1.0)
    assert config.model.options == {"patch_size": 4}
    assert config.data.root is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lrr=1", ["unknown key optimizer.lrr", "did you mean optimizer.lr"]),
        ("optimiser.lr=1", ["unknown key optimiser", "did you mean optimizer"]),
        ("zzz=1", ["unknown key zzz", "known here"]),
        ("run.epochs=ten", ["run.epochs", "whole number", "'ten'"]),
        ("run.epochs=1.5", ["run.epochs", "whole number", "1.5"]),
        ("run.epochs=true", ["run.epochs", "whole number"]),
        ("optimizer.lr=.nan", ["optimizer.lr", "finite number"]),
        ("optimizer.lr=fast", ["optimizer.lr", "finite number", "'fast'"]),
        ("head.batch_norm=1", ["head.batch_norm", "true or false"]),
        ("head.normalization=L2", ["head.normalization", "none, l2, vmf", "'L2'"]),
        ("views.local_scale=[0.1]", ["views.local_scale", "pair of numbers"]),
        ("views.local_scale=[0.5, 0.1]", ["views.local_scale", "rising"]),
        ("views.blur_sigma=[0, 2]", ["views.blur_sigma", "rising positive", "[0.0, 2.0]"]),
        ("views.color_jitter=-1", ["views.color_jitter", "[0, 2.5]", "-1"]),
        ("views.color_jitter=2.6", ["views.color_jitter", "[0, 2.5]", "2.6"]),
        ("views.grey=1.5", ["views.grey", "[0, 1]", "1.5"]),
        ("model.options=3", ["model.options", "mapping"]),
        ("optimizer=3", ["optimizer", "section", "3"]),
        ("optimizer.lr", ["--section.key=value"]),
        ("teacher.temp=0", ["teacher.temp", "above 0"]),
        ("teacher.momentum=1.1", ["teacher.momentum", "[0, 1]"]),
        ("run.epochs=0", ["run.epochs", "at least 1"]),
        ("seed=-1", ["seed", "at least 0", "-1"]),
        ("data.source=folder", ["data.root"]),
        ("name.first=x", ["name", "x"]),
        ("name=", ["name must not be empty"]),
        ("name=..", ["name must be that of a folder", "'..'", "--run-dir"]),
        ("name=a/b", ["name must be that of a folder", "'a/b'"]),
        (f"name={256 * 'x'}", ["name must be that of a folder", "255 bytes", "(258 characters)"]),
        (f"name={86 * '€'}", ["name must be that of a folder"]),
        ("data.root=a\0b", ["data.root", "NUL", r"'a\x00b'"]),
        ("data.root=\ud800", ["data.root", "half a character"]),
        ("data.val_root=", ["data.val_root must not be empty"]),
        ("seed=18446744073709551616", ["seed", "whole number of size at most 9,223,372,036,854,775,807"]),
        (f"seed={5000 * '7'}", ["seed", "whole number", "(5002 characters)"]),
        ("optimizer.lr=1e300", ["optimizer.lr", "size at most 1,000,000", "'1e300'"]),
        (f"optimizer.lr={400 * '9'}", ["optimizer.lr", "size at most 1,000,000", "(402 characters)"]),
        ("optimizer.lr=-1e300", ["optimizer.lr", "size at most 1,000,000"]),
        ("views.blur_sigma=[1, 1e300]", ["views.blur_sigma", "size at most 1,000,000", "'1e300'"]),
        ("views.blur_sigma=[1e-30, 1]", ["views.blur_sigma", "rising positive", "1e-06 or more"]),
        ("teacher.temp=1e-30", ["teacher.temp", "above 0 (1e-06 or more)", "1e-30"]),
        ("run.device=meta", ["run.device=meta cannot be used", "cuda:1"]),
        ("run.device=gpu\n0", [r"run.device=gpu\n0 cannot be used"]),
        ("head.out_dim=1000000000000", ["head.out_dim=1000000000000", "2.6e+14 weights", "more than any device"]),
        ("head.hidden_dim=1000000", ["hidden_dim=1000000", "1.0e+12 weights", "more than any device"]),
        ("head.n_layers=1000000", ["n_layers=1000000", "weights, more than any device"]),
        ("views.global_size=1000000000", ["views.global_size=1000000000", "2.0e+18 pixels", "more than any device"]),
        ("views.n_local=10000000", ["n_local=10000000", "9.2e+10 pixels", "more than any device"]),
        (f"model.options={100 * '['}", ["model.options", "nested more than 20 deep"]),
    ],
)
def test_bad_settings_are_named(override, words):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "key", ["optimizer.warmup_epochs", "teacher.temp_warmup_epochs", "optimizer.freeze_last_layer_epochs"]
)
def test_a_warmup_longer_than_the_run_is_refused(key):
    short = ["run.epochs=4", "optimizer.warmup_epochs=0"]
    load_config(None, [*short, f"{key}=4"])
    with pytest.raises(ConfigError, match=rf"{key}=5 is longer than the run \(run.epochs=4\)"):
        load_config(None, [*short, f"{key}=5"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n", "mapping"),
        ("a: [1\n", "not YAML"),
        ("name: \xe9\n", "not YAML"),
        ("run:\n  epochs: 5\nseed: 1\nrun:\n  knn_k: 3\n", "has the key run twice, in lines 1 and 4; keep one"),
        ("run:\n  epochs: 5\n  knn_k: 3\n  epochs: 6\n", "has the key epochs twice, in lines 2 and 4; keep one"),
        ("model: {options: {depth: 1, depth: 2}}\n", "has the key depth twice, in lines 1 and 1"),
    ],
)
def test_bad_files_are_named(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=words) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_to_dict_is_plain():
    assert yaml.safe_load(yaml.safe_dump(Config().to_dict())) == Config().to_dict()


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(WORDS)
@example("\x85")
@example("1e-3")
@example("Null")
@example("'\"'")
def test_any_text_survives_files_and_overrides(tmp_path_factory, text):
    written = Config(
        data=DataConfig(source="folder", root=text, val_root=text),
        model=ModelConfig(backbone=text, options={"as": text, text: [text, 1, 1.5e-7, None, True]}),
        run=RunConfig(init_from=text),
    )
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_text(written.to_yaml(), encoding="utf-8")
    assert load_config(path) == written
    assert load_config(path).to_yaml() == written.to_yaml()
    assert yaml.safe_load(written.to_yaml()) == written.to_dict()
    single = "'" + text.replace("'", "''") + "'"
    read = load_config(None, [f"data.root={json.dumps(text)}", f"data.split={single}", "data.val_root=" + text + "/x"])
    assert (read.data.root, read.data.split, read.data.val_root) == (text, text, text + "/x")


def test_lists_that_are_one_object_are_written_twice():
    shared = [1, 2]
    config = Config(model=ModelConfig(options={"a": shared, "b": shared}))
    assert "&" not in config.to_yaml()


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["--data.root", "/d", "--seed=3"], ["--data.root=/d", "--seed=3"]),
        (["--data.root", "a=b c"], ["--data.root=a=b c"]),
        (["--optimizer.lr", "-1"], ["--optimizer.lr=-1"]),
        (["--data.root", ""], ["--data.root="]),
        (["--run.compile", "--seed", "1"], ["--run.compile", "--seed=1"]),
        (["stray", "--seed=1", "stray"], ["stray", "--seed=1", "stray"]),
        ([], []),
    ],
)
def test_two_words_of_a_command_line_are_one_override(words, joined):
    assert join_overrides(words) == joined
