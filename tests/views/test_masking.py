"""Masks against iBOT's generator written out one image at a time, and against its published statistics."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vmflearn.views.masking import MaskSpec, draw_kept, draw_masks


def masks(spec, grid=(14, 14), n=4000, **key):
    return draw_masks(spec, grid, **{"seed": 0, "epoch": 0, "indices": np.arange(n), "crop": 0, **key})


def longhand(share, height, width, dice):
    """One mask as iBOT draws it: a loop over rectangles, a loop over attempts."""
    mask, covered = [[False] * width for _ in range(height)], 0
    wanted = share * height * width
    while covered < wanted:
        placed = False
        for _ in range(10):
            area = dice.uniform((min(height, width) // 3) ** 2, wanted - covered)
            aspect = math.exp(dice.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            top, left = dice.randint(0, height - h), dice.randint(0, width - w)
            new = [(i, j) for i in range(top, top + h) for j in range(left, left + w) if not mask[i][j]]
            if 0 < len(new) <= wanted - covered:
                for i, j in new:
                    mask[i][j] = True
                covered += len(new)
                placed = True
                break
        if not placed:
            break
    return mask


@pytest.mark.parametrize(("share", "published"), [(0.1, 0.089), (0.2, 0.195), (0.3, 0.292), (0.4, 0.395), (0.5, 0.497)])
def test_blocks_cover_what_the_original_covers(share, published):
    covered = masks(MaskSpec((share,), (0.0,))).float().mean(dim=(1, 2))
    assert float(covered.mean()) == pytest.approx(published, abs=0.002)  # standard error below 0.0003
    assert float(covered.max()) <= share


def test_half_of_the_published_masks_are_empty_and_the_middle_is_preferred():
    found = masks(MaskSpec(), n=20000).float()
    assert float((found.sum(dim=(1, 2)) == 0).float().mean()) == pytest.approx(0.5, abs=0.015)
    assert float(found.mean()) == pytest.approx(0.146, abs=0.003)
    rates = found.mean(dim=0)
    corners = torch.stack([rates[0, 0], rates[0, -1], rates[-1, 0], rates[-1, -1]])
    assert float(corners.mean()) == pytest.approx(0.015, abs=0.002)
    assert float(rates[6:8, 6:8].mean()) == pytest.approx(0.275, abs=0.01)


@pytest.mark.parametrize(("grid", "share"), [((14, 14), 0.3), ((6, 6), 0.5), ((4, 9), 0.4), ((3, 3), 0.6)])
def test_blocks_are_distributed_as_the_longhand(grid, share):
    """Rates of every patch and the distribution of the covered number, within five standard errors of two samples."""
    dice, n = random.Random(1), 1500
    theirs = np.array([longhand(share, *grid, dice) for _ in range(n)])
    ours = masks(MaskSpec((share,), (0.0,)), grid, n=8 * n).numpy()
    bound = 5 * math.sqrt(0.25 / n * (1 + 1 / 8))
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < bound
    most = grid[0] * grid[1]
    counts = [np.bincount(m.sum((1, 2)), minlength=most + 1) / len(m) for m in (ours, theirs)]
    assert np.abs(np.cumsum(counts[0]) - np.cumsum(counts[1])).max() < bound


def test_ratios_are_drawn_in_their_ranges():
    found = masks(MaskSpec((0.1, 0.6), (0.05, 0.2), "random"), (20, 20), n=4000).float().mean(dim=(1, 2))
    low = found < 0.3
    assert float(low.float().mean()) == pytest.approx(0.5, abs=0.04)
    for part, ratio, spread in ((found[low], 0.1, 0.05), (found[~low], 0.6, 0.2)):
        assert float(part.min()) >= ratio - spread - 1 / 400
        assert float(part.max()) <= ratio + spread
        assert float(part.mean()) == pytest.approx(ratio, abs=0.01)
        assert float(part.std()) == pytest.approx(spread / math.sqrt(3), rel=0.05)  # of a uniform number


def test_random_masks_cover_exactly_their_share_and_every_patch_alike():
    found = masks(MaskSpec((0.37,), (0.0,), "random"), (7, 5), n=20000)
    assert set(found.sum(dim=(1, 2)).tolist()) == {math.floor(0.37 * 35)}
    assert float((found.float().mean(dim=0) - 12 / 35).abs().max()) < 5 * math.sqrt(0.25 / 20000)


@given(
    grid=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    share=st.floats(0, 0.95),
    shape=st.sampled_from(["block", "random"]),
    picked=st.lists(st.integers(0, 50), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=60)
def test_a_mask_depends_on_its_key_alone_and_never_exceeds_its_share(grid, share, shape, picked):
    spec = MaskSpec((share,), (0.0,), shape)
    whole = masks(spec, grid, n=51)
    torch.testing.assert_close(masks(spec, grid, indices=np.array(picked)), whole[picked])
    assert int(whole.sum(dim=(1, 2)).max()) <= share * grid[0] * grid[1]


def test_every_part_of_the_key_counts():
    first = masks(MaskSpec((0.3,), (0.0,)))
    for other in ({"seed": 1}, {"epoch": 1}, {"crop": 1}, {"indices": np.arange(1, 4001)}):
        assert float((masks(MaskSpec((0.3,), (0.0,)), **other) == first).all(dim=2).all(dim=1).float().mean()) < 0.01


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((0.3,), (0.4,)), "ratio 0.3 with spread 0.4"),
        (((1.0,), (0.0,)), "ratio 1.0"),
        (((-0.1,), (0.0,)), "ratio -0.1"),
        (((0.9,), (0.1,)), "ratio 0.9 with spread 0.1"),
        (((0.1, 0.3), (0.0,)), "equally many"),
        (((), ()), "equally many"),
        (((0.3,), (0.0,), "blocks"), "shape must be 'block' or 'random', got 'blocks'"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        MaskSpec(*arguments)


def test_a_grid_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 2 x 2 patches, got 1 x 8"):
        masks(MaskSpec(), (1, 8))


def test_the_kept_patches_are_shared_or_each_image_has_its_own():
    shared = draw_kept(196, 0.15, 0, 3)
    assert shared.shape == (1, 166)
    assert shared[0].unique().numel() == 166
    own = draw_kept(196, 0.15, 0, np.arange(3000))
    assert own.shape == (3000, 166)
    assert bool((own.sort(dim=1).values.diff(dim=1) > 0).all())
    rates = torch.bincount(own.flatten(), minlength=196) / 3000
    assert float((rates - 166 / 196).abs().max()) < 5 * math.sqrt(0.25 / 3000)
    torch.testing.assert_close(draw_kept(196, 0.15, 0, np.array([7])), own[7:8])


@pytest.mark.parametrize(("dropped", "named"), [(1.0, "got 1.0"), (-0.1, "got -0.1"), (0.9, "0.9 of 4 patches")])
def test_a_share_of_dropped_patches_out_of_range_is_refused(dropped, named):
    with pytest.raises(ValueError, match=named):
        draw_kept(4, dropped, 0)
