"""Positional embeddings on another grid, against the bicubic kernel written out."""

import copy

import numpy as np
import pytest
import torch

from vmflearn.backbones.creation import create_backbone
from vmflearn.backbones.positions import resize_positions


def keys_kernel(t, a=-0.75):
    """Keys' cubic convolution with the parameter that PyTorch uses."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def bicubic_matrix(old, new, offset):
    """Weights (new, old) of one axis: point i lies at (i + 1/2) old/(new + offset) - 1/2, and the border repeats."""
    matrix = np.zeros((new, old))
    for i in range(new):
        x = (i + 0.5) * old / (new + offset) - 0.5
        for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            matrix[i, min(max(j, 0), old - 1)] += keys_kernel(x - j)
    return matrix


@pytest.mark.parametrize("offset", [0.1, 0.0])
@pytest.mark.parametrize(
    ("old", "new"),
    [((14, 14), (6, 6)), ((14, 14), (30, 53)), ((6, 6), (4, 9)), ((6, 6), (1, 1)), ((3, 5), (5, 3)), ((7, 7), (7, 8))],
)
def test_the_resize_is_the_bicubic_kernels(old, new, offset):
    table = torch.randn(1, 1 + old[0] * old[1], 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = resize_positions(table, old, new, offset)
    rows, columns = (bicubic_matrix(before, after, offset) for before, after in zip(old, new, strict=True))
    patches = np.einsum("ih,jw,hwd->ijd", rows, columns, table[0, 1:].reshape(*old, 5).numpy()).reshape(-1, 5)
    assert torch.equal(got[:, 0], table[:, 0])
    np.testing.assert_allclose(got[0, 1:].numpy(), patches, atol=1e-12)


@pytest.mark.parametrize("offset", [0.1, 0.0])
def test_the_tables_own_grid_stays_untouched(offset):
    table = torch.randn(1, 17, 3)
    assert resize_positions(table, (4, 4), (4, 4), offset) is table
    assert resize_positions(table, (2, 8), (2, 8), offset) is table
    assert not torch.equal(resize_positions(table, (4, 4), (2, 8), offset), table)  # as many patches, another grid


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_is_kept(dtype):
    table = torch.randn(1, 17, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    resized = resize_positions(table, (4, 4), (3, 6), 0.1)
    assert resized.dtype == dtype
    expected = resize_positions(table.double(), (4, 4), (3, 6), 0.1)
    torch.testing.assert_close(resized.double(), expected, atol=16 * torch.finfo(dtype).eps, rtol=0)


SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}


def networks(*rules):
    """The same weights under each rule."""
    for rule in rules:
        torch.manual_seed(0)
        network = create_backbone("vit_tiny_patch16_224", position_interpolation=rule, **SMALL).eval()
        torch.nn.init.normal_(network.pos_embed, generator=torch.Generator().manual_seed(1))
        yield network


def test_only_other_sizes_differ_and_names_are_timms():
    timm, dino, msn = networks("timm", "dino", "msn")
    assert list(timm.state_dict()) == list(dino.state_dict()) == list(msn.state_dict())
    own, other = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(timm(own), dino(own))
        assert torch.equal(timm(own), msn(own))
        outputs = [network(other) for network in (timm, dino, msn)]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert (outputs[i] - outputs[j]).abs().max() > 1e-3


def test_what_is_beyond_the_last_whole_patch_is_left_out():
    (dino,) = networks("dino")
    images = torch.randn(2, 3, 31, 20)
    with torch.no_grad():
        assert torch.equal(dino(images), dino(images[..., :24, :16]))
    with pytest.raises(ValueError, match="images of 7 x 32 pixels hold no patch of 8 x 8"):
        dino(torch.randn(1, 3, 7, 32))


def test_a_copy_and_a_gradient():
    (dino,) = networks("dino")
    twin = copy.deepcopy(dino)
    images = torch.randn(2, 3, 16, 16)
    torch.nn.init.zeros_(dino.pos_embed)
    twin(images).square().sum().backward()
    assert dino.pos_embed.grad is None
    assert twin.pos_embed.grad.abs().amax(dim=-1).min() > 0  # every position of the table takes part
    assert not torch.equal(twin(images), dino(images))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("vit_tiny_patch16_224", SMALL | {"reg_tokens": 2}),
        ("vit_tiny_patch16_224", SMALL | {"pos_embed": "none"}),
        ("vit_tiny_patch16_224", SMALL | {"dynamic_img_size": False}),
        ("vit_tiny_patch16_224", SMALL | {"no_embed_class": True}),
    ],
)
def test_networks_that_the_rule_is_not_for(name, options):
    with pytest.raises(ValueError, match=r"position_interpolation='dino' is for Vision Transformers.*use 'timm'"):
        create_backbone(name, position_interpolation="dino", **options)
