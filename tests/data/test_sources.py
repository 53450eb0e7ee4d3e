import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.sources import UnreadableImage, open_images

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def only(root: Path) -> np.ndarray:
    source = open_images(root)
    assert len(source) == 1
    image = source.read(0)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def test_class_folders_in_natural_order(tmp_path):
    for name in ("class10/a.png", "class2/b.png", "class2/a.PNG", "class1/x.bmp"):
        save(tmp_path / name, COLOURS)
    (tmp_path / "class1" / "notes.txt").write_text("no image")
    source = open_images(str(tmp_path))
    assert source.class_names == ("class1", "class2", "class10")
    assert [source.path(i).relative_to(tmp_path).as_posix() for i in range(len(source))] == [
        "class1/x.bmp", "class2/a.PNG", "class2/b.png", "class10/a.png",
    ]  # fmt: skip
    assert source.labels.tolist() == [0, 1, 1, 2]
    assert source.labels.dtype == torch.int64


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("a.png", "some/b.png")])
def test_a_folder_without_classes_has_no_labels(tmp_path, names):
    for name in names:
        save(tmp_path / name, COLOURS)
    source = open_images(tmp_path)
    assert source.class_names == ()
    assert source.labels.tolist() == [-1, -1]


def test_rgb_is_read_as_it_is(tmp_path):
    save(tmp_path / "a.png", COLOURS)
    assert (only(tmp_path) == COLOURS).all()


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_repeated(tmp_path, mode):
    save(tmp_path / "a.png", COLOURS, mode)
    want = np.asarray(Image.fromarray(COLOURS).convert(mode).convert("L"))
    assert (only(tmp_path) == want[:, :, None]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path, suffix):
    values = np.array([[0, 255, 257], [32768, 40000, 65535]], dtype=np.uint16)
    save(tmp_path / f"a.{suffix}", values)
    assert (only(tmp_path) == np.array([[0, 1, 1], [128, 156, 255]])[:, :, None]).all()


def test_more_than_16_bits_and_floats_are_refused(tmp_path):
    save(tmp_path / "a.tif", np.array([[0, 70000]], dtype=np.int32))
    with pytest.raises(UnreadableImage, match="from 0 to 70000 do not fit 16 bits"):
        open_images(tmp_path).read(0)
    save(tmp_path / "a.tif", np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(UnreadableImage, match="floating-point greys"):
        open_images(tmp_path).read(0)


def test_transparency_is_shown_on_white(tmp_path):
    alpha = np.array([0, 51, 128, 255], dtype=np.uint8)
    pixels = np.concatenate([np.full((1, 4, 3), 40, dtype=np.uint8), alpha[None, :, None]], axis=2)
    save(tmp_path / "a.png", pixels)
    want = 255 + (40.0 - 255.0) * alpha / 255.0
    assert np.abs(only(tmp_path)[0] - want[:, None]).max() <= 1


def test_transparent_palettes_and_greys(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    assert only(tmp_path).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    Image.fromarray(np.array([[[9, 0], [9, 255]]], dtype=np.uint8), "LA").save(tmp_path / "a.png")
    assert only(tmp_path).tolist() == [[[255] * 3, [9] * 3]]


def test_an_opaque_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    assert only(tmp_path).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_cmyk(tmp_path):
    Image.new("CMYK", (3, 2), (255, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert np.abs(only(tmp_path).astype(int) - [0, 255, 255]).max() < 4


@pytest.mark.parametrize("content", ["empty", "garbage", "truncated"])
def test_an_unreadable_image_is_named(tmp_path, content):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "bad.png"
    save(path, noise)
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"not an image", "truncated": data[: len(data) // 2]}[content])
    source = open_images(tmp_path)
    with pytest.raises(UnreadableImage, match=r"cannot read the image .*bad\.png: .*; replace the file") as caught:
        source.read(0)
    assert caught.value.path == path
    assert caught.value.reason


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage(Path("x.png"), "broken")))
    assert (error.path, error.reason) == (Path("x.png"), "broken")
    assert str(error).startswith("cannot read the image x.png: broken")


def test_the_source_travels_between_processes(tmp_path):
    save(tmp_path / "a" / "a.png", COLOURS)
    source = pickle.loads(pickle.dumps(open_images(tmp_path)))
    assert (source.read(0).permute(1, 2, 0).numpy() == COLOURS).all()


def test_an_index_beyond_the_end(tmp_path):
    save(tmp_path / "a.png", COLOURS)
    for index in (1, -1):
        with pytest.raises(IndexError, match=f"image {index} of 1"):
            open_images(tmp_path).read(index)
        with pytest.raises(IndexError, match=f"image {index} of 1"):
            open_images(tmp_path).pixels(index, 2)


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; give a folder"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no images in .*\.png, \.jpg.*put images there"):
        open_images(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="is a file, not a folder"):
        open_images(tmp_path / "a.txt")
