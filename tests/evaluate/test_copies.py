import numpy as np
import pytest
import torch

from vmflearn.backbones.creation import create_backbone
from vmflearn.evaluate.copies import Whitening, copy_descriptors, copy_scores
from vmflearn.evaluate.readouts import last_blocks
from vmflearn.evaluate.retrieval import average_precision


def test_descriptors_longhand():
    vit = create_backbone("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    images = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    got = copy_descriptors(vit, images)
    tokens = vit.eval().forward_features(images).detach().double().numpy()
    for row, image in zip(got.double().numpy(), tokens, strict=True):
        np.testing.assert_allclose(row[:24], image[0], atol=1e-5)
        means = [(sum(max(x, 1e-6) ** 4 for x in column) / 12) ** 0.25 for column in image[1:].T]
        np.testing.assert_allclose(row[24:], means, rtol=1e-5)


def test_register_tokens_are_no_patches():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    vit = create_backbone("vit_small_patch14_reg4_dinov2", **options).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = vit.forward_features(images).detach()[0]
    assert len(tokens) == 1 + 4 + 16
    want = torch.cat([tokens[0], tokens[5:].clamp(min=1e-6).pow(4).mean(dim=0).pow(0.25)])
    torch.testing.assert_close(copy_descriptors(vit, images)[0], want)
    mean = tokens[5:].mean(dim=0)
    torch.testing.assert_close(
        last_blocks(1, mean_patches=True).read(vit, images)[0], torch.stack([tokens[0], mean], dim=1).flatten()
    )


def test_whitening_makes_second_moments_of_its_own_images_the_identity():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.diag(
        torch.tensor([9.0, 5, 3, 2, 1, 0.5], dtype=torch.float64)
    )
    x[:, 0] += 2
    whitening = Whitening(x)
    white = whitening(x + x.mean(dim=0))  # the mean is taken from what is whitened, and was not from the moments
    torch.testing.assert_close(white.T @ white / 500, torch.eye(6, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(whitening(x.mean(dim=0, keepdim=True)), torch.zeros(1, 6, dtype=torch.float64))


def test_a_direction_that_no_image_has_is_not_blown_up():
    x = torch.zeros(4, 3, dtype=torch.float64)
    x[:, 0] = torch.tensor([1.0, -1, 1, -1])
    step = Whitening(x)(torch.tensor([[0, 1.0, 0]], dtype=torch.float64))
    assert step.norm() == pytest.approx(1e-5**-0.5)


def test_an_original_beyond_the_first_twenty_is_not_found():
    angles = torch.linspace(0, 1.5, 30)
    images = torch.stack([angles.cos(), angles.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]])  # ranks them in their order
    assert copy_scores(query, images, [[0]])[0] == 1
    assert copy_scores(query, images, [[19]])[0] == average_precision([19], 1)
    assert copy_scores(query, images, [[20]])[0] == 0
    assert copy_scores(query, images, [[0, 25]])[0] == 0.5


def test_bad_input_is_named():
    rows = torch.ones(1, 2)
    with pytest.raises(ValueError, match="query 0 has no original"):
        copy_scores(rows, rows, [[]])
    with pytest.raises(ValueError, match="1 queries need as many lists of originals, got 2"):
        copy_scores(rows, rows, [[0], [0]])
    with pytest.raises(ValueError, match="whitening needs finite features"):
        Whitening(torch.empty(0, 3))
