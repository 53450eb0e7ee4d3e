"""Backbones and options that do not fit are one line before anything starts, in a dry run too."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn

from vmflearn.train import ConfigError, build_model, load_config, state
from vmflearn.train.cost.counting import count_cost
from vmflearn.train.first_pass import check_crops
from vmflearn.train.state import State

OPTIONS = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


def configuration(backbone="vit_tiny_patch16_224", *more, **options):
    settings = [
        "views.global_size=16",
        "views.local_size=8",
        "views.n_local=1",
        f"model.backbone={backbone}",
        f"model.options={options}",
        "model.drop_path=0",
        "head.out_dim=8",
        "head.hidden_dim=8",
        "head.bottleneck_dim=4",
        "optimizer.batch_size=64",
        "optimizer.warmup_epochs=0",
        "run.device=cpu",
    ]
    return load_config(None, [*settings, *more])


BROKEN = {
    "patch_size": (0, "ZeroDivisionError: "),
    "num_heads": (0, "ZeroDivisionError: "),
    "embed_dim": (-16, "RuntimeError: .*negative dimension -16"),
    "act_layer": ("nothing_of_the_kind", "KeyError: 'nothing_of_the_kind'"),
    "class_token": (False, "AssertionError"),  # newer timm says why
    "checkpoint_path": ("nowhere.pth", "checkpoint_path=nowhere.pth: there is no such file"),
    "global_pool": ("avg", "gives no class token"),
    "nothing": (1, "unexpected keyword argument 'nothing'"),
    "num_classes": (10, "multiple values for keyword argument 'num_classes'"),
}


@pytest.mark.parametrize("option", BROKEN)
def test_options_that_do_not_fit_are_named(option):
    value, said = BROKEN[option]
    config = configuration(**OPTIONS | {option: value})
    for start in (count_cost, lambda config: State(config, torch.device("cpu"))):
        with pytest.raises(
            ConfigError, match=rf"^model.backbone=vit_tiny_patch16_224, model.options=.*'{option}': .*\}}: .*{said}"
        ) as caught:
            start(config)
        assert len(str(caught.value).splitlines()) == 1


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ConfigError, match=r"'num_heads': 3\}: AssertionError: dim should be divisible by num_heads"):
        build_model(configuration(**OPTIONS | {"num_heads": 3}))


LATE = {  # built without complaint, and found out by the first crop
    "channels": ({"in_chans": 4}, "model.options: in_chans=4, and crops have 3 channels; leave it out"),
    "one size": ({"dynamic_img_size": False}, r"views.local_size=8: model.backbone=.*doesn't match model \(16\)"),
    "patches": ({"patch_size": 5}, "views.global_size=16 is not a multiple of the backbone's patch, 5"),
}


@pytest.mark.parametrize("case", LATE)
@pytest.mark.parametrize("start", [count_cost, lambda config: State(config, torch.device("cpu"))], ids=["dry", "real"])
def test_what_the_first_step_would_have_said_is_said_before(case, start):
    options, said = LATE[case]
    with pytest.raises(ConfigError, match=said):
        start(configuration(**OPTIONS | options))


def test_a_network_that_gives_no_vector():
    for options, said in (
        ({"global_pool": ""}, r"gives \(1, 512, 1, 1\)"),
        ({"features_only": True}, "no single vector"),
    ):
        with pytest.raises(ConfigError, match=rf"model.backbone=resnet10t.*{said}"):
            count_cost(configuration("resnet10t", **options))


def test_a_size_is_checked_only_if_there_are_such_crops():
    config = configuration("vit_tiny_patch16_224", "views.n_local=0", **OPTIONS | {"dynamic_img_size": False})
    check_crops(config, build_model(config).backbone)


class Drawing(nn.Module):
    """A backbone that draws in every mode, counts in a buffer, and is partly in training mode."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.Dropout().eval()

    def forward(self, images):
        return (self.norm(images) + torch.rand(1)).mean(dim=(2, 3))


def test_nothing_of_the_run_is_touched():
    config, backbone = configuration(), Drawing()
    before = copy.deepcopy(backbone.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_crops(config, backbone)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.norm.training
    assert not backbone.frozen.training


def test_batch_norms_of_timm_keep_their_activations_on_several_gpus():
    """PyTorch's own conversion makes plain ones of them, that hold an activation and never call it."""
    backbone = build_model(configuration("mobilenetv3_small_050")).backbone
    before = sum(type(part) is BatchNormAct2d for part in backbone.modules())
    assert before > 20
    converted = state.convert_sync_batchnorm(backbone)
    assert sum(type(part) is SyncBatchNormAct for part in converted.modules()) == before
