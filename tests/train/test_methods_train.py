"""Every method through the trainer: it goes on exactly where it was stopped, and is counted first."""

import math
import warnings

import pytest
import torch

from vmflearn.train import CheckpointError, ConfigError, build_model, load_config, pretrain
from vmflearn.train.cost.counting import count_cost
from vmflearn.train.cost.plan import describe, make_plan
from vmflearn.train.runs.records import read_metrics

pytestmark = pytest.mark.usefixtures("fewer_photos")
EVERY = 5
TINY = [
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=2",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2}",
    "model.drop_path=0.2",
    "head.out_dim=32",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "optimizer.batch_size=100",
    "optimizer.warmup_epochs=1",
    "optimizer.lr=0.01",
    "run.epochs=3",
    "run.log_every=1",
    "run.device=cpu",
]
IBOT = ["method.name=ibot", "method.patch_temp_warmup_epochs=1"]
METHODS = {
    "ibot": [*IBOT, "head.normalization=none", "teacher.centering=logit"],
    "ibot-vmf, separate heads": [*IBOT, "method.shared_head=false", "method.patch_out_dim=24"],
    "msn": ["method.name=msn", "head.normalization=l2", "teacher.centering=sinkhorn", "head.batch_norm=true"],
    "msn, patches of its own": [
        "method.name=msn",
        "teacher.centering=sinkhorn",
        "method.own_patches=true",
        "method.n_random=2",
    ],
}


def tiny(method, *more):
    return load_config(None, [*TINY, *METHODS[method], *more])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_ends_where_the_unbroken_one_ends(method, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    result = pretrain(tiny(method), whole, quiet=True)
    pretrain(tiny(method, "run.max_steps=4"), halves, quiet=True)  # within the second epoch
    again = pretrain(tiny(method), halves, quiet=True)
    assert result.steps == again.steps == 9
    lines = [read_metrics(folder / "metrics.jsonl") for folder in (whole, halves)]
    assert lines[0][4:] == lines[1][4:]
    second = "mean_entropy" if "msn" in method else "patch_loss"
    assert all(math.isfinite(line["loss"]) and math.isfinite(line[second]) for line in lines[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_counts_the_method(method):
    config = tiny(method)
    cost = count_cost(config)
    student = build_model(config)
    assert cost.backbone + cost.head <= sum(p.numel() for p in student.parameters())
    assert cost.trained == sum(p.numel() for p in student.parameters() if p.requires_grad)
    plan = describe(make_plan(config, images=1000))
    crops = "3 x 16 + 2 x 8" if "own" in method else "2 x 16 + 2 x 8"
    assert crops in plan


def test_ibot_costs_more_than_dino_and_msn_less():
    """On the same crops: iBOT takes patches through head and prototypes, MSN one view less twice, and fewer patches."""
    full = ["views.global_size=224", "views.local_size=96", "views.n_local=10", "head.out_dim=8192"]
    full += ["optimizer.batch_size=8"]
    dino = count_cost(load_config(None, full)).operations
    ibot = count_cost(load_config(None, [*full, "method.name=ibot"])).operations
    msn = count_cost(load_config(None, [*full, "method.name=msn", "teacher.centering=sinkhorn"])).operations
    assert ibot.student_forward == dino.student_forward
    assert ibot.teacher == dino.teacher == 2 * msn.teacher
    # rows through the head: 12 and 2 in DINO; with 392 patches of the teacher and 0.15 x 392 of the student in iBOT
    assert ibot.head / dino.head == pytest.approx((3 * (12 + 58.8) + 394) / (3 * 12 + 2))
    assert 0.6 < msn.total / dino.total < 0.7


def test_the_run_of_another_method_is_refused(tmp_path):
    pretrain(tiny("msn", "run.max_steps=1"), tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match=r"method\.name: msn -> ibot"):
        pretrain(tiny("ibot"), tmp_path, quiet=True)


@pytest.mark.parametrize("method", ["ibot", "msn"])
def test_a_backbone_without_patch_tokens_is_refused(method):
    config = load_config(None, [*TINY, *METHODS[method], "model.backbone=resnet18", "model.options={}"])
    with pytest.raises(ConfigError, match=f"method.name={method}, model.backbone=resnet18: patch tokens need"):
        build_model(config)


def test_a_grid_without_room_for_masks_is_refused(tmp_path):
    options = "model.options={img_size: 16, patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}"
    with pytest.raises(ConfigError, match=r"views\.global_size=16 .*at least 2 x 2 patches, got 1 x 1"):
        pretrain(tiny("ibot", options, "views.local_size=16"), tmp_path, quiet=True)


def test_msn_keeps_one_set_of_prototypes(tmp_path):
    pretrain(tiny("msn", "run.max_steps=3"), tmp_path, quiet=True)
    saved = torch.load(tmp_path / "checkpoints" / "step-00000003.pt", weights_only=True)
    student, teacher = saved["student"], saved["teacher"]
    assert torch.equal(student["head.prototypes.weight_v"], teacher["head.prototypes.weight_v"])
    assert not torch.equal(student["head.mlp.0.weight"], teacher["head.mlp.0.weight"])


DINO = ["head.normalization=l2", "teacher.centering=sinkhorn"]


@pytest.mark.parametrize("method", [DINO, METHODS["msn"]], ids=["dino", "msn"])
def test_fewer_images_than_prototypes_train_and_are_warned_of_once_a_run(method, tmp_path):
    few = ["optimizer.batch_size=20", "head.out_dim=64", "run.max_steps=3"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = pretrain(load_config(None, [*TINY, *method, *few]), tmp_path, quiet=True)
    rows = 20 if method is not DINO else 40
    told = [str(warning.message) for warning in seen if "Sinkhorn" in str(warning.message)]
    assert len(told) == 1
    assert f"balances {rows} rows of a batch over 64 components" in told[0]
    assert math.isfinite(result.metrics["loss"])
    assert result.steps == 3


@pytest.mark.parametrize("method", ["ibot", "msn"])
def test_a_patch_that_does_not_divide_the_crop_is_refused(method, tmp_path):
    options = "model.options={img_size: 16, patch_size: 5, embed_dim: 16, depth: 1, num_heads: 2}"
    with pytest.raises(ConfigError, match=r"views\.global_size=16 is not a multiple of the backbone's patch, 5"):
        pretrain(tiny(method, options), tmp_path, quiet=True)


def test_msn_learns_without_focal_views(tmp_path):
    result = pretrain(tiny("msn", "views.n_local=0", "run.max_steps=2"), tmp_path, quiet=True)
    assert math.isfinite(result.metrics["loss"])


def test_a_batch_without_masks_has_no_patch_loss_and_trains(tmp_path):
    """Its patch term is zero, and its gradients are finite: the mask token has one, of nought."""
    none = ["method.mask_ratios=[0, 0]", "method.mask_spreads=[0, 0]", "run.max_steps=2"]
    result = pretrain(tiny("ibot", *none), tmp_path, quiet=True)
    assert result.metrics["patch_loss"] == 0
    assert math.isfinite(result.metrics["gradient_norm"])
    assert "patch_teacher_entropy" not in result.metrics
    saved = torch.load(tmp_path / "checkpoints" / "step-00000002.pt", weights_only=True)
    assert not saved["student"]["mask_token"].any()
