"""Tokens of timm's Vision Transformers: whole, masked and left out, against the published order of operations."""

import pytest
import timm
import torch

from vmflearn.backbones.tokens import check_tokens, token_features
from vmflearn.ssl import create_backbone
from vmflearn.views.masking import MaskSpec, draw_kept, draw_masks

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def make(rule="timm", name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    return create_backbone(name, position_interpolation=rule, **{**TINY, **options}).double().eval()


def by_hand(vit, images, change):
    """Patch embedding, `change` on (batch, h w, dim), class token and positions, blocks, norm."""
    x = vit.patch_embed.proj(images).flatten(2).mT
    x = torch.cat([vit.cls_token.expand(len(x), -1, -1), change(x)], dim=1) + vit.pos_embed
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x)


@pytest.mark.parametrize("rule", ["timm", "dino", "msn"])
@pytest.mark.parametrize("side", [32, 24])
def test_whole_images_give_forward_features(rule, side):
    vit, images = make(rule), torch.randn(3, 3, side, side, dtype=torch.float64)
    assert torch.equal(token_features(vit, images), vit.forward_features(images))


def test_registers_stay_in_front():
    vit = make(reg_tokens=2)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(token_features(vit, images), vit.forward_features(images))
    assert token_features(vit, images, kept=torch.tensor([[3, 5]])).shape == (2, 5, 24)


def test_masked_patches_are_replaced_before_class_token_and_positions():
    vit, images = make(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    masks = draw_masks(MaskSpec((0.5,), (0.0,)), (4, 4), seed=0, epoch=0, indices=range(4), crop=0)
    masks[1] = False
    masks[2] = True
    token = torch.randn(1, 24, dtype=torch.float64)

    def change(x):
        return torch.stack(
            [torch.stack([token[0] if m else p for m, p in zip(mask, patches, strict=True)])
             for mask, patches in zip(masks.flatten(1), x, strict=True)]
        )  # fmt: skip

    found = token_features(vit, images, masks=masks, mask_token=token)
    torch.testing.assert_close(found, by_hand(vit, images, change), rtol=1e-12, atol=1e-12)
    assert torch.equal(found[1], token_features(vit, images)[1])


def test_the_mask_token_gets_a_gradient_where_nothing_is_masked():
    vit, token = make(), torch.zeros(1, 24, dtype=torch.float64, requires_grad=True)
    images, masks = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.zeros(2, 4, 4, dtype=torch.bool)
    token_features(vit, images, masks=masks, mask_token=token).sum().backward()
    assert torch.equal(token.grad, torch.zeros(1, 24, dtype=torch.float64))


@pytest.mark.parametrize("own", [False, True])
def test_left_out_patches_take_no_part(own):
    vit, images = make(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    kept = draw_kept(16, 0.4, *((0, torch.arange(3)) if own else (0,)))
    found = token_features(vit, images, kept=kept)
    for i in range(3):
        chosen = kept[i if own else 0]
        x = vit._pos_embed(vit.patch_embed(images[i : i + 1]))[:, [0, *(1 + chosen)]]
        torch.testing.assert_close(found[i : i + 1], vit.norm(vit.blocks(x)), rtol=1e-12, atol=1e-12)
    changed = images.clone()
    out = next(j for j in range(16) if j not in kept[0])  # pixels of a patch that image 0 leaves out
    changed[0, :, 8 * (out // 4) : 8 * (out // 4) + 8, 8 * (out % 4) : 8 * (out % 4) + 8] += 100
    assert torch.equal(token_features(vit, changed, kept=kept)[0], found[0])


def test_masks_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"masks must have shape \(2, 4, 4\), the grid of patches, got \(2, 14, 14\)"):
        token_features(
            make().float(), torch.zeros(2, 3, 32, 32), masks=torch.zeros(2, 14, 14), mask_token=torch.zeros(1, 24)
        )


def test_networks_without_patch_tokens_are_refused():
    check_tokens(make())
    pooled = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", depth=1)
    for network in (timm.create_model("resnet10t", num_classes=0), pooled):
        with pytest.raises(ValueError, match="patch tokens need a Vision Transformer of timm with a class token"):
            check_tokens(network)
