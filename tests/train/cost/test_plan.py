"""The dry run: counts of steps and hours worked out by hand, every shipped recipe, and a table that lines up."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from vmflearn.data.photos import load_photos
from vmflearn.data.shard_writing import write_shards
from vmflearn.train.config import ConfigError, load_config
from vmflearn.train.cost.matrix_rate import matrix_rate
from vmflearn.train.cost.plan import Plan, describe, make_plan

CONFIGS = sorted((Path(__file__).parents[3] / "scripts" / "configs").glob("*.yaml"))
TINY = [
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=1",
    "head.out_dim=32",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "optimizer.batch_size=100",
    "optimizer.warmup_epochs=1",
    "run.epochs=3",
    "run.device=cpu",
]


def tiny(*more):
    return load_config(None, [*TINY, *more])


def test_steps_and_hours_are_those_of_the_arithmetic():
    plan = make_plan(tiny(), images=1050, devices=4, throughput=25.0)
    assert (plan.steps_per_epoch, plan.steps) == (10, 30)
    assert plan.hours == pytest.approx(30 * 100 / 25 / 3600)
    assert make_plan(tiny("run.max_steps=7"), images=1050).steps == 7
    assert make_plan(tiny("run.max_steps=99"), images=1050).steps == 30
    assert make_plan(tiny(), images=1050).hours is None


def test_a_utilisation_turns_into_a_throughput_by_the_rate_measured_here():
    plan = make_plan(tiny(), images=1000, devices=2, mfu=0.25)
    assert plan.throughput * plan.cost.operations.total == pytest.approx(0.25 * 2 * plan.peak)
    assert 1e8 < plan.peak < 1e15


def test_the_matrix_rate_is_that_of_a_product_and_leaves_random_numbers_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    rate = matrix_rate(torch.device("cpu"), "float32", seconds=0.02)
    assert torch.equal(torch.get_rng_state(), state)
    assert matrix_rate(torch.device("cpu"), "float64", seconds=0.02) < 1.5 * rate


def test_images_are_counted_where_they_can_be():
    assert make_plan(tiny()).images == len(load_photos("train").images)
    with pytest.raises(ConfigError, match=r"cannot be counted .*nowhere.* --images"):
        make_plan(tiny("data.source=folder", "data.root=nowhere"))


@pytest.fixture
def folder(tmp_path):
    for i in range(120):
        path = tmp_path / "images" / f"c{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "images"


def test_a_dry_run_opens_what_a_run_opens(tmp_path, folder):
    """Every kind of source, with what it has to say."""
    (folder / "c0" / "._1.png").touch()
    plan = make_plan(tiny("data.source=folder", f"data.root={folder}"))
    assert plan.images == 120
    assert describe(plan).splitlines()[-1] == "note: skipped because the name begins with a dot: c0/._1.png"
    write_shards(folder, tmp_path / "shards", shard_size=50)
    (tmp_path / "shards" / "index.npy").unlink()
    (tmp_path / "shards" / "manifest.json").unlink()
    assert make_plan(tiny("data.source=shards", f"data.root={tmp_path / 'shards'}")).images == 120
    folder.rename(tmp_path / "train")
    named = tiny("data.source=timm", "data.name=torch/image_folder", f"data.root={tmp_path}")
    assert make_plan(named).images == 120
    (tmp_path / "train").rename(folder)
    with pytest.raises(
        ConfigError, match=r"cannot be counted \(.*has no folder train .*give their number with --images"
    ):
        make_plan(named)


def test_a_dry_run_downloads_nothing(tmp_path):
    config = tiny("data.source=timm", "data.name=torch/cifar10", f"data.root={tmp_path}", "data.download=true")
    with pytest.raises(ConfigError, match=r"cannot be counted .* --images"):
        make_plan(config)
    assert not list(tmp_path.iterdir())


def test_parts_that_do_not_divide_a_share_are_refused_and_the_others_are_told():
    with pytest.raises(ConfigError, match=r"accumulation=3 does not divide the 25 images of a process .* over 4\)"):
        make_plan(tiny("optimizer.accumulation=3"), images=1000, devices=4)
    said = describe(make_plan(tiny("optimizer.accumulation=5"), images=1000, devices=4))
    assert "memory of a process (25 images in 5 parts, float32)" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"throughput": 1.0, "mfu": 0.5}, "not both"),
        ({"throughput": -1.0}, "--throughput must be above 0, not -1"),
        ({"mfu": 1.5}, r"--mfu is a share .* not 1.5"),
        ({"images": 0}, "--images must be above 0"),
        ({"images": 99}, "optimizer.batch_size=100 is larger than the data set"),
        ({"images": 1000, "devices": 3}, "optimizer.batch_size=100 is not a multiple of the 3 devices"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        make_plan(tiny(), **options)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_recipe_can_be_planned_without_data(path):
    config = load_config(path, ["data.root=nowhere", "views.n_local=1"])  # the fewer crops, the quicker
    plan = make_plan(config, images=1_281_167, throughput=1000.0)
    assert plan.steps == 1_281_167 // config.optimizer.batch_size * config.run.epochs
    text = describe(plan)
    assert f"{plan.steps:,}" in text
    assert f"{plan.cost.backbone:,}" in text


def test_the_table_lines_up_and_states_what_was_counted():
    text = describe(make_plan(tiny(), images=1000, devices=2, throughput=10.0))
    rows = [line for line in text.splitlines() if line.startswith("  ")]
    ends = {re.match(r"  .*?\S {2,}\S+(?: [GM]iB)?(?=  |$)", row).end() for row in rows}
    assert len(ends) == 1, text
    assert re.search(r"device hours +0\.1667 +on 2 devices", text)
    assert "--throughput" not in text
    assert "give --throughput" in describe(make_plan(tiny(), images=1000))


def test_a_network_without_tokens_has_no_line_for_them():
    plan = make_plan(tiny(), images=1000)
    without = Plan(plan.config, 1000, 1, dataclasses.replace(plan.cost, student_tokens=None, teacher_tokens=None))
    assert "tokens" in describe(plan)
    assert "tokens" not in describe(without)
