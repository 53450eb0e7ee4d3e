import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.sources import open_images
from vmflearn.train.config import ConfigError
from vmflearn.train.input import cache as cache_module
from vmflearn.train.input.batches import DataError, Unreadable, decode_batches, lost_worker
from vmflearn.train.input.cache import cached, select
from vmflearn.train.input.prefetch import prefetch

CPU = torch.device("cpu")


def write(folder, shapes):
    folder.mkdir(exist_ok=True)
    for i, (height, width) in enumerate(shapes):
        pixels = np.random.default_rng(i).integers(1, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return open_images(folder)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cap", [0, 12])
def test_images_lie_in_the_corners_of_their_canvases(tmp_path, workers, cap):
    source = write(tmp_path, [(5, 9), (8, 3), (24, 16), (2, 2)])
    wanted = [(4, np.array([2, 0])), (5, np.array([3, 1]))]
    batches = list(decode_batches(source, wanted, max_side=cap, workers=workers))
    for (epoch, indices), batch in zip(wanted, batches, strict=True):
        assert batch.epoch == epoch
        assert batch.indices.tolist() == indices.tolist()
        assert batch.problems == ()
        pictures = [source.pixels(int(i), cap) for i in indices]
        assert batch.sizes.tolist() == [list(size) for _, size in pictures]
        assert list(batch.images.shape[1:3]) == np.max([p.shape[:2] for p, _ in pictures], axis=0).tolist()
        for canvas, shape, (pixels, _) in zip(batch.images, batch.shapes.tolist(), pictures, strict=True):
            assert shape == list(pixels.shape[:2])
            assert (canvas[: shape[0], : shape[1]].numpy() == pixels).all()
            assert canvas[shape[0] :].sum() == canvas[:, shape[1] :].sum() == 0


def test_loading_leaves_the_random_state_alone(tmp_path):
    source = write(tmp_path, [(4, 4)])
    torch.manual_seed(1)
    want = torch.rand(1)
    torch.manual_seed(1)
    list(decode_batches(source, [(0, np.array([0]))], max_side=0, workers=0))
    assert torch.rand(1) == want


def test_a_cache_gives_the_batches_of_the_loader(tmp_path, monkeypatch):
    source = write(tmp_path, [(6, 8)] * 250)
    source.path(77).write_bytes(b"broken")
    source.path(249).write_bytes(b"broken")
    monkeypatch.setattr(cache_module, "BATCH", 60)
    seen = Unreadable(source)
    whole = cached(source, wanted="auto", max_side=5, workers=2, device=CPU, seen=seen)
    assert set(seen.found) == {str(source.path(77)), str(source.path(249))}
    assert len(seen.news) == 2
    wanted = np.array([249, 3, 77, 78])
    (want,) = decode_batches(source, [(2, wanted)], max_side=5, workers=0)
    got = select(whole, torch.from_numpy(wanted), 2)
    assert want.indices.tolist() == got.indices.tolist() == [0, 3, 78, 78]
    for ours, theirs in zip(got[:5], want[:5], strict=True):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


def test_what_is_not_cached(tmp_path, monkeypatch):
    same, other = write(tmp_path / "same", [(6, 8)] * 4), write(tmp_path / "other", [(6, 8)] * 3 + [(8, 6)])
    settings = {"max_side": 0, "workers": 0, "device": CPU}
    assert cached(same, wanted=False, seen=Unreadable(same), **settings) is None
    assert cached(same, wanted="auto", seen=Unreadable(same), **settings) is not None
    assert cached(other, wanted="auto", seen=Unreadable(other), **settings) is None
    with pytest.raises(ConfigError, match="cannot be done: the images have different sizes"):
        cached(other, wanted=True, seen=Unreadable(other), **settings)
    monkeypatch.setattr(cache_module, "_free_memory", lambda device: 4 * 4 * 6 * 8 * 3 - 1)
    assert cached(same, wanted="auto", seen=Unreadable(same), **settings) is None
    with pytest.raises(ConfigError, match=r"5\.76e-07 GB are more than 25% of the free memory; set data\.cache"):
        cached(same, wanted=True, seen=Unreadable(same), **settings)


def test_unreadable_images_are_counted_once_and_limited(tmp_path):
    seen = Unreadable(write(tmp_path, [(2, 2)] * 100))
    seen.count([("a", "broken"), ("a", "broken")])
    seen.count([("a", "broken")])
    assert seen.news == ["skipped unreadable image a (broken); 1 so far"]
    with pytest.raises(DataError, match="2 of 100 images cannot be read, more than 1%: a, b"):
        seen.count([("b", "broken")])
    with pytest.raises(DataError):  # of two processes, each sees half of the images
        Unreadable(open_images(tmp_path), share=0.5).count([("a", "broken")])


def test_a_cpu_makes_batches_as_they_are_asked_for():
    made = []

    def make(batch):
        made.append(batch)
        return [torch.tensor(batch)], torch.tensor(batch)

    steps = prefetch(range(5), make, CPU)
    assert [int(next(steps)[1]) for _ in range(2)] == [0, 1]
    assert made == [0, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_the_same_batches_one_ahead():
    device, made = torch.device("cuda"), []

    def make(batch):
        made.append(batch)
        return [torch.full((1000,), float(batch), device=device).cumsum(0)], torch.tensor(batch)

    for i, (crops, index) in enumerate(prefetch(range(5), make, device)):
        assert int(index) == i
        assert len(made) == min(i + 2, 5)
        assert crops[0][-1].item() == 1000 * i


def test_the_share_of_memory_is_of_the_first_readable_image(tmp_path):
    source = write(tmp_path, [(6, 8)] * 2)
    for index in (0, 1):
        source.path(index).write_bytes(b"broken")
    with pytest.raises(ConfigError, match="cannot be done: no image can be read"):
        cached(source, wanted=True, max_side=0, workers=0, device=CPU, seen=Unreadable(source))


def test_a_worker_that_goes_while_it_hands_over_is_named_and_other_connections_are_not():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with (
        pytest.raises(DataError, match=r"worker is gone \(.*\): it decoded images.*lower data\.workers"),
        lost_worker(),
    ):
        ours.recv()
    for error in (ConnectionResetError("of a server"), EOFError("of a file"), RuntimeError("of a step")):
        with pytest.raises(type(error), match=r"^of a"), lost_worker():
            raise error
