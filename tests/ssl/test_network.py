import pytest
import torch
from torch import nn

from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.network import MultiCropNetwork


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


@pytest.mark.parametrize("kind", [tuple, list])
def test_of_several_outputs_the_first_are_the_features(kind):
    """The XCiT in DINO's code gives more than one."""

    class Several(Counting):
        def forward(self, images):
            features = super().forward(images)
            return kind([features, torch.zeros(len(images), 9)])

    crops = [torch.randn(5, 3, size, size) for size in (8, 4, 8)]
    expected = MultiCropNetwork(Counting(), head()).features(crops)
    assert torch.equal(MultiCropNetwork(Several(), head()).features(crops), expected)


def test_one_tensor_is_no_list_of_crops():
    network = MultiCropNetwork(Counting(), head())
    with pytest.raises(ValueError, match=r"crops must be a list of batches .*; got one tensor \(5, 3, 8, 8\)"):
        network(torch.zeros(5, 3, 8, 8), 1.0)
    with pytest.raises(ValueError, match=r"every crop must be a batch .*; they are \[\(5, 3, 8, 8\), \(3, 8, 8\)\]"):
        network([torch.zeros(5, 3, 8, 8), torch.zeros(3, 8, 8)], 1.0)


@pytest.mark.parametrize(
    ("backbone", "given"),
    [
        (nn.Identity(), r"it gives \(10, 3, 8, 8\)"),
        (nn.Flatten(0), r"it gives \(1920,\)"),
        (nn.AdaptiveAvgPool2d(1), r"it gives \(10, 3, 1, 1\)"),
        (nn.Unflatten(0, (2, 5)), r"it gives \(2, 5, 3, 8, 8\)"),
    ],
)
def test_a_backbone_that_gives_no_vectors_is_named(backbone, given):
    with pytest.raises(ValueError, match=rf"^the backbone, a .*must give one vector for each of .*{given}"):
        MultiCropNetwork(backbone, head())([torch.zeros(5, 3, 8, 8)] * 2, 1.0)


def test_no_crops_and_unequal_batches_are_refused():
    network = MultiCropNetwork(Counting(), head())
    with pytest.raises(ValueError, match="at least one"):
        network([], 1.0)
    with pytest.raises(ValueError, match="at least one"):
        network((), 1.0)
    with pytest.raises(ValueError, match=r"\[5, 4\]"):
        network([torch.zeros(5, 3, 4, 4), torch.zeros(4, 3, 4, 4)], 1.0)
