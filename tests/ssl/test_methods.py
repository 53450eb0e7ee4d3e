import pytest
import torch
from torch import nn

from vmflearn.ssl.methods import MultiCropNetwork


class Counting(nn.Module):
    """A backbone that takes any resolution and counts its passes."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, images):
        self.passes.append(tuple(images.shape))
        return images.mean(dim=(2, 3))


class Scaled(nn.Module):
    def forward(self, features, temperature):
        return features / temperature


def test_one_pass_a_resolution_and_the_order_is_kept():
    backbone = Counting()
    network = MultiCropNetwork(backbone, Scaled())
    crops = [torch.randn(5, 3, size, size) for size in (8, 4, 8, 4, 4)]
    logits = network(crops, 0.5)
    assert backbone.passes == [(10, 3, 8, 8), (15, 3, 4, 4)]
    for crop, one in zip(crops, logits, strict=True):
        torch.testing.assert_close(one, crop.mean(dim=(2, 3)) / 0.5)


def test_no_crops_and_unequal_batches_are_refused():
    network = MultiCropNetwork(Counting(), Scaled())
    with pytest.raises(ValueError, match="at least one"):
        network([], 1.0)
    with pytest.raises(ValueError, match=r"\[5, 4\]"):
        network([torch.zeros(5, 3, 4, 4), torch.zeros(4, 3, 4, 4)], 1.0)
