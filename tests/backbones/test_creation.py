import inspect

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from vmflearn.backbones.creation import (
    attend_with_matrix,
    attention_maps,
    compile_blocks,
    create_backbone,
    evaluation_mode,
)

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.fixture
def vit() -> nn.Module:
    torch.manual_seed(0)
    return create_backbone("vit_tiny_patch16_224", **SMALL)


def test_the_class_token_after_the_final_norm(vit):
    images = torch.randn(2, 3, 32, 32)
    features = vit.eval()(images)
    assert features.shape == (2, vit.num_features) == (2, 48)
    torch.testing.assert_close(features, vit.forward_features(images)[:, 0])
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)  # a fresh LayerNorm's output


def test_attention_with_its_matrix_gives_the_same_values_and_gradients(vit):
    images, found = torch.randn(2, 3, 32, 32), []
    for _ in range(2):
        vit.zero_grad()
        features = vit(images)
        features.square().sum().backward()
        found.append([features.detach(), *(p.grad.clone() for p in vit.parameters() if p.grad is not None)])
        assert any(block.attn.fused_attn for block in vit.blocks) == (len(found) == 1)
        attend_with_matrix(vit)
    for fused, written in zip(*found, strict=True):
        torch.testing.assert_close(written, fused, rtol=1e-4, atol=1e-4)


def test_local_crops_go_through_the_same_network(vit):
    assert vit(torch.randn(2, 3, 16, 16)).shape == (2, 48)
    assert vit(torch.randn(2, 3, 16, 40)).shape == (2, 48)


def test_published_sizes():
    small = create_backbone("vit_small_patch16_224")
    assert sum(parameter.numel() for parameter in small.parameters()) == 21_665_664  # the paper's ViT-S/16
    assert small.num_features == 384


@pytest.mark.parametrize("rule", ["timm", "dino", "msn"])
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_any_number_of_channels_and_images_that_are_not_square(rule, channels):
    vit = create_backbone("vit_tiny_patch16_224", position_interpolation=rule, in_chans=channels, **SMALL)
    tokens = vit.forward_features(torch.randn(2, channels, 16, 40))
    assert tokens.shape == (2, 1 + 2 * 5, 48)
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(2, 11), atol=1e-5, rtol=0)  # after the final norm
    network = create_backbone("resnet10t", in_chans=channels)
    assert network(torch.randn(2, channels, 32, 48)).shape == (2, network.num_features)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="position_interpolation must be one of timm, dino, msn, got 'bilinear'"):
        create_backbone("vit_tiny_patch16_224", position_interpolation="bilinear")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_give_as_many_features_as_torchvisions(name):
    reference = getattr(torchvision.models, name)()
    network = create_backbone(name)
    assert network.num_features == reference.fc.in_features
    reference.fc = nn.Identity()
    network.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), reference.eval()(images))


def test_drop_path_grows_linearly():
    vit = create_backbone("vit_tiny_patch16_224", drop_path_rate=0.2, **SMALL | {"depth": 3})
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_other_networks_give_pooled_features():
    network = create_backbone("resnet10t")
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, network.num_features)


@pytest.mark.parametrize(("name", "width"), [("mobilenetv3_small_050", 1024), ("vgg11", 4096), ("ghostnet_050", 1280)])
def test_the_width_is_that_of_what_comes_out(name, width):
    """timm's own num_features are those before the last layers: 288, 512 and 480."""
    with torch.device("meta"):
        network = create_backbone(name).eval()
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, width)
    assert network.num_features == width


def test_options_of_timm_are_kept_and_may_be_overridden():
    assert create_backbone("vit_tiny_patch16_224", **SMALL).timm_options == SMALL | {"dynamic_img_size": True}
    assert create_backbone("resnet10t").timm_options == {}
    vit = create_backbone("vit_tiny_patch16_224", dynamic_img_size=False, **SMALL)
    assert vit.timm_options["dynamic_img_size"] is False
    with pytest.raises(AssertionError, match="doesn't match model"):
        vit(torch.zeros(1, 3, 16, 16))
    with pytest.raises(TypeError, match="dynamic_img_size"):  # asked for by the caller, and not had
        create_backbone("resnet10t", dynamic_img_size=True)


def test_the_weights_are_those_that_timm_draws():
    """What is tried first to learn a network's options draws no number."""
    for name, options in (("resnet10t", {}), ("vit_tiny_patch16_224", SMALL | {"dynamic_img_size": True})):
        torch.manual_seed(0)
        ours = create_backbone(name, **options).state_dict()
        torch.manual_seed(0)
        timms = timm.create_model(name, num_classes=0, **options).state_dict()
        assert all(torch.equal(ours[key], timms[key]) for key in timms)


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(
        ValueError, match=r"no backbone named 'vit_smal_patch16_224': did you mean .*vit_small_patch16_224"
    ):
        create_backbone("vit_smal_patch16_224")
    with pytest.raises(ValueError, match=r"no backbone named '#': timm\.list_models"):
        create_backbone("#")


def test_a_transformer_without_class_token_is_refused():
    with pytest.raises(ValueError, match="pools its tokens by 'avg' and gives no class token"):
        create_backbone("vit_tiny_patch16_224", global_pool="avg", **SMALL)


def test_attention_is_that_of_the_last_block(vit):
    vit.train()
    images = torch.randn(2, 3, 16, 32)
    maps = attention_maps(vit, images)
    assert maps.shape == (2, 3, 2, 4)
    assert vit.training
    assert not maps.requires_grad
    # Longhand, from the state of the network: tokens through the first block, then softmax(q k^T / 4) row by row.
    state = vit.eval().state_dict()
    seen = {}
    vit.blocks[0].register_forward_hook(lambda module, inputs, output: seen.update(tokens=output))
    with torch.no_grad():
        vit(images)
    dim = 48
    tokens = F.layer_norm(seen["tokens"], (dim,), state["blocks.1.norm1.weight"], state["blocks.1.norm1.bias"], 1e-6)
    weight, bias = state["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.bias"]
    for head in range(3):
        part = slice(16 * head, 16 * (head + 1))
        query = tokens[:, 0] @ weight[:dim][part].T + bias[:dim][part]
        key = tokens @ weight[dim : 2 * dim][part].T + bias[dim : 2 * dim][part]
        attention = torch.softmax(torch.einsum("bd,bnd->bn", query, key) / 4, dim=1)
        torch.testing.assert_close(maps[:, head].flatten(1), attention[:, 1:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "grid"),
    [
        ("deit_tiny_distilled_patch16_224", SMALL, (2, 4)),  # two tokens before the patches
        ("vit_tiny_r_s16_p8_224", {"img_size": 64, "embed_dim": 48, "depth": 1, "num_heads": 3}, (2, 4)),
    ],
)
def test_attention_of_transformers_with_other_tokens(name, options, grid):
    network = create_backbone(name, **options)
    side = 8 if name.startswith("deit") else 32
    maps = attention_maps(network, torch.randn(2, 3, side * grid[0], side * grid[1]))
    assert maps.shape == (2, 3, *grid)
    assert (maps.sum(dim=(2, 3)) < 1).all()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("eva02_tiny_patch14_224", SMALL, "need a Vision Transformer with a class token, got Eva"),  # turns q and k
        ("beit_base_patch16_224", SMALL, "got Beit"),  # adds a bias
        ("cait_xxs24_224", SMALL, "got Cait"),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2}, "got SwinTransformer"),
        ("vit_base_patch16_18x2_224", SMALL | {"depth": 1}, "a ParallelThingsBlock, attends in another way"),
        pytest.param(
            *("vit_tiny_patch16_224", SMALL | {"attn_layer": "diff"}, "a Block, attends in another way"),
            marks=pytest.mark.skipif(
                "attn_layer" not in inspect.signature(VisionTransformer).parameters,
                reason="this timm knows one kind of attention",
            ),
        ),
    ],
)
def test_attention_of_another_kind_is_refused(name, options, said):
    with torch.device("meta"):
        network = create_backbone(name, **options)
    with pytest.raises(ValueError, match=said):
        attention_maps(network, torch.zeros(1, 3, 32, 32, device="meta"))


@pytest.mark.parametrize("options", [{"qk_norm": True}, {"reg_tokens": 3}, {"attn_drop_rate": 0.5}])
def test_attention_is_the_matrix_that_timm_writes_down(options):
    vit, written = create_backbone("vit_tiny_patch16_224", **SMALL | options), []
    for block in vit.blocks:
        block.attn.q_norm.apply(lambda part: nn.init.normal_(part.weight) if isinstance(part, nn.LayerNorm) else None)
    attend_with_matrix(vit)
    vit.blocks[-1].attn.attn_drop.register_forward_pre_hook(lambda _, inputs: written.append(inputs[0]))
    maps = attention_maps(vit, torch.randn(2, 3, 16, 32))
    torch.testing.assert_close(maps.flatten(2), written[0][:, :, 0, vit.num_prefix_tokens :])


def test_attention_needs_a_class_token():
    with pytest.raises(ValueError, match="need a Vision Transformer with a class token, got Linear"):
        attention_maps(nn.Linear(2, 2), torch.zeros(1, 3, 8, 8))


def test_evaluation_mode_leaves_every_part_as_it_was():
    network = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), nn.Dropout())
    network[0].eval()

    def failing() -> None:
        with evaluation_mode(network):
            assert not any(part.training for part in network.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError("out")

    with pytest.raises(RuntimeError, match="out"):
        failing()
    assert [part.training for part in network.modules()] == [True, False, True, True]
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_compiled_blocks_share_programs_and_compute_the_same():
    """Ten blocks with ten rates of stochastic depth, two resolutions, with and without gradients: three programs."""
    import torch._dynamo as dynamo

    dynamo.reset()
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "depth": 10, "embed_dim": 16, "num_heads": 2, "drop_path_rate": 0.3}
    networks = [create_backbone("vit_tiny_patch16_224", **options) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    compile_blocks(networks[1])
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())
    large, small, found = torch.randn(4, 3, 32, 32), torch.randn(9, 3, 16, 16), []
    with dynamo.config.patch(error_on_recompile=False, fail_on_recompile_limit_hit=True):
        for network in networks:
            torch.manual_seed(1)  # stochastic depth draws outside of what is compiled
            loss = network(large).square().mean() + network(small).sin().mean()
            loss.backward()
            with torch.no_grad():
                found.append((loss.detach(), network(large), [p.grad for p in network.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mixer_s32_224"])
def test_only_transformers_have_blocks_to_compile(name):
    with torch.device("meta"):
        network = create_backbone(name)
    with pytest.raises(ValueError, match=f"got {type(network).__name__}"):
        compile_blocks(network)
