from pathlib import Path

import pytest
import yaml

from vmflearn.train.checkpoint import differences
from vmflearn.train.config import Config, ConfigError, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "scripts" / "configs").glob("*.yaml"))


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
    assert {"imagenet_vit_small16_ablation", "cifar10_ablation", "photos_ablation", "photos_book"} <= names
    assert len(names) == 2 * len(PAIRS) + 5


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
    marks = {mark for mark in ("(D)", "(P)", "(S)", "(V)") if mark in text}
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


@pytest.mark.parametrize(("text", "words"), [("- 1\n", "mapping"), ("a: [1\n", "not YAML")])
def test_bad_files_are_named(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_to_dict_is_plain():
    assert yaml.safe_load(yaml.safe_dump(Config().to_dict())) == Config().to_dict()
