import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import Mixup
from timm.layers import DropPath
from torch.nn import functional as F

from vmflearn import distributed
from vmflearn.backbones.creation import create_backbone
from vmflearn.data.photo_source import PhotoImages
from vmflearn.evaluate import finetune_images
from vmflearn.evaluate.finetune import FineTuning, add_classifier, seed_everything, set_drop_path
from vmflearn.evaluate.finetune_images import Images, Order, train_transform
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.recipes import RECIPES, Recipe

PLAIN = replace(
    RECIPES["deit"],
    epochs=4,
    warmup_epochs=1,
    batch=8,
    drop_path=0.0,
    mixup=0.0,
    cutmix=0.0,
    repeats=1,
    lr=0.01,
    lr_batch=0,
)


def small(depth=2):
    torch.manual_seed(0)
    return create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=depth, num_heads=2)


def images(n=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 16, 16, generator=generator), torch.arange(n) % 3


def test_a_step_is_one_of_adamw_on_smoothed_labels():
    backbone = small()
    recipe = replace(PLAIN, warmup_epochs=0, layer_decay=1.0)
    tuning = FineTuning(backbone, 3, recipe, steps_per_epoch=5)
    theirs = copy.deepcopy(backbone).train()
    spared = {n for n, p in theirs.named_parameters() if p.ndim == 1 or n in ("cls_token", "pos_embed")}
    groups = [
        {"params": [p for n, p in theirs.named_parameters() if n not in spared], "weight_decay": 0.05},
        {"params": [p for n, p in theirs.named_parameters() if n in spared], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    x, y = images()
    targets = torch.full((8, 3), 0.1 / 3)
    targets[range(8), y] += 0.9
    loss = -(targets * theirs(x).log_softmax(dim=1)).sum(dim=1).mean()
    loss.backward()
    optimizer.step()
    assert tuning.step(0, [(x, y)], 1) == pytest.approx(float(loss.detach()), rel=1e-6)
    for (name, ours), other in zip(backbone.named_parameters(), theirs.parameters(), strict=True):
        if name.endswith("attn.qkv.bias"):
            continue  # the gradient of its keys' third is zero in truth, and AdamW makes a step of its rounding
        torch.testing.assert_close(ours, other, atol=2e-6, rtol=1e-5, msg=name)


def test_a_second_step_begins_with_gradients_of_its_own():
    """Against two steps of AdamW by hand; and what is looked at in between does not end the training."""
    tuning = FineTuning(small(), 3, replace(PLAIN, warmup_epochs=0, weight_decay=0.0), steps_per_epoch=1000)
    theirs = copy.deepcopy(tuning.network).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.0)
    x, y = images(16)
    for number, rows in enumerate((slice(0, 8), slice(8, 16))):
        optimizer.zero_grad()
        F.cross_entropy(theirs(x[rows]), y[rows], label_smoothing=0.1).backward()
        optimizer.step()
        tuning.network.eval()
        tuning.step(number, [(x[rows], y[rows])], 1)
        assert tuning.network.training
    torch.testing.assert_close(tuning.network.head.weight, theirs.head.weight, atol=1e-5, rtol=1e-4)


def test_mixed_images_have_the_loss_of_timms_targets_and_each_part_a_mixing_of_its_own():
    """Drawn again by the same seeds: labels are smoothed once, by the mixing."""
    x, y = images()
    tuning = FineTuning(small(), 3, replace(PLAIN, mixup=0.8, cutmix=1.0), steps_per_epoch=5, seed=6)
    theirs = copy.deepcopy(tuning.network).train()
    want, mixed = 0.0, []
    for part in range(2):
        seed_everything(6, 4, part, 0)
        mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=3)
        images_of_part, targets = mix(x.clone(), y)
        log_p = theirs(images_of_part).log_softmax(dim=1).detach()
        want += float(-(targets * log_p).sum(dim=1).mean()) / 2
        mixed.append(images_of_part)
    assert tuning.step(4, [(x.clone(), y), (x.clone(), y)], 2) == pytest.approx(want, rel=1e-5)
    assert not torch.equal(*mixed)


def test_the_precision_is_that_of_the_step():
    losses = [
        FineTuning(small(), 3, PLAIN, steps_per_epoch=5, precision=precision).step(0, [images()], 1)
        for precision in ("float32", "bf16")
    ]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.01)


def test_images_in_parts_make_the_step_of_the_whole():
    x, y = images()
    found = []
    for parts in (1, 4):
        tuning = FineTuning(small(), 3, PLAIN, steps_per_epoch=5)
        tuning.step(3, zip(x.chunk(parts), y.chunk(parts), strict=True), parts)
        found.append(tuning.network.patch_embed.proj.weight.detach())
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def test_learning_rates_fall_from_block_to_block():
    recipe = replace(PLAIN, layer_decay=0.5)
    tuning = FineTuning(small(depth=3), 3, recipe, steps_per_epoch=10)
    tuning.schedule.step_update(10)  # the warm-up is over: the peak
    rates = {id(p): group["lr"] for group in tuning.optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in tuning.optimizer.param_groups for p in group["params"]}
    for name, parameter in tuning.network.named_parameters():
        if name.startswith("blocks."):
            below = 3 - int(name.split(".")[1])  # of the classifier
        else:
            below = 0 if name.startswith("head") else 1 if name.startswith("norm") else 4
        assert rates[id(parameter)] == pytest.approx(0.01 * 0.5**below), name
        spared = parameter.ndim == 1 or name in ("cls_token", "pos_embed")
        assert decays[id(parameter)] == (0 if spared else 0.05), name


def test_the_schedule_longhand():
    recipe = replace(PLAIN, epochs=5, warmup_epochs=2, lr=0.02, min_lr=0.001, warmup_lr=0.004)
    tuning = FineTuning(small(), 3, recipe, steps_per_epoch=10)

    def rate(step):
        tuning.schedule.step_update(step)
        return tuning.optimizer.param_groups[0]["lr"]

    assert rate(0) == pytest.approx(0.004)
    assert rate(5) == pytest.approx(0.004 + 0.016 * 5 / 20)
    for step in (20, 26, 35, 49):
        want = 0.001 + 0.019 * (1 + math.cos(math.pi * (step - 20) / 30)) / 2
        assert rate(step) == pytest.approx(want)


def test_the_peak_grows_with_the_batch_where_the_recipe_says_so():
    assert RECIPES["deit"].peak_lr == pytest.approx(7.5e-6 * 768 / 512)
    assert replace(RECIPES["deit"], batch=256).peak_lr == pytest.approx(3.75e-6)
    assert replace(RECIPES["beit-base"], batch=256).peak_lr == 1e-3


def test_stochastic_depth_grows_from_block_to_block_and_a_classifier_is_drawn_by_its_seed():
    backbone = small(depth=3)
    set_drop_path(backbone, 0.4)
    drops = [(block.drop_path1, block.drop_path2) for block in backbone.blocks]
    assert all(not isinstance(drop, DropPath) for drop in drops[0])
    assert [drop.drop_prob for pair in drops[1:] for drop in pair] == [0.2, 0.2, 0.4, 0.4]
    heads = [add_classifier(small(), 3, 0.02, seed).head for seed in (0, 0, 1)]
    assert (heads[0].weight == heads[1].weight).all()
    assert (heads[0].weight != heads[2].weight).any()
    assert heads[0].bias.eq(0).all()
    assert 0.01 < float(heads[0].weight.detach().std()) < 0.03
    assert float(add_classifier(small(), 50, 2e-5, 0).head.weight.abs().max()) < 2e-4


def test_mixed_steps_depend_on_their_number_and_the_seed_alone():
    x, y = images()
    recipe = replace(PLAIN, mixup=0.8, cutmix=1.0, drop_path=0.3)
    found = {}
    for key, seed, number in (("a", 0, 7), ("b", 0, 7), ("c", 0, 8), ("d", 1, 7)):
        torch.manual_seed(hash(key) % 1000)
        tuning = FineTuning(small(), 3, recipe, steps_per_epoch=5, seed=seed)
        found[key] = tuning.step(number, [(x.clone(), y)], 1)
    assert found["a"] == found["b"]
    assert len({found[key] for key in "acd"}) == 3


def test_a_loss_that_is_not_finite_changes_nothing():
    tuning = FineTuning(small(), 3, PLAIN, steps_per_epoch=5)
    before = copy.deepcopy(tuning.network.state_dict())
    x, y = images()
    with pytest.raises(ValueError, match="the loss of step 2 is nan: lower the learning rate"):
        tuning.step(2, [(x * torch.nan, y)], 1)
    torch.testing.assert_close(tuning.network.state_dict(), before)


def test_an_epoch_shows_every_image_once_and_processes_share_it(monkeypatch):
    recipe = replace(PLAIN, batch=8)
    alone = Order(21, recipe, 0, 64)
    assert sorted(alone.epoch(3)) == list(range(21))
    assert alone.epoch(3) != alone.epoch(4)
    assert alone.steps_per_epoch == 2
    whole = alone.epoch(3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(Order(21, recipe, 0, 64).epoch(3))
    assert len(shares[0]) == len(shares[1]) == 10
    assert not set(shares[0]) & set(shares[1])
    assert {*shares[0], *shares[1]} == set(whole[:20])


def test_repeated_augmentation_shows_a_third_of_the_images_three_times():
    order = Order(300, replace(PLAIN, repeats=3), 0, 64)
    numbers = order.epoch(0)
    assert len(numbers) == 256  # timm rounds an epoch down to a multiple of 256
    counts = {n: numbers.count(n) for n in set(numbers)}
    assert sorted(counts.values())[1:] == [3] * 85
    assert order.epoch(0) == numbers
    assert order.epoch(1) != numbers
    assert Order(300, replace(PLAIN, repeats=3), 1, 64).epoch(0) != numbers


def network_for(**changes):
    """A network that takes images of 24 pixels."""
    return replace(Model(torch.nn.Identity(), None, "", "", size=24, resized=30), **changes)


def test_views_depend_on_seed_epoch_and_place_alone():
    source = PhotoImages("test")

    def view(seed, epoch, place):
        return Images(source, train_transform(network_for(), RECIPES["deit"]), seed)[epoch, place, 7]

    image, label = view(0, 2, 5)
    assert (image.shape, label) == ((3, 24, 24), int(source.labels[7]))
    torch.manual_seed(9)
    assert torch.equal(view(0, 2, 5)[0], image)
    for other in ((1, 2, 5), (0, 3, 5), (0, 2, 6)):
        assert not torch.equal(view(*other)[0], image), other


def test_views_are_those_of_the_recipe_and_the_network():
    """Of a black image, which neither colours nor mirrors change."""
    black, plain = Image.new("RGB", (40, 40)), replace(RECIPES["deit"], auto_augment="", erase=0.0)
    colours = network_for(mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.1))
    want = torch.tensor([-1.0, -2.0, -2.0])[:, None, None].expand(3, 24, 24)
    torch.testing.assert_close(train_transform(colours, plain)(black), want)
    torch.manual_seed(0)
    erased = [bool((train_transform(colours, replace(plain, erase=0.25))(black) != want).any()) for _ in range(100)]
    assert 10 < sum(erased) < 45
    assert "RandAugment" in str(train_transform(colours, RECIPES["deit"]))
    assert "RandAugment" not in str(train_transform(colours, plain))


@pytest.mark.parametrize(("magnitude", "bits"), [(0, 4), (5, 2), (10, 0)])
def test_posterising_keeps_the_highest_bits_or_none(magnitude, bits):
    """To keep none is the strongest of RandAugment in both recipes, of one image in 660; Pillow 13 refuses it."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for recipe in ("deit", "beit-small"):
        transform = train_transform(network_for(), RECIPES[recipe])
        (operation,) = [op for step in transform.transforms for op in getattr(step, "ops", ()) if op.name[:4] == "Post"]
        operation.prob, operation.magnitude, operation.magnitude_std = 1.0, magnitude, 0
        found = np.asarray(operation(Image.fromarray(pixels)))
        np.testing.assert_array_equal(found, pixels.astype(int) >> (8 - bits) << (8 - bits))


def test_test_images_keep_their_margin():
    """Pillow's own resampling, longhand: the shorter side at 30 pixels, then the central 24."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
    model = network_for(mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.1))
    small_one = np.asarray(Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC).crop((8, 3, 32, 27)))
    want = (small_one / 255 - model.mean) / model.std
    found = finetune_images.test_transform(model)(Image.fromarray(pixels)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_keys_go_on_where_a_run_was_stopped():
    order = Order(20, replace(PLAIN, batch=8, mixup=0.8), 0, at_a_time=5)
    assert (order.size, order.parts, order.steps_per_epoch) == (4, 2, 2)
    everything = list(order.steps(0, 6))
    assert len(everything) == 12
    assert [key[:2] for key in everything[5]] == [(1, place) for place in range(4, 8)]
    assert list(order.steps(3, 6)) == everything[6:]


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match="a batch of 8 images is larger than the training set, of which an epoch shows 5"
    ):
        Order(5, PLAIN, 0, 64)
    with pytest.raises(ValueError, match=r"7 images a step on each process, at most 64 at a time, .* parts of 2"):
        Order(50, replace(PLAIN, batch=7, mixup=0.8), 0, 64)
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        FineTuning(small(), 1, PLAIN, steps_per_epoch=1)
    with pytest.raises(ValueError, match="patch tokens need a Vision Transformer"):
        FineTuning(create_backbone("resnet18"), 2, PLAIN, steps_per_epoch=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must not be negative, got -1.0"),
        ({"lr": math.nan}, "lr must not be negative, got nan"),
        ({"warmup_epochs": 4}, "warmup_epochs=4 must be fewer than epochs=4"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], got 0.0"),
        ({"drop_path": 1.0}, "drop_path must be below 1, got 1.0"),
    ],
)
def test_numbers_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


def test_the_recipes_are_the_published_ones():
    deit, small_one, base, large = (RECIPES[name] for name in ("deit", "beit-small", "beit-base", "beit-large"))
    assert isinstance(deit, Recipe)
    assert (deit.epochs, deit.batch, deit.lr, deit.warmup_epochs, deit.drop_path) == (1000, 768, 7.5e-6, 5, 0.1)
    assert [(r.epochs, r.drop_path, r.layer_decay) for r in (small_one, base, large)] == [
        (200, 0.1, 0.75),
        (100, 0.2, 0.65),
        (50, 0.4, 0.75),
    ]
    assert all((r.mixup, r.cutmix, r.smoothing, r.weight_decay) == (0.8, 1.0, 0.1, 0.05) for r in RECIPES.values())
    assert (deit.repeats, deit.erase, deit.min_lr, deit.warmup_lr, deit.head_std) == (3, 0.25, 1e-5, 1e-6, 0.02)
    for beit in (small_one, base, large):
        assert (beit.repeats, beit.erase, beit.min_lr, beit.warmup_lr, beit.head_std) == (1, 0.25, 1e-6, 1e-6, 2e-5)
        assert (beit.batch, beit.lr, beit.warmup_epochs) == (1024, 1e-3, 20)


def test_smoothed_labels_of_timm_and_torch_agree():
    """Where images are mixed timm smooths the labels, elsewhere PyTorch: by the same rule."""
    x, y = images()
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    _, soft = Mixup(mixup_alpha=0.8, prob=0.0, label_smoothing=0.1, num_classes=3)(x.clone(), y)
    torch.testing.assert_close(F.cross_entropy(logits, soft), F.cross_entropy(logits, y, label_smoothing=0.1))
