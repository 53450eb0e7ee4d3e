import pytest
import torch
from torch import nn

from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.methods import MultiCropNetwork


class Counting(nn.Module):
    """A backbone that takes any resolution and counts its passes."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, images):
        self.passes.append(tuple(images.shape))
        return images.mean(dim=(2, 3))


def head():
    return DINOHead(3, 7, hidden_dim=6, bottleneck_dim=4)


def test_one_pass_a_resolution_and_the_order_is_kept():
    backbone = Counting()
    network = MultiCropNetwork(backbone, head())
    crops = [torch.randn(5, 3, size, size) for size in (8, 4, 8, 4, 4)]
    logits = network(crops, 0.5)
    assert backbone.passes == [(10, 3, 8, 8), (15, 3, 4, 4)]
    for crop, one in zip(crops, logits, strict=True):
        torch.testing.assert_close(one, network.head(crop.mean(dim=(2, 3)), 0.5))
    features, y = network.embed(crops)
    assert features.shape == (5, 5, 3)
    torch.testing.assert_close(network.prototypes(y, 0.5), logits)


def test_no_crops_and_unequal_batches_are_refused():
    network = MultiCropNetwork(Counting(), head())
    with pytest.raises(ValueError, match="at least one"):
        network([], 1.0)
    with pytest.raises(ValueError, match=r"\[5, 4\]"):
        network([torch.zeros(5, 3, 4, 4), torch.zeros(4, 3, 4, 4)], 1.0)
