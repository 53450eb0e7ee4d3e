"""Where boxes may lie, and which place a crop has among the views."""

import torch

from vmflearn.views.batched import CropSpec, crop_batch, draw, multi_crop, photometric


def test_boxes_lie_everywhere_alike_the_last_row_and_column_included():
    """Of n possible places each has probability 1/n; frequencies within five standard errors."""
    n, side = 20_000, 9
    spec = CropSpec(4, (0.2, 0.6), blur=0.0, solarize=0.0)
    (drawn,) = draw([spec], seed=3, epoch=0, indices=torch.arange(n), sizes=torch.tensor([side, side]).expand(n, 2))
    top, left, height, width = drawn.boxes.T
    for start, length in ((top, height), (left, width)):
        for size in length.unique().tolist():
            found = start[length == size]
            places = side - size + 1
            share = torch.bincount(found, minlength=places) / len(found)
            assert len(share) == places
            error = (1 / places * (1 - 1 / places) / len(found)) ** 0.5
            assert (share - 1 / places).abs().max() <= 5 * error, (size, share)


def test_crops_of_mixed_sizes_keep_their_places():
    specs = [CropSpec(size, (0.3, 1.0), blur=0.5, solarize=0.2) for size in (6, 4, 6, 5, 4)]
    images, indices = torch.rand(3, 3, 12, 10), torch.arange(3)
    views = multi_crop(images, indices, crops=specs, seed=1, epoch=2)
    drawn = draw(specs, seed=1, epoch=2, indices=indices, sizes=torch.tensor([12, 10]).expand(3, 2))
    for view, draws, spec in zip(views, drawn, specs, strict=True):
        torch.testing.assert_close(view, photometric(crop_batch(images, draws, spec.size), draws))
