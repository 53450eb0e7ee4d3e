"""Features of sources: the numbers, what is left out, and what a kill leaves behind."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vmflearn.backbones.creation import create_backbone
from vmflearn.data.photo_source import PhotoImages
from vmflearn.data.sources import open_images
from vmflearn.evaluate import extraction
from vmflearn.evaluate.extraction import PRECISIONS, extract
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.readouts import BEFORE_NORM, OUTPUT, Readout, last_blocks
from vmflearn.views.photometric import IMAGENET_MEAN, IMAGENET_STD


class Colours(nn.Module):
    """Mean colours of what it is shown; counts its images."""

    def __init__(self):
        super().__init__()
        self.seen, self.weight = 0, nn.Parameter(torch.ones(1))

    def forward(self, images):
        self.seen += len(images)
        return self.weight * images.mean(dim=(2, 3))


def model(**changes):
    return dataclasses.replace(Model(Colours(), None, "digest", "colours", 8, 10), **changes)


@pytest.fixture
def folder(tmp_path):
    """Ten plain images of two classes; number 4 is none."""
    for i in range(10):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 16), (i, 2 * i, 100)).save(path)
    (tmp_path / "images" / "a" / "4.png").write_bytes(b"no picture")
    return tmp_path / "images"


def longhand(source):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rows = [i for i in range(len(source)) if source.path(i).name != "4.png"]
    colours = [np.array(Image.open(source.path(i)))[0, 0] for i in rows]
    return rows, (np.array(colours) / 255 - mean) / std


@pytest.mark.parametrize(("workers", "cached"), [(0, False), (0, True), (1, True)])
def test_features_are_those_of_the_images_that_can_be_read(folder, tmp_path, monkeypatch, workers, cached):
    monkeypatch.setattr(extraction, "PART", 3)
    source = open_images(folder)
    found = extract(model(), source, batch_size=2, workers=workers, cache=tmp_path / "cache" if cached else None)
    rows, want = longhand(source)
    assert found.rows.tolist() == rows
    assert found.labels.tolist() == source.labels[rows].tolist()
    np.testing.assert_allclose(found.values, want, rtol=1e-5)
    assert found.notes == [
        f"1 of 10 images cannot be read and were left out, {folder / 'a' / '4.png'} the first of them"
    ]


def test_the_cache_goes_on_where_it_was_left_and_knows_what_it_holds(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PART", 3)
    source, cache, ours = open_images(folder), tmp_path / "cache", model()
    read, kept = source.read, 0

    def stop(index):
        if index == 7:
            raise KeyboardInterrupt
        return read(index)

    monkeypatch.setattr(source, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(ours, source, batch_size=3, cache=cache)
    monkeypatch.setattr(source, "read", read)
    kept, ours.backbone.seen = ours.backbone.seen, 0
    assert kept == 6
    found = extract(ours, source, batch_size=3, cache=cache)
    assert ours.backbone.seen == 4
    np.testing.assert_allclose(found.values, longhand(source)[1], rtol=1e-5)
    ours.backbone.seen = 0
    again = extract(ours, source, batch_size=3, cache=cache)
    assert ours.backbone.seen == 0
    assert isinstance(again.values, np.memmap)
    assert {path.name for path in cache.glob("*/*")} == {"about.json", "features.npy", "rows.npy"}
    half = (0.5, 0.5, 0.5)
    for other in ({"digest": "another"}, {"size": 6}, {"resized": 12}, {"mean": half}, {"std": half}):
        extract(model(**other), source, cache=cache)
    extract(ours, source, cache=cache, precision="bf16")
    for other in ({"name": "another"}, {"interpolation": "bilinear"}):
        extract(ours, source, dataclasses.replace(OUTPUT, **other), cache=cache)
    (folder / "a" / "0.png").rename(folder / "a" / "00.png")
    extract(ours, open_images(folder), cache=cache)
    assert len(list(cache.iterdir())) == 10


def test_images_of_the_same_names_are_told_apart(tmp_path):
    """Train and val may number their images alike, and a corrupted copy of a set has the names of the set."""
    found = {}
    for part, level in (("train", 10), ("val", 200)):
        for name in ("a/1.png", "b/1.png"):
            (tmp_path / part / name).parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / part / name)
        found[part] = extract(model(), open_images(tmp_path / part), cache=tmp_path / "cache").values
        np.testing.assert_allclose(found[part][0], (level / 255 - np.array(IMAGENET_MEAN)) / IMAGENET_STD, rtol=1e-5)
    (tmp_path / "val").rename(tmp_path / "elsewhere")  # and the same ones are known wherever they lie
    extract(model(), open_images(tmp_path / "elsewhere"), cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_are_resized_as_the_readout_asks_and_cut_to_their_middle(tmp_path, interpolation):
    """Pillow's own resampling, longhand; the network gives the pixels that it sees."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 84, 3), dtype=np.uint8)
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "images" / "a" / "1.png")
    readout = Readout("pixels", lambda _, images: images.flatten(1), interpolation)
    whole = model(size=16, resized=20, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = extract(whole, open_images(tmp_path / "images"), readout).values.reshape(3, 16, 16) * 255
    small = Image.fromarray(pixels).resize((28, 20), Image.Resampling[interpolation.upper()])
    want = np.asarray(small.crop((6, 2, 22, 18))).astype(float).transpose(2, 0, 1)
    assert np.abs(found - want).max() <= 2  # of 255: Pillow rounds between its two passes


def test_half_precision_is_that_of_the_network_alone(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8), (90, 70, 110)).save(tmp_path / "images" / "a" / "1.png")
    readout = Readout("product", lambda _, images: images.flatten(1)[:, :9] @ torch.full((9, 2), 1 / 3))
    exact, half = (extract(model(), open_images(tmp_path / "images"), readout, precision=p) for p in PRECISIONS)
    rounded = torch.tensor(exact.values).bfloat16().float().numpy()
    assert (half.values != exact.values).all()
    np.testing.assert_allclose(half.values, rounded, rtol=2**-6)


def test_another_size_keeps_the_share_of_the_margin():
    assert model(size=224, resized=256).at_size(448).resized == 512
    assert model(size=224, resized=224).at_size(96).resized == 96


def test_a_damaged_part_is_said_and_made_anew(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PART", 3)
    source, cache = open_images(folder), tmp_path / "cache"
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(extraction._Disk, "_assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        extract(model(), source, cache=cache)
    monkeypatch.undo()
    monkeypatch.setattr(extraction, "PART", 3)
    (part,) = cache.glob("*/part-0000001.npy")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"part-0000001\.npy is damaged and was taken out"):
        extract(model(), source, cache=cache)
    assert len(extract(model(), source, cache=cache).rows) == 9


@pytest.mark.parametrize("name", ["features.npy", "rows.npy"])
def test_a_damaged_whole_is_said_and_made_anew(folder, tmp_path, name):
    source, cache = open_images(folder), tmp_path / "cache"
    want = np.array(extract(model(), source, cache=cache).values)
    (path,) = cache.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:100] if name == "features.npy" else b"")
    with pytest.raises(ValueError, match=f"{path.parent} is damaged and was taken out .*: the same command"):
        extract(model(), source, cache=cache)
    np.testing.assert_array_equal(extract(model(), source, cache=cache).values, want)


def test_an_image_that_was_mended_is_taken_in(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PART", 3)
    source, cache, ours = open_images(folder), tmp_path / "cache", model()
    assert len(extract(ours, source, cache=cache).rows) == 9
    Image.new("RGB", (12, 16), (4, 8, 100)).save(folder / "a" / "4.png")
    ours.backbone.seen = 0
    found = extract(ours, source, cache=cache)
    assert (len(found.rows), found.notes, ours.backbone.seen) == (10, [], 3)  # its part alone is made anew
    np.testing.assert_array_equal(found.values, extract(model(), source).values)
    assert {path.name for path in cache.glob("*/*")} == {"about.json", "features.npy", "rows.npy"}


def test_another_command_that_joins_the_parts_first_is_no_error(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PART", 3)
    load, calls = extraction._Disk._load, []

    def slow(store, path):
        calls.append(path)
        if len(calls) == 1:
            store._assemble(4)  # the other command does what this one is at
        return load(store, path)

    monkeypatch.setattr(extraction._Disk, "_load", slow)
    found = extract(model(), open_images(folder), cache=tmp_path / "cache")
    np.testing.assert_allclose(found.values, longhand(open_images(folder))[1], rtol=1e-5)


def test_what_another_command_is_writing_stays_and_what_a_kill_has_left_goes(folder, tmp_path):
    source, cache = open_images(folder), tmp_path / "cache"
    extract(model(), source, cache=cache)
    (whole,) = cache.glob("*/rows.npy")
    whole.unlink()
    fresh, old = (whole.with_name(f"{name}.npy.7.tmp") for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    extract(model(), source, cache=cache)
    assert (fresh.exists(), old.exists()) == (True, False)


def test_nothing_readable_and_nothing_finite_are_errors(folder, tmp_path):
    source = open_images(folder)
    broken = model()
    with torch.no_grad():
        broken.backbone.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"0\.png are not finite: the weights are damaged"):
        extract(broken, source)
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="none of the 10 images can be read"):
        extract(model(), open_images(folder))


def test_photographs_are_a_source():
    source = PhotoImages("test")
    assert (len(source), len(source.class_names)) == (490, 10)
    from vmflearn.data import load_photos

    assert torch.equal(source.read(77), load_photos("test").images[77])
    assert source.names_digest() != PhotoImages("train").names_digest()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    network = create_backbone("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=12, num_heads=3)
    return network.eval()


def test_readouts_of_blocks_are_written_out(vit):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        outputs = []
        for block in vit.blocks:
            x = block(x)
            outputs.append(x)
        normed = [vit.norm(x) for x in outputs]
        two = torch.cat([normed[1][:, 0], normed[2][:, 0]], dim=1)
        torch.testing.assert_close(last_blocks(2).read(vit, images), two)
        mean = normed[2][:, 1:].mean(dim=1)
        torch.testing.assert_close(last_blocks(2, mean_patches=True).read(vit, images), torch.cat([two, mean], dim=1))
        woven = torch.tensor(
            [
                [v for pair in zip(c, m, strict=True) for v in pair]
                for c, m in zip(normed[2][:, 0].tolist(), mean.tolist(), strict=True)
            ]
        )
        torch.testing.assert_close(last_blocks(1, mean_patches=True).read(vit, images), woven)
        torch.testing.assert_close(BEFORE_NORM.read(vit, images), outputs[2][:, 0])
        torch.testing.assert_close(OUTPUT.read(vit, images), normed[2][:, 0])
    assert not vit.blocks[2]._forward_hooks


def test_blocks_that_are_not_there_are_refused(vit):
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="the network has 3 blocks, and the last 4 of them"):
        last_blocks(4).read(vit, images)
    with pytest.raises(ValueError, match="n must be 1 or more blocks, got 0"):
        last_blocks(0)
    with pytest.raises(ValueError, match="patch tokens need a Vision Transformer"):
        last_blocks(1).read(Colours(), images)
