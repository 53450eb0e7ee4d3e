"""What a network is known by, and the size of the images that it is shown."""

import copy

import pytest
import torch

from vmflearn.backbones.creation import create_backbone
from vmflearn.evaluate.model import _digest, load_model
from vmflearn.ssl.heads import DINOHead


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return create_backbone("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=1, num_heads=3)


def test_a_digest_is_of_all_that_decides_on_the_features(vit):
    """Features of one network must not be taken from a cache for another's."""
    torch.manual_seed(1)
    head = DINOHead(12, 16, hidden_dim=8, bottleneck_dim=4)
    other = copy.deepcopy(vit)
    with torch.no_grad():
        other.blocks[0].mlp.fc1.bias[3] += 1e-6
    fewer = create_backbone("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=1, num_heads=2)
    fewer.load_state_dict(vit.state_dict())
    cases = [
        (vit, None, "dino"),
        (vit, None, "timm"),
        (vit, head, "dino"),
        (other, None, "dino"),
        (fewer, None, "dino"),
    ]
    assert len({_digest(*case) for case in cases}) == len(cases)
    assert _digest(copy.deepcopy(vit), None, "dino") == _digest(*cases[0])


def test_images_are_as_large_as_in_training_or_as_the_positions_or_as_asked_for(vit, tmp_path):
    torch.save(vit.state_dict(), tmp_path / "published.pth")
    plain = load_model(tmp_path / "published.pth", num_heads=3)
    assert (plain.size, plain.resized) == (32, round(32 * 8 / 7))
    asked = load_model(tmp_path / "published.pth", num_heads=3, size=96)
    assert (asked.size, asked.resized, asked.digest) == (96, round(96 * 37 / 32), plain.digest)
    torch.testing.assert_close(asked.backbone(torch.ones(1, 3, 96, 96)).shape, torch.Size([1, 12]))
