import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from vmflearn.views import batched as views
from vmflearn.views import resampling as geometry
from vmflearn.views.keyed_random import keyed_uniforms, mix
from vmflearn.views.photometric import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    greyscale,
    solarize,
)

CROPS = views.dino_crops(32, 16, 2)


def images(n: int, height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth colour fields with edges and a few greys: noise would hide errors of a resampling."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    mixed = 0.5 * fine + 0.5 * smooth
    mixed[0, :, :5] = mixed[0, :1, :5]
    return (255 * mixed).round().to(torch.uint8)


def some_draws(n: int, height: int = 48, width: int = 64, seed: int = 3) -> list[views.Draws]:
    return views.draw(CROPS, seed=seed, epoch=1, indices=range(n), sizes=[(height, width)] * n)


def test_mix_is_the_published_splitmix64():
    # First outputs of SplitMix64 from the state 1234567, as published with the generator.
    import numpy as np

    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keyed_uniforms_are_uniform_and_independent():
    import numpy as np
    from scipy import stats

    u = keyed_uniforms(7, 2, np.arange(4000), 1, count=6)
    assert u.shape == (4000, 6)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(u, rowvar=False) - np.eye(6)
    assert abs(correlation).max() < 5 / np.sqrt(4000)
    for other in (
        keyed_uniforms(8, 2, np.arange(4000), 1, count=1),
        keyed_uniforms(7, 3, np.arange(4000), 1, count=1),
        keyed_uniforms(7, 2, np.arange(4000) + 1, 1, count=1),
        keyed_uniforms(7, 2, np.arange(4000), 0, count=1),
    ):
        assert abs(np.corrcoef(u[:, 0], other[:, 0])[0, 1]) < 5 / np.sqrt(4000)
        assert (u[:, 0] != other[:, 0]).all()


def test_keyed_uniforms_keep_their_beginning_and_mind_the_order_of_the_key():
    short, long = keyed_uniforms(1, 2, count=3), keyed_uniforms(1, 2, count=9)
    assert (long[:, :3] == short).all()
    assert (keyed_uniforms(2, 1, count=3) != short).all()
    assert (keyed_uniforms(-1, 2, count=3) != short).all()


def test_dino_crops_have_the_published_probabilities():
    crops = views.dino_crops(224, 96, 8, (0.25, 1.0), (0.05, 0.25))
    assert len(crops) == 10
    assert [crop.size for crop in crops] == [224] * 2 + [96] * 8
    assert [crop.blur for crop in crops] == [1.0, 0.1] + [0.5] * 8
    assert [crop.solarize for crop in crops] == [0.0, 0.2] + [0.0] * 8
    assert crops[1].scale == (0.25, 1.0)
    assert crops[2].scale == (0.05, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, (0.1, 1.0), 0.5, 0.0), "size must be at least 1"),
        ((8, (0.0, 1.0), 0.5, 0.0), r"scale must be .* got \(0.0, 1.0\)"),
        ((8, (0.5, 0.4), 0.5, 0.0), "scale must be"),
        ((8, (0.5, 1.1), 0.5, 0.0), "scale must be"),
        ((8, (0.5, 1.0), 1.5, 0.0), "blur must be a probability"),
        ((8, (0.5, 1.0), 0.5, -0.1), "solarize must be a probability"),
        ((8, (0.5, 1.0), 0.5, 0.0, (0.0, 2.0)), r"sigma must be .* got \(0.0, 2.0\)"),
        ((8, (0.5, 1.0), 0.5, 0.0, (0.2, 0.1)), "sigma must be two rising"),
        ((8, (0.5, 1.0), 0.5, 0.0, (0.1, 2.0), -0.5), "jitter must be a strength .* got -0.5"),
        ((8, (0.5, 1.0), 0.5, 0.0, (0.1, 2.0), 2.6), "jitter must be a strength from 0 to 2.5"),
        ((8, (0.5, 1.0), 0.5, 0.0, (0.1, 2.0), 1.0, 1.1), "grey must be a probability"),
    ],
)
def test_crop_spec_refuses_what_makes_no_crop(arguments, message):
    with pytest.raises(ValueError, match=message):
        views.CropSpec(*arguments)


def test_dino_crops_refuse_a_negative_number():
    with pytest.raises(ValueError, match="n_local must be 0 or more, got -1"):
        views.dino_crops(32, 16, -1)


def test_draws_have_the_probabilities_and_ranges_of_dino():
    n = 6000
    first, second, local, _ = some_draws(n)

    def near(values: Tensor, probability: float) -> bool:
        return abs(values.float().mean().item() - probability) < 4 * (probability * (1 - probability) / n) ** 0.5 + 1e-9

    assert near(first.flip, 0.5)
    assert near(first.jitter, 0.8)
    assert near(first.grey, 0.2)
    assert first.blur.all()
    assert near(second.blur, 0.1)
    assert near(local.blur, 0.5)
    assert near(second.solarize, 0.2)
    assert not first.solarize.any()
    assert not local.solarize.any()
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        factor = first.factors[:, column]
        assert low <= factor.min() < low + 0.01 * (high - low)
        assert high >= factor.max() > high - 0.01 * (high - low)
    assert 0.1 <= first.sigma.min() < 0.11
    assert 1.99 < first.sigma.max() <= 2.0
    assert (first.order.sort(dim=1).values == torch.arange(4)).all()
    counts = (first.order * torch.tensor([1, 4, 16, 64])).sum(dim=1).unique(return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - n / 24).abs() < 5 * (n / 24) ** 0.5).all()


def test_strength_of_jitter_grey_and_blur_can_be_set():
    key = {"seed": 3, "epoch": 1, "indices": range(2000), "sizes": [(48, 64)] * 2000}
    usual = views.draw(CROPS, **key)
    set_ = views.draw(views.dino_crops(32, 16, 2, sigma=(0.3, 0.5), jitter=0.5, grey=0.05), **key)
    centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
    for draws, before in zip(set_, usual, strict=True):
        torch.testing.assert_close(draws.factors - centre, 0.5 * (before.factors - centre))
        assert 0.03 < draws.grey.float().mean() < 0.07
        assert not (draws.grey & ~before.grey).any()
        assert 0.3 <= draws.sigma.min() < 0.31
        assert 0.49 < draws.sigma.max() <= 0.5
        for name in ("boxes", "flip", "jitter", "order", "blur", "solarize"):
            assert torch.equal(getattr(draws, name), getattr(before, name))


def test_boxes_lie_in_the_image_and_cover_the_asked_share():
    for draws, (low, high) in zip(some_draws(3000, 300, 400), [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 2, strict=True):
        top, left, height, width = draws.boxes.T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + height <= 300).all()
        assert (left + width <= 400).all()
        share = height * width / (300 * 400)
        assert low - 0.01 <= share.min() < low + 0.02
        assert share.max() <= high + 0.01
        assert (width / height).min() > 0.73
        assert (width / height).max() < 1.36
    # A local box always fits at the first try: area and log aspect ratio stay uniform, and so do its positions.
    assert abs(share.mean() - 0.225) < 0.01
    assert abs(torch.log(width / height).mean()) < 0.02
    assert abs((top / (300 - height)).mean() - 0.5) < 0.03


@pytest.mark.parametrize(("size", "box"), [((10, 400), (0, 193, 10, 13)), ((400, 10), (193, 0, 13, 10))])
def test_an_image_too_long_for_any_box_gives_its_centre(size, box):
    spec = views.CropSpec(8, (0.5, 1.0), 0.0, 0.0)
    draws = views.draw([spec], seed=0, epoch=0, indices=range(5), sizes=[size] * 5)[0]
    assert draws.boxes.tolist() == [list(box)] * 5


def test_only_the_boxes_depend_on_the_size():
    small, large = some_draws(8, 40, 40)[0], some_draws(8, 400, 300)[0]
    assert not torch.equal(small.boxes, large.boxes)
    for name in ("flip", "jitter", "factors", "order", "grey", "blur", "sigma", "solarize"):
        assert torch.equal(getattr(small, name), getattr(large, name))


@pytest.mark.parametrize(
    ("indices", "sizes", "message"),
    [
        ([[0]], [(4, 4)], r"indices must have shape \(batch,\)"),
        ([0, 1], [(4, 4)], r"sizes must have shape \(2, 2\)"),
        ([0], [(4, 0)], "sizes must be positive, got 0"),
    ],
)
def test_draw_refuses_wrong_shapes(indices, sizes, message):
    with pytest.raises(ValueError, match=message):
        views.draw(CROPS, seed=0, epoch=0, indices=indices, sizes=sizes)


@pytest.mark.parametrize("size", [7, 16, 48, 90])
def test_crop_batch_is_torchvision_antialiased_bicubic(size):
    batch = images(12)
    draws = some_draws(12)[2]
    got = views.crop_batch(batch, draws, size)
    assert got.dtype == torch.float32
    assert draws.flip.any()
    assert not draws.flip.all()
    for row, image in enumerate(batch):
        box = draws.boxes[row].tolist()
        want = F.resized_crop(image.double() / 255, *box, [size, size], InterpolationMode.BICUBIC, antialias=True)
        want = want.clamp(0, 1)
        want = want.flip(-1) if draws.flip[row] else want
        torch.testing.assert_close(got[row].double(), want, atol=1e-5, rtol=0)


def test_crop_batch_takes_floats():
    batch, draws = images(3), some_draws(3)[0]
    got = views.crop_batch(batch.float() / 255, draws, 16)
    torch.testing.assert_close(got, views.crop_batch(batch, draws, 16))


def on_canvases(batch: Tensor, height: int, width: int) -> Tensor:
    """Images (n, 3, h, w) in the corners of larger canvases whose padding would be seen."""
    canvases = torch.full((len(batch), height, width, 3), 255, dtype=torch.uint8)
    canvases[:, : batch.shape[2], : batch.shape[3]] = batch.permute(0, 2, 3, 1)
    return canvases


@pytest.mark.parametrize("spec", [0, 2])
def test_crop_canvases_is_crop_batch_in_256_levels(spec):
    batch, draws, ones = images(6), some_draws(6)[spec], torch.ones(6, 2, dtype=torch.float64)
    want = 255 * views.crop_batch(batch, draws, 20)
    got = 255 * views.crop_canvases(on_canvases(batch, 60, 70), draws, ones, 20)
    assert torch.equal(got.round(), got)
    difference = (got - want).abs()  # two passes, each rounded
    assert difference.max() < 2
    assert difference.mean() < 0.5


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_windows_are_canvases_without_the_rounding(scale):
    """The way of a GPU, on the CPU: in float32 and in half precision."""
    batch, draws = images(6, 48, 64), some_draws(6, round(48 / scale), round(64 / scale))[2]
    canvases, scales = on_canvases(batch, 50, 70), torch.full((6, 2), scale, dtype=torch.float64)
    want = views.crop_canvases(canvases, draws, scales, 20)
    start = geometry._on_canvas(draws.boxes[:, :2], scales)
    end = geometry._on_canvas(draws.boxes[:, :2] + draws.boxes[:, 2:], scales)
    exact, half = (
        geometry._crop_windows(canvases, start, end, draws.flip, 20, dtype) for dtype in (torch.float32, torch.float16)
    )
    assert 255 * (exact - want).abs().mean() < 0.5
    assert 255 * (exact - want).abs().max() < 2
    assert 255 * (exact - half).abs().max() < 0.5


def test_a_box_over_the_whole_image_sees_no_padding():
    batch = torch.zeros(1, 3, 31, 37, dtype=torch.uint8)
    draws = some_draws(1)[0]
    draws.boxes[:] = torch.tensor([0, 0, 1000, 999])
    scale = torch.tensor([[31 / 1000, 37 / 999]], dtype=torch.float64)
    canvases = on_canvases(batch, 40, 40)
    assert views.crop_canvases(canvases, draws, scale, 16).max() == 0
    start, end = torch.zeros(1, 2, dtype=torch.float64), geometry._on_canvas(draws.boxes[:, 2:], scale)
    assert geometry._crop_windows(canvases, start, end, draws.flip, 16, torch.float32).max() == 0


def test_a_box_that_ends_with_the_image_ends_with_it_on_the_canvas():
    """Without the rounding some ends come to lie a hair's breadth further, and one row of padding is seen."""
    original = torch.arange(513, 5000)
    shape = (original * 512 / 4999).round().long()
    end = geometry._on_canvas(original[:, None], (shape.double() / original)[:, None])[:, 0]
    assert torch.equal(end, shape.double())
    assert torch.equal(end.float().ceil().long(), shape)


def test_views_of_canvases_are_those_of_multi_crop():
    batch, indices = images(4), torch.tensor([9, 2, 5, 30])
    sizes = torch.tensor([48, 64]).expand(4, 2)
    settings = {"crops": CROPS, "seed": 3, "epoch": 2}
    want = views.multi_crop(batch, indices, **settings)
    got = views.multi_crop_canvases(on_canvases(batch, 64, 64), sizes, sizes, indices, **settings)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().mean() < 0.02  # half a level of 256, in units of the standard deviation


def test_resampling_matrices_of_parts_of_pixels():
    """A box that covers pixels in part: the longhand sum over the pixels that it touches."""
    start, length, size = 2.25, 5.5, 4
    got = geometry.resampling_matrix(torch.tensor([start]), torch.tensor([length]), 12, size)[0]
    step = length / size
    for i in range(size):
        weights = []
        for j in range(12):
            x = abs(j + 0.5 - (start + (i + 0.5) * step)) / step
            kernel = 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0
            weights.append(kernel if 2 <= j <= 7 else 0)
        torch.testing.assert_close(got[i], torch.tensor(weights) / sum(weights), atol=1e-6, rtol=0)


def test_crops_refuse_wrong_shapes():
    draws = some_draws(2)[0]
    with pytest.raises(ValueError, match=r"images must have shape .* got \(2, 1, 8, 8\)"):
        views.crop_batch(torch.zeros(2, 1, 8, 8), draws, 4)
    with pytest.raises(ValueError, match="of one length, got 3 and 2"):
        views.crop_batch(torch.zeros(3, 3, 8, 8), draws, 4)
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        views.crop_batch(torch.zeros(2, 3, 8, 8, dtype=torch.int64), draws, 4)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 255 to 255"):
        views.crop_batch(torch.full((2, 3, 8, 8), 255.0), draws, 4)
    ones = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"canvases must be uint8 \(batch, height, width, 3\), got torch.float32"):
        views.crop_canvases(torch.zeros(2, 8, 8, 3), draws, ones, 4)
    with pytest.raises(ValueError, match="of one length, got 3 and 2"):
        views.crop_canvases(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), draws, ones, 4)
    with pytest.raises(ValueError, match="crops must have shape"):
        views.photometric(torch.zeros(2, 8, 8), draws)
    with pytest.raises(ValueError, match="of one length, got 3 and 2"):
        views.photometric(torch.zeros(3, 3, 8, 8), draws)


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (adjust_brightness, F.adjust_brightness, 0.3, 1.7),
        (adjust_contrast, F.adjust_contrast, 0.3, 1.7),
        (adjust_saturation, F.adjust_saturation, 0.3, 1.7),
        (adjust_hue, F.adjust_hue, -0.5, 0.5),
    ],
)
def test_colour_operations_are_those_of_torchvision(ours, theirs, low, high):
    crops = images(9).float() / 255
    factors = torch.linspace(low, high, 9)
    want = torch.stack([theirs(crop, factor) for crop, factor in zip(crops, factors.tolist(), strict=True)])
    torch.testing.assert_close(ours(crops, factors), want, atol=5e-6, rtol=0)


def test_hue_of_pure_colours():
    colours = torch.eye(3)[:, :, None, None]  # red, green, blue
    third = torch.full((3,), 1 / 3)
    torch.testing.assert_close(adjust_hue(colours, third), colours.roll(-1, dims=0), atol=1e-6, rtol=0)


def test_greyscale_and_solarize_are_those_of_torchvision():
    crops = images(4).float() / 255
    torch.testing.assert_close(greyscale(crops), F.rgb_to_grayscale(crops, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(solarize(crops), F.solarize(crops, 0.5), atol=0, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (16, 16), (9, 30)])
def test_blur_is_that_of_torchvision(height, width):
    crops = images(5, height, width).float() / 255
    sigma = torch.tensor([0.1, 0.4, 1.0, 1.5, 2.0])
    want = torch.stack([F.gaussian_blur(crop, [17, 17], [s, s]) for crop, s in zip(crops, sigma.tolist(), strict=True)])
    torch.testing.assert_close(gaussian_blur(crops, sigma), want, atol=2e-6, rtol=0)


def test_blur_of_an_image_smaller_than_its_kernel_keeps_a_constant():
    crops = torch.full((2, 3, 4, 1), 0.3)
    torch.testing.assert_close(gaussian_blur(crops, torch.tensor([0.5, 2.0])), crops)


def longhand(crop: Tensor, draws: views.Draws) -> Tensor:
    """The recipe for a single crop, with torchvision, in the order of the paper's augmentation."""
    if draws.jitter:
        operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for which in draws.order.tolist():
            crop = operations[which](crop, draws.factors[which].item())
    if draws.grey:
        crop = F.rgb_to_grayscale(crop, 3)
    if draws.blur:
        crop = F.gaussian_blur(crop, [17, 17], [draws.sigma.item()] * 2)
    if draws.solarize:
        crop = F.solarize(crop, 0.5)
    return F.normalize(crop, IMAGENET_MEAN, IMAGENET_STD)


def test_photometric_is_the_recipe_image_by_image():
    crops = images(40, 20, 20).float() / 255
    draws = some_draws(40)[1]
    # all twenty-four orders cannot be asked of forty images; that every operation meets both answers can
    for name in ("jitter", "grey", "blur", "solarize"):
        assert 0 < getattr(draws, name).sum() < 40
    before = crops.clone()
    got = views.photometric(crops, draws)
    assert torch.equal(crops, before)
    want = torch.stack([longhand(crop, draws[row]) for row, crop in enumerate(crops)])
    # where solarisation cuts at one half, a rounding error decides; nowhere else may they differ
    differs = (got - want).abs() > 2e-4
    assert differs.float().mean() < 1e-3
    assert not differs[~draws.solarize].any()


def test_multi_crop_is_crop_then_colour():
    batch = images(6)
    made = views.multi_crop(batch, torch.arange(6), crops=CROPS, seed=3, epoch=1)
    assert [view.shape for view in made] == [(6, 3, 32, 32)] * 2 + [(6, 3, 16, 16)] * 2
    for spec, draws, view in zip(CROPS, some_draws(6), made, strict=True):
        want = views.photometric(views.crop_batch(batch, draws, spec.size), draws)
        torch.testing.assert_close(view, want, atol=1e-5, rtol=0)


def test_views_do_not_depend_on_the_batch():
    batch = images(10)
    whole = views.multi_crop(batch, torch.arange(10), crops=CROPS, seed=0, epoch=0)
    chosen = torch.tensor([7, 2, 5])
    part = views.multi_crop(batch[chosen], chosen, crops=CROPS, seed=0, epoch=0)
    for all_, some in zip(whole, part, strict=True):
        torch.testing.assert_close(some, all_[chosen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"indices": torch.arange(1, 5)}])
def test_views_depend_on_seed_epoch_and_image(change):
    arguments = {"indices": torch.arange(4), "crops": CROPS, "seed": 0, "epoch": 0}
    batch = images(1).expand(4, -1, -1, -1)
    before = views.multi_crop(batch, **arguments)
    after = views.multi_crop(batch, **(arguments | change))
    for one, other in zip(before, after, strict=True):
        assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(before[2], before[3])  # and on the crop


def test_multi_crop_refuses_nothing_to_make():
    with pytest.raises(ValueError, match="at least one image and one crop, got 0 and 4"):
        views.multi_crop(images(1)[:0], torch.arange(0), crops=CROPS, seed=0, epoch=0)
    with pytest.raises(ValueError, match="got 1 and 0"):
        views.multi_crop(images(1), torch.arange(1), crops=(), seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"images must have shape .* got \(3, 8, 8\)"):
        views.multi_crop(torch.zeros(3, 8, 8), torch.arange(1), crops=CROPS, seed=0, epoch=0)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (images(1).float(), r"images of torch\.float32 must lie in \[0, 1\], got \S+ to 2\d\d: divide 0 to 255 by 255"),
        (images(1).half() / 255 - 0.5, r"images of torch\.float16 must lie in \[0, 1\], got -0\.\d+ to 0\.\d+"),
        (torch.full((1, 3, 8, 8), torch.nan), "must lie in .* got nan to nan"),
        (images(1).int(), r"images must be uint8, or floating point in \[0, 1\], got torch\.int32"),
        (images(1) > 100, "got torch.bool"),
    ],
)
def test_multi_crop_refuses_what_would_turn_white(batch, words):
    with pytest.raises(ValueError, match=words):
        views.multi_crop(batch, torch.arange(1), crops=CROPS, seed=0, epoch=0)


def test_multi_crop_takes_floats_from_zero_to_one():
    batch = images(2)
    settings = {"crops": CROPS, "seed": 0, "epoch": 0}
    want = views.multi_crop(batch, torch.arange(2), **settings)
    got = views.multi_crop(batch.float() / 255, torch.arange(2), **settings)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    views.multi_crop(torch.tensor([0.0, 1.0]).expand(1, 3, 4, 2), torch.arange(1), **settings)  # both ends
