"""A network of each of timm's families as backbone: counted, trained for a step, exported, and read back by timm."""

import json
import warnings

import pytest
import timm
import torch

from vmflearn.ssl import ProbabilityCentering, load_published
from vmflearn.train import ConfigError, StepSettings, build_model, load_config, training_step
from vmflearn.train.cost.counting import count_cost
from vmflearn.train.first_pass import check_crops
from vmflearn.train.methods import DINO
from vmflearn.train.optimizer import make_optimizer
from vmflearn.train.runs.folder import export_backbone

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
SWIN = {"img_size": 32, "embed_dim": 24, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}

FAMILIES = {  # name: options, size of the local crops, width of the features
    "vit_tiny_patch16_224": (VIT | {"reg_tokens": 2}, 16, 48),
    "deit_tiny_distilled_patch16_224": (VIT, 16, 48),
    "deit3_small_patch16_224": (VIT, 16, 48),
    "beit_base_patch16_224": (VIT, 32, 48),
    "eva02_tiny_patch14_224": (VIT, 16, 48),
    "cait_xxs24_224": (VIT, 32, 48),
    "swin_tiny_patch4_window7_224": (SWIN, 16, 48),
    "vit_tiny_r_s16_p8_224": ({"img_size": 64, "embed_dim": 48, "depth": 1, "num_heads": 3}, 32, 48),
    "vit_relpos_small_patch16_224": (VIT, 32, 48),
    "mobilenetv3_small_050": ({}, 16, 1024),
    "convnext_atto": (CONVNEXT, 32, 32),
    "resnet10t": ({}, 16, 512),
}
ONE_SIZE = ["beit_base_patch16_224", "cait_xxs24_224", "vit_relpos_small_patch16_224"]
WITHOUT_DEPTH = ["vgg11", "densenet121"]


def configuration(name, options, local, *more):
    settings = [
        f"model.backbone={name}",
        f"model.options={json.dumps(options)}",
        f"views.global_size={options.get('img_size', 32)}",
        f"views.local_size={local}",
        "views.n_local=1",
        "model.drop_path=0",
        "head.out_dim=16",
        "head.hidden_dim=16",
        "head.bottleneck_dim=8",
        "optimizer.batch_size=4",
    ]
    return load_config(None, [*settings, *more])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_and_an_export_of_every_family(name, tmp_path):
    options, local, width = FAMILIES[name]
    config = configuration(name, options, local)
    torch.manual_seed(0)
    student, teacher = build_model(config), build_model(config).requires_grad_(False)
    if name.startswith("swin") and tuple(map(int, timm.__version__.split(".")[:3])) <= (1, 0, 26):
        with pytest.raises(ConfigError, match="takes images of one size alone"):  # timm's Swin did then
            check_crops(config, student.backbone)
        return
    check_crops(config, student.backbone)
    teacher.load_state_dict(student.state_dict())
    assert student.backbone.num_features == width
    size = config.views.global_size
    crops = [torch.randn(4, 3, side, side) for side in (size, size, local)]
    settings = StepSettings(lr=1e-3, weight_decay=0.1, momentum=0.9, student_temp=0.1, teacher_temp=0.05)
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    training_step(DINO(student, teacher, ProbabilityCentering(16)), make_optimizer(student), crops, settings)
    moved = [
        key for key, tensor in teacher.backbone.state_dict().items() if not tensor.equal(before[f"backbone.{key}"])
    ]
    assert moved

    export_backbone(config, teacher, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = timm.create_model(f"local-dir:{tmp_path / 'backbone'}", pretrained=True).eval()
    ours, _ = load_published(tmp_path / "backbone" / "model.safetensors")
    teacher.eval()
    with torch.no_grad():
        for crop in crops:
            expected = teacher.backbone(crop)
            assert expected.shape == (4, width)
            assert torch.equal(exported(crop), expected)
            assert torch.equal(ours(crop), expected)


def test_a_dry_run_counts_other_families():
    """CaiT hands its class token, a parameter, to a layer, which PyTorch's counter does not bear without gradients."""
    options, local, width = FAMILIES["cait_xxs24_224"]
    config = configuration("cait_xxs24_224", options, local)
    cost, built = count_cost(config), build_model(config)
    assert cost.backbone == sum(p.numel() for p in built.backbone.parameters())
    assert cost.head == sum(p.numel() for p in built.head.parameters())
    assert built.head.in_dim == width
    assert cost.student_tokens is None
    assert cost.operations.total > 0
    assert cost.memory.activations > 0


def test_layers_that_are_shared_are_counted_once():
    """CoaT's blocks share their positional encodings; emptying such a network under fake tensors failed."""
    options = {"img_size": 32, "embed_dims": [64, 64, 64, 64], "serial_depths": [2, 1, 1, 1], "mlp_ratios": [1] * 4}
    config = configuration("coat_lite_tiny", options, 32)
    assert count_cost(config).backbone == sum(p.numel() for p in build_model(config).backbone.parameters())


@pytest.mark.parametrize("name", ONE_SIZE)
def test_a_network_of_one_image_size_is_refused_before_anything_is_counted(name):
    config = configuration(name, VIT, 16)
    with pytest.raises(
        ConfigError, match=rf"^views.local_size=16: model.backbone={name} with model.options=.*one size"
    ):
        count_cost(config)


@pytest.mark.parametrize("name", WITHOUT_DEPTH)
def test_a_network_without_stochastic_depth_is_built_without_and_refused_with_it(name):
    with torch.device("meta"):
        build_model(configuration(name, {}, 32))
    with pytest.raises(ConfigError, match=rf"model.backbone={name}.*no stochastic depth.*model.drop_path of a run"):
        build_model(configuration(name, {}, 32, "model.drop_path=0.1"), drop_path=0.1)
