import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vmflearn.evaluate.features import colour_statistics, extract_features, pixel_features


def images(n: int = 5, height: int = 12, width: int = 12) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Flat(nn.Module):
    """Shows what the backbone was given; dropout shows the mode it ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.scale = nn.Dropout(0.9), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.dropout(x).flatten(1)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(12, 12, 12), (12, 12, 8), (12, 12, 20), (12, 30, 8), (31, 12, 8)]
)
def test_the_backbone_sees_the_resized_centre_normalised(height, width, size):
    batch = images(5, height, width)
    got = extract_features(Flat(), batch, size=size, batch_size=2)
    want = TF.resize(batch.double() / 255, [size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    top, left = (want.shape[2] - size) // 2, (want.shape[3] - size) // 2
    want = TF.normalize(want[:, :, top : top + size, left : left + size], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    want = want.flatten(1)
    want = want / want.norm(dim=1, keepdim=True)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, atol=2e-5, rtol=0)


def test_the_backbone_is_left_as_it_was_and_features_are_ordinary_tensors():
    network = Flat()
    features = extract_features(network, images(), size=12)
    assert network.training
    assert network.dropout.training
    assert not features.requires_grad
    layer = nn.Linear(features.shape[1], 1)
    layer(features).sum().backward()  # a tensor of inference mode would refuse
    assert layer.weight.grad is not None


def test_pixels():
    batch = images()
    pixels = batch.numpy().reshape(5, -1) / 255.0
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    want = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    np.testing.assert_allclose(pixel_features(batch).numpy(), want, atol=1e-6)
    assert (pixel_features(torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)) == 0).all()


def test_colour_statistics_longhand():
    batch = images()
    rows = []
    for image in batch.numpy():
        channels = image.reshape(3, -1)
        shares = [np.histogram(channel, bins=8, range=(0, 256))[0] / 144 for channel in channels]
        row = np.concatenate([channels.mean(axis=1) / 255, channels.std(axis=1) / 255, *shares])
        rows.append(row / np.linalg.norm(row))
    np.testing.assert_allclose(colour_statistics(batch).numpy(), rows, atol=1e-6)


def test_colour_statistics_do_not_see_places():
    batch = images()
    shuffled = batch.flatten(2)[:, :, torch.randperm(144)].view_as(batch)
    torch.testing.assert_close(colour_statistics(batch), colour_statistics(shuffled))


@pytest.mark.parametrize("function", [pixel_features, colour_statistics, lambda x: extract_features(Flat(), x, size=4)])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 3, 4, 4), "images must be uint8 .* got torch.float32"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), r"got torch.uint8 \(2, 1, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "at least one image"),
    ],
)
def test_what_is_no_batch_of_colour_images_is_refused(function, batch, message):
    with pytest.raises(ValueError, match=message):
        function(batch)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="size and batch_size must be positive, got 0 and 256"):
        extract_features(Flat(), images(), size=0)
    with pytest.raises(ValueError, match="got 4 and 0"):
        extract_features(Flat(), images(), size=4, batch_size=0)
