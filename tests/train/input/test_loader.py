import numpy as np
import pytest
import torch

from vmflearn import distributed
from vmflearn.train.config import ConfigError, DataConfig
from vmflearn.train.input.loader import ArrayLoader, Order, open_training, open_validation
from vmflearn.views.batched import dino_crops


def test_an_epoch_visits_images_once_and_the_next_in_another_order():
    order = Order(n_images=103, batch_size=10, seed=3)
    assert order.steps_per_epoch == 10
    epochs = [np.concatenate([order.indices(e * 10 + s)[1] for s in range(10)]) for e in (0, 1)]
    for visited in epochs:
        assert len(set(visited)) == 100
        assert set(visited) <= set(range(103))
    assert not np.array_equal(*epochs)
    assert order.indices(25)[0] == 2


def test_the_order_depends_on_seed_and_step_alone():
    order = Order(50, 7, seed=1)
    forward = [order.indices(step)[1] for step in range(20)]
    fresh = Order(50, 7, seed=1)
    for step in (19, 3, 12):
        np.testing.assert_array_equal(fresh.indices(step)[1], forward[step])
    assert not np.array_equal(Order(50, 7, seed=2).indices(0)[1], forward[0])


def test_processes_share_the_batch_of_one(monkeypatch):
    whole = Order(64, 12, seed=0)
    batch = whole.indices(7)[1]
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 3)
        share = Order(64, 12, seed=0)
        assert share.steps_per_epoch == whole.steps_per_epoch
        parts.append(share.indices(7)[1])
    np.testing.assert_array_equal(np.concatenate(parts), batch)
    with pytest.raises(ConfigError, match=r"batch_size=10 is not a multiple of the 3 processes"):
        Order(64, 10, seed=0)


def test_too_large_a_batch_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size=65 is larger than the data set \(64 images\)"):
        Order(64, 65, seed=0)


def test_array_loader_starts_anywhere():
    images = torch.randint(0, 256, (32, 3, 20, 20), dtype=torch.uint8)
    loader = ArrayLoader(images, dino_crops(8, 4, 1), Order(32, 8, seed=0), torch.device("cpu"))
    steps = list(loader(0, 6))
    assert [crop.shape for crop in steps[0][0]] == [(8, 3, 8, 8), (8, 3, 8, 8), (8, 3, 4, 4)]
    (resumed,) = loader(5, 6)
    assert torch.equal(resumed[1], torch.from_numpy(loader.order.indices(5)[1]))
    for one, other in zip(resumed[0], steps[5][0], strict=True):
        assert torch.equal(one, other)


def test_every_process_says_in_one_line_what_is_wrong(tmp_path, monkeypatch):
    """Not the first alone: the others open the same images by themselves."""
    for name in ("train/a/1.png", "val/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with pytest.raises(ConfigError, match=r"data\.source=folder: .* holds train and val, parts of one data set"):
            open_training(DataConfig(source="folder", root=str(tmp_path)))


def test_validation_images_are_those_of_their_own_part(tmp_path):
    here = ("train/a/1.png", "train/a/2.png", "val/a/1.png")
    there = ("train/a/1.png", "val/a/1.png", "val/a/2.png", "val/a/3.png")
    for name in (*here, *(f"other/{name}" for name in there)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    data = DataConfig(source="timm", name="torch/image_folder", root=str(tmp_path), val_split="validation")
    assert (len(open_training(data)), len(open_validation(data))) == (2, 1)
    data.val_root = str(tmp_path / "other")
    assert (len(open_training(data)), len(open_validation(data))) == (2, 3)
    data.val_split = None
    assert len(open_validation(data)) == 1
