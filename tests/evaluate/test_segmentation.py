import math

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from skimage.morphology import disk

from vmflearn.evaluate.segmentation import (
    ObjectScores,
    boundary,
    boundary_accuracy,
    curve_statistics,
    mean_over_objects,
    region_similarity,
    sequence_scores,
)


def rectangle(top, left, height, width, size=(90, 120)):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_region_similarity_of_rectangles():
    a = rectangle(10, 10, 20, 30)
    assert region_similarity(a, a) == 1
    assert region_similarity(a, rectangle(10, 15, 20, 30)) == (20 * 25) / (20 * 35)  # moved by five pixels
    assert region_similarity(a, rectangle(50, 60, 5, 5)) == 0
    empty = np.zeros((90, 120), dtype=bool)
    assert region_similarity(empty, empty) == 1
    assert region_similarity(a, empty) == 0


def test_the_boundary_of_a_square_written_out():
    square = rectangle(2, 2, 2, 2, size=(5, 5))
    want = [
        "00000",
        "01110",
        "01010",
        "01110",
        "00000",
    ]
    np.testing.assert_array_equal(boundary(square).astype(int), [[int(c) for c in row] for row in want])


def test_the_boundary_at_the_image_edge_written_out():
    low = np.zeros((4, 4), dtype=bool)
    low[2:, 2:] = True  # in the corner: the last pixel is no boundary, nor is there one beyond the image
    want = [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(boundary(low).astype(int), want)


def test_boundary_accuracy_of_a_moved_rectangle():
    # 90 x 120: the diagonal is 150, and 0.8 % of it 1.2: boundaries two pixels apart are still right.
    a = rectangle(20, 20, 30, 40)
    for step in (0, 1, 2):
        assert boundary_accuracy(a, rectangle(20, 20 + step, 30, 40)) == 1
    # Three to the right: the two upright sides (31 pixels each, corners among them) are wrong but for what lies within
    # two pixels of the other's level sides. Of the 140 pixels of a boundary:
    moved = rectangle(20, 23, 30, 40)
    level, upright = 41, 29  # pixels of a side with both corners; of a side without
    assert boundary(a).sum() == 2 * (level + upright) == 140
    # Of the side that the other boundary has left behind (x = 19, the other's nearest at x = 22) nothing is right, and
    # of the level sides the pixels at x = 19 are not either. The side at x = 59 lies inside the other's level reach:
    # right are its pixels at most two rows from these (rows 19 to 21 and 47 to 49).
    right = 2 * (level - 1) + 4
    assert boundary_accuracy(a, moved) == pytest.approx(right / 140)


def test_boundary_accuracy_against_dilation():
    generator = np.random.default_rng(0)
    for size in ((60, 80), (200, 130)):
        radius = math.ceil(0.008 * math.hypot(*size))
        for _ in range(10):
            a, b = (binary_dilation(generator.random(size) < 0.002, disk(4)) for _ in range(2))
            x, y = boundary(a), boundary(b)
            precision = (y & binary_dilation(x, disk(radius))).sum() / y.sum()
            recall = (x & binary_dilation(y, disk(radius))).sum() / x.sum()
            want = 2 * precision * recall / (precision + recall) if precision + recall else 0
            assert boundary_accuracy(a, b) == pytest.approx(want, abs=1e-12)


def test_boundary_accuracy_without_a_boundary():
    empty, full, a = np.zeros((9, 9), bool), np.ones((9, 9), bool), rectangle(2, 2, 3, 3, size=(9, 9))
    assert boundary_accuracy(empty, empty) == 1
    assert boundary_accuracy(full, empty) == 1  # neither has a boundary inside the image
    assert boundary_accuracy(a, empty) == boundary_accuracy(empty, a) == 0


def test_statistics_of_a_curve():
    values = np.array([1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1])
    found = curve_statistics(values)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["recall"] == pytest.approx(4 / 9)  # 0.5 itself is not above
    assert found["decay"] == pytest.approx((1.0 + 0.9 + 0.8) / 3 - (0.3 + 0.2 + 0.1) / 3)  # quarters share their ends


def test_decay_of_a_video_longer_than_256_frames():
    values = np.concatenate([np.ones(300), np.zeros(101)])
    assert curve_statistics(values)["decay"] == pytest.approx(1 - 0)  # an index of eight bits would wrap around


def test_a_sequence_is_scored_object_by_object_without_its_first_and_last_frame():
    truths = np.zeros((4, 90, 120), dtype=np.uint8)
    masks = truths.copy()
    truths[:, 10:30, 10:40] = 1
    truths[:, 50:60, 50:60] = 2
    masks[1] = truths[1]
    masks[2, 10:30, 15:45] = 1  # the first moved by five pixels, the second lost
    masks[0] = masks[3] = 0  # all wrong, and it does not matter
    one, two = sequence_scores(truths, masks)
    np.testing.assert_allclose(one.regions, [1, (20 * 25) / (20 * 35)])
    np.testing.assert_allclose(two.regions, [1, 0])
    np.testing.assert_allclose(two.boundaries, [1, 0])
    found = two.statistics()
    assert (found["J_mean"], found["F_mean"], found["JF_mean"], found["J_recall"]) == (0.5, 0.5, 0.5, 0.5)


def test_every_object_weighs_the_same():
    one = ObjectScores(np.array([1.0]), np.array([0.5]))
    two = ObjectScores(np.zeros(99), np.zeros(99))
    found = mean_over_objects([one, two])
    assert (found["J_mean"], found["F_mean"], found["JF_mean"]) == (0.5, 0.25, 0.375)


def test_what_cannot_be_scored_is_named():
    truths = np.zeros((3, 4, 5), dtype=np.uint8)
    with pytest.raises(ValueError, match="the first frame shows no object"):
        sequence_scores(truths, truths)
    truths[:, 1, 1] = 1
    unknown = truths.copy()
    unknown[1, 2, 2] = 3
    with pytest.raises(ValueError, match="the masks hold object 3; the first frame shows objects up to 1"):
        sequence_scores(truths, unknown)
    with pytest.raises(ValueError, match="the true masks hold object 3"):
        sequence_scores(unknown, truths)
    with pytest.raises(ValueError, match=r"must have the truth's shape .* got \(3, 4, 5\), \(2, 4, 5\)"):
        sequence_scores(truths, truths[:2])
    with pytest.raises(ValueError, match="needs three frames"):
        sequence_scores(truths[:2], truths[:2])
    with pytest.raises(ValueError, match="two masks must have one shape"):
        region_similarity(truths[0], truths[0, :3])
