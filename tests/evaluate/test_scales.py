import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vmflearn.backbones.creation import create_backbone
from vmflearn.evaluate.scales import scale_features


class MeanAndSize(nn.Module):
    """What the backbone was given."""

    def forward(self, x):
        return torch.stack([x.mean(dim=(1, 2, 3)), torch.full((len(x),), float(x.shape[-1]))], dim=1)


def test_scales_are_averaged_before_the_length_is_taken():
    image = torch.randn(1, 3, 20, 41, generator=torch.Generator().manual_seed(0))
    small, half = (F.interpolate(image, scale_factor=s, mode="bilinear") for s in (2**-0.5, 0.5))
    want = torch.tensor([[x.mean(), x.shape[-1]] for x in (image, small, half)]).mean(dim=0)
    assert (small.shape[-1], half.shape[-1]) == (28, 20)
    torch.testing.assert_close(scale_features(MeanAndSize(), image), (want / want.norm())[None])


def test_pixels_beyond_the_last_patch_are_left_out():
    vit = create_backbone("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    image = torch.randn(1, 3, 37, 47, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = F.normalize(vit.eval()(image[..., :32, :40]), dim=1)
    torch.testing.assert_close(scale_features(vit, image, [1.0]), want)
    with pytest.raises(ValueError, match=r"image of 9 x 40 pixels holds no patch of 8 x 8 at scale 0\.5"):
        scale_features(vit, image[..., :9, :40], [1.0, 0.5])
