import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vmflearn.data.decoding import ImageSource
from vmflearn.data.photo_source import PhotoImages
from vmflearn.evaluate.augmented import Augmented
from vmflearn.evaluate.linear import LinearSweep, epoch_order


def test_each_rate_is_pytorchs_sgd_alone():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=generator), torch.arange(60) % 3
    rates, epochs, batch = (0.1, 2.0), 3, 16
    sweep = LinearSweep(rates, 5, 3, epochs=epochs, seed=4)
    start = sweep.weights.clone()
    layers = []
    for i in range(2):
        layer = nn.Linear(5, 3)
        with torch.no_grad():
            layer.weight.copy_(start[:-1, i].T)
            layer.bias.copy_(start[-1, i])
        layers.append(layer)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9) for layer in layers]
    for epoch in range(epochs):
        for rows in epoch_order(60, 1, epoch).split(batch):
            sweep.step(x[rows], y[rows])
            for rate, layer, optimizer in zip(rates, layers, optimizers, strict=True):
                optimizer.param_groups[0]["lr"] = rate * len(rows) / 256 * (1 + math.cos(math.pi * epoch / epochs)) / 2
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
                optimizer.step()
        sweep.end_epoch()
    for scores, layer in zip(sweep.scores(x), layers, strict=True):
        torch.testing.assert_close(scores, layer(x).detach(), atol=1e-5, rtol=1e-5)
    assert float(start[:-1].std()) == pytest.approx(0.01, rel=0.5)
    assert (start[-1] == 0).all()


def test_a_saved_sweep_goes_on_to_the_last_bit():
    x, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2
    one, other = (LinearSweep([0.5], 4, 2, epochs=4, seed=seed) for seed in (0, 1))
    one.step(x, y)
    one.end_epoch()
    other.load_state_dict(one.state_dict())
    for sweep in (one, other):
        sweep.step(x, y)
    assert other.epoch == 1
    assert torch.equal(one.weights, other.weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": []}, "rates must be positive"),
        ({"rates": [-1.0]}, "rates must be positive"),
        ({"n_classes": 1}, "there are 1 classes"),
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_trained(changes, message):
    with pytest.raises(ValueError, match=message):
        LinearSweep(**{"rates": [1.0], "n_features": 2, "n_classes": 2, "epochs": 1} | changes)


def test_every_epoch_of_every_seed_has_an_order_of_its_own():
    orders = [epoch_order(50, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert torch.equal(epoch_order(50, 0, 1), orders[1])


class Ramps(ImageSource):
    """Copies of one image that grows brighter from left to right."""

    labels, class_names, notes = torch.zeros(200, dtype=torch.int64), ("one",), []

    def path(self, index):
        return Path(f"{index}")

    def names_digest(self):
        return ""

    def _open(self, index):
        return Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (48, 1))).convert("RGB")


def test_each_image_has_a_view_of_its_own_and_half_are_mirrored():
    views = [Augmented(Ramps(), 8, 0, 0)[i][0].int() for i in range(200)]
    assert len({view.numpy().tobytes() for view in views}) > 150  # where it is cut from top to bottom is not seen
    rising = sum(bool(view[0, 0, -1] > view[0, 0, 0]) for view in views)
    assert 75 < rising < 125  # of 200: three and a half standard deviations


def test_views_depend_on_seed_epoch_and_image_alone():
    source = PhotoImages("test")
    view, index, readable = Augmented(source, 24, 0, 3)[5]
    assert (view.shape, view.dtype, index, readable) == ((3, 24, 24), torch.uint8, 5, True)
    before = torch.random.get_rng_state()
    assert torch.equal(Augmented(source, 24, 0, 3)[5][0], view)
    assert torch.equal(torch.random.get_rng_state(), before)
    for seed, epoch in ((1, 3), (0, 4)):
        assert not torch.equal(Augmented(source, 24, seed, epoch)[5][0], view)
