import pytest
import torch
from torch import nn

from vmflearn.backbones.creation import create_backbone
from vmflearn.backbones.stochastic_depth import SubsetBlock
from vmflearn.weights.untold import untold_differences

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}


def network(name="vit_tiny_patch16_224", **changes):
    options = SMALL if name.startswith("vit") else {}
    return create_backbone(name, **options | changes)


def test_equal_networks_do_not_differ():
    assert untold_differences(network(), network()) == []
    assert untold_differences(network(), network(img_size=(32, 32), qkv_bias=True)) == []  # defaults, stated
    other = create_backbone("vit_small_patch16_224", **SMALL)
    assert untold_differences(network(), other) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"num_heads": 6}, ("blocks.0.attn.num_heads", 3, 6)),
        ({"act_layer": "relu"}, ("blocks.0.mlp.act", "GELU", "ReLU")),
        ({"norm_layer": "rmsnorm"}, ("norm", "LayerNorm", "RmsNorm")),
        ({"position_interpolation": "dino"}, ("position_interpolation", "timm", "dino")),
        ({"no_embed_class": False, "pre_norm": False, "global_pool": "token", "img_size": 32}, None),
    ],
)
def test_what_no_shape_tells_is_found(changes, found):
    differences = untold_differences(network(), network(**changes))
    assert (found in differences) if found else differences == []


def test_the_constant_of_a_norm_is_found():
    ours = network()
    ours.blocks[1].norm2.eps = 1e-5
    assert untold_differences(network(), ours) == [("blocks.1.norm2.eps", 1e-6, 1e-5)]


def test_a_grid_of_as_many_patches_is_found():
    wide, high = network(img_size=(16, 64)), network(img_size=(64, 16))
    assert wide.pos_embed.shape == high.pos_embed.shape
    assert ("patch_embed.grid_size", (2, 8), (8, 2)) in untold_differences(wide, high)


def test_a_function_is_compared_by_its_name():
    theirs, ours = nn.Identity(), nn.Identity()
    theirs.activation, ours.activation = torch.tanh, torch.sigmoid
    assert untold_differences(theirs, ours) == [("activation", "tanh", "sigmoid")]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_what_drops_in_training_is_not_compared(name):
    ours = network(name, drop_path_rate=0.3, drop_rate=0.2)
    if name.startswith("vit"):
        ours = network(name, drop_path_rate=0.3, proj_drop_rate=0.1, attn_drop_rate=0.2, patch_drop_rate=0.5)
        SubsetBlock.adopt(ours)
    assert untold_differences(network(name), ours.eval()) == []


def test_batch_norms_of_several_processes_are_those_of_one():
    from timm.layers import convert_sync_batchnorm

    for name in ("resnet10t", "mobilenetv3_small_050"):
        assert untold_differences(network(name), convert_sync_batchnorm(network(name))) == []
