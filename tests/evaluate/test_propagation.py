import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vmflearn.evaluate import propagation
from vmflearn.evaluate.propagation import patch_labels, pixel_mask, propagate_labels


def video(n, h, w, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(h, w, d, generator=generator) for _ in range(n)]


def by_loops(frames, labels, n_last, radius, k, temperature):
    """Every pair of patches on its own, in double precision."""
    frames = [F.normalize(frame.double(), dim=-1).numpy() for frame in frames]
    h, w, _ = frames[0].shape
    places = list(itertools.product(range(h), range(w)))
    known = [labels.double().numpy()]
    for now in range(1, len(frames)):
        context = [0, *range(max(1, now - n_last), now)]
        carried = np.zeros_like(known[0])
        for i, j in places:
            near = [
                (math.exp(frames[now][i, j] @ frames[t][p, q] / temperature), known[t][p, q])
                for t in context
                for p, q in places
                if abs(i - p) <= radius and abs(j - q) <= radius
            ]
            near.sort(key=lambda pair: -pair[0])
            carried[i, j] = sum(x * y for x, y in near[:k]) / sum(x for x, _ in near[:k])
        known.append(carried)
    return known[1:]


@pytest.mark.parametrize("chunk", [1, 2**26])
def test_propagation_against_loops(monkeypatch, chunk):
    monkeypatch.setattr(propagation, "CHUNK_ENTRIES", chunk)
    frames = video(6, 4, 5, 3)
    labels = patch_labels(np.arange(20, dtype=np.uint8).reshape(4, 5) % 3, (4, 5), 2)
    settings = {"n_last": 2, "radius": 2, "k": 3, "temperature": 0.1}
    got = list(propagate_labels(iter(frames), labels, **settings))
    want = by_loops(frames, labels, **settings)
    assert len(got) == 5
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)


def test_without_a_radius_all_patches_are_compared():
    frames = video(3, 4, 5, 3)
    labels = patch_labels(np.arange(20, dtype=np.uint8).reshape(4, 5) % 3, (4, 5), 2)
    for ours, theirs in zip(
        propagate_labels(frames, labels, radius=0), by_loops(frames, labels, 7, 99, 5, 0.1), strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)


def test_equally_similar_patches_all_count():
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])  # one row of three equal patches
    labels = torch.eye(3)[None]
    (got,) = propagate_labels([x, x], labels, k=1)
    torch.testing.assert_close(got, torch.full((1, 3, 3), 1 / 3))


def test_a_shift_of_known_size_is_followed():
    """A scene twice as large as the frame, seen through a window that moves by (1, 2) patches a frame."""
    h, w, n = 12, 14, 9
    scene = torch.randn(h + n, w + 2 * n, 128, generator=torch.Generator().manual_seed(0))
    truth = torch.zeros(h + n, w + 2 * n, dtype=torch.int64)
    truth[10:16, 17:24], truth[8:11, 19:22] = 1, 2
    windows = [(slice(t, t + h), slice(2 * t, 2 * t + w)) for t in range(n)]
    masks = [truth[window] for window in windows]
    frames = [scene[window] for window in windows]
    start = 3
    labels = patch_labels(masks[start].to(torch.uint8).numpy(), (h, w), 2)
    assert masks[start].unique().tolist() == [0, 1, 2]
    for soft, window, t in zip(
        propagate_labels(frames[start:], labels), masks[start + 1 :], range(start + 1, n), strict=False
    ):
        seen = torch.zeros(h, w, dtype=torch.bool)  # patches that the first frame of the propagation showed
        seen[: h - (t - start), : w - 2 * (t - start)] = True
        torch.testing.assert_close(soft.argmax(dim=-1)[seen], window[seen])


def test_the_context_is_the_first_frame_and_the_last():
    """Three frames that look alike in their labels only through the context they have."""
    e = torch.eye(4)
    frames = [e[None, [0]], e[None, [1]], e[None, [2]], e[None, [0]]]  # one patch; the last looks like the first
    labels = torch.tensor([[[0.0, 1.0]]])
    soft = list(propagate_labels(frames, labels, n_last=1, k=1))
    assert all((one == labels).all() for one in soft)


def test_masks_are_resized_by_the_nearest_pixel():
    labels = torch.zeros(1, 4, 4)
    labels[0, range(4), range(4)] = 1  # four patches of 32 pixels in a row
    found = pixel_mask(labels, (1, 32), (1, 170))[0]
    large = np.repeat(np.arange(4), 32)
    positions = [Fraction(2 * i + 1, 2) * Fraction(128, 170) for i in range(170)]
    told = [i for i, position in enumerate(positions) if position.denominator > 1]  # not halfway between two pixels
    assert len(told) == 168
    np.testing.assert_array_equal(found[told], large[[int(positions[i]) for i in told]])
    mask = np.random.default_rng(0).integers(0, 4, (47, 83), dtype=np.uint8)
    patches = patch_labels(mask, (5, 7), 3)
    rows, columns = ([int(Fraction(2 * i + 1, 2) * Fraction(a, b)) for i in range(b)] for a, b in ((47, 5), (83, 7)))
    np.testing.assert_array_equal(patches.argmax(dim=-1).numpy(), mask[np.ix_(rows, columns)])
    assert (patches.sum(dim=-1) == 1).all()


def test_a_faint_object_is_brought_up_to_the_others():
    labels = torch.zeros(1, 2, 2)
    labels[0, :, 0] = torch.tensor([1.0, 0.8])  # background everywhere stronger
    labels[0, :, 1] = torch.tensor([0.0, 0.2])
    assert pixel_mask(labels, (2, 2), (2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_an_even_label_does_not_become_an_object():
    only = torch.zeros(2, 2, 3)
    only[..., 0] = 1
    assert (pixel_mask(only, (4, 4), (8, 8)) == 0).all()
    even = torch.zeros(1, 2, 3)
    even[..., 2] = 0.1
    even[0, :, 0], even[0, :, 1] = torch.tensor([0.9, 0.0]), torch.tensor([0.0, 0.9])
    assert pixel_mask(even, (1, 1), (1, 2)).tolist() == [[0, 1]]


def test_bad_input_is_named():
    frames = video(2, 2, 2, 3)
    labels = torch.ones(2, 2, 1)
    with pytest.raises(ValueError, match=r"frame 2 has features \(2, 3, 3\), the first frame \(2, 2, 3\)"):
        list(propagate_labels([frames[0], torch.ones(2, 3, 3)], labels))
    with pytest.raises(ValueError, match="have no common grid"):
        list(propagate_labels(frames, torch.ones(3, 2, 1)))
    with pytest.raises(ValueError, match="have no common grid"):
        list(propagate_labels([], labels))
    with pytest.raises(ValueError, match="k=0"):
        list(propagate_labels(frames, labels, k=0))
