"""The published layout, made small."""

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.evaluate.davis import open_sequence, palette, prepare_frame, read_mask, sequence_names, write_mask


def make(root, name="blackswan", n=4, size=(30, 48)):
    images, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(np.full((*size, 3), 40 * i, np.uint8)).save(images / f"{i:05d}.jpg")
        mask = np.zeros(size, np.uint8)
        mask[5:9, 5:9], mask[20:22, 30:40] = 1, 2
        write_mask(masks / f"{i:05d}.png", mask)
    (root / "ImageSets" / "2017").mkdir(parents=True, exist_ok=True)
    with (root / "ImageSets" / "2017" / "val.txt").open("a") as file:
        file.write(f"{name}\n")
    return images, masks


def test_the_published_layout_opens(tmp_path):
    make(tmp_path)
    make(tmp_path, "bike-packing", n=3)
    assert sequence_names(tmp_path) == ["blackswan", "bike-packing"]
    sequence = open_sequence(tmp_path, "blackswan")
    assert (len(sequence), sequence.size, sequence.n_objects) == (4, (30, 48), 2)
    assert sequence.frame(1).shape == (3, 480, 768)
    assert np.unique(sequence.mask(3)).tolist() == [0, 1, 2]


def test_frames_are_resized_and_normalised_by_hand():
    pixels = np.random.default_rng(0).integers(0, 256, (240, 427, 3), dtype=np.uint8)
    got = prepare_frame(pixels)
    assert got.shape == (3, 480, 832)  # 854 rounded down to a multiple of 64
    assert prepare_frame(pixels.swapaxes(0, 1)).shape == (3, 832, 480)
    assert prepare_frame(pixels[:, :240]).shape == (3, 480, 448)
    # row 100 of the result lies at 100.5 / 2 - 0.5 = 49.75, column 200 at 200.5 x 427 / 832 - 0.5
    y, x = 49.75, 200.5 * 427 / 832 - 0.5
    i, j, a, b = 49, int(x), 0.75, x - int(x)
    corners = pixels[i : i + 2, j : j + 2].astype(float)
    level = np.round(
        (1 - a) * ((1 - b) * corners[0, 0] + b * corners[0, 1]) + a * ((1 - b) * corners[1, 0] + b * corners[1, 1])
    )
    want = (level / 255 - [0.485, 0.456, 0.406]) / [0.228, 0.224, 0.225]
    np.testing.assert_allclose(got[:, 100, 200].numpy(), want, atol=1e-5)
    assert y == i + a


def test_masks_keep_their_numbers_and_get_the_palette_of_davis(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_mask(tmp_path / "mask.png", mask)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), mask)
        colours = np.array(image.convert("RGB"))
    # the first colours of Pascal VOC
    want = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
    want += [[128, 128, 128], [64, 0, 0], [192, 0, 0], [64, 128, 0], [192, 128, 0]]
    np.testing.assert_array_equal(colours.reshape(-1, 3), want)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)
    assert palette()[-3:] == [224, 224, 192]  # its last, the void


def test_void_is_no_object(tmp_path):
    write_mask(tmp_path / "mask.png", np.array([[0, 1, 255]], dtype=np.uint8))
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1, 0]]


def read_all(root):
    sequence = open_sequence(root, "blackswan")
    for i in range(len(sequence)):
        sequence.frame(i)
        sequence.mask(i)


def save_mask(path, change):
    mask = read_mask(path)
    write_mask(path, change(mask))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda images, masks: (masks / "00002.png").unlink(), r"no mask .*00002\.png: of 4 frames, 1 have none"),
        (lambda images, masks: [path.unlink() for path in images.iterdir()], r"there are no frames .*\*\.jpg"),
        (lambda images, masks: [(images / f"0000{i}.jpg").unlink() for i in (1, 2)], "holds 2 frames; .* needs three"),
        (lambda images, masks: save_mask(masks / "00000.png", np.zeros_like), r"00000\.png shows no object"),
        (
            lambda images, masks: save_mask(masks / "00002.png", lambda m: m + 5),
            r"00002\.png holds object 7; .* up to 2",
        ),
        (
            lambda images, masks: save_mask(masks / "00002.png", lambda m: m[:-1]),
            r"00002\.png is 29 x 48 pixels \(height x width\), the first frame of the sequence 30 x 48",
        ),
        (
            lambda images, masks: Image.new("RGB", (50, 30)).save(images / "00003.jpg"),
            r"00003\.jpg is 30 x 50 pixels .* 30 x 48: all frames and masks of a sequence must have one size",
        ),
        (lambda images, masks: (images / "00002.jpg").write_bytes(b"no"), r"cannot read the image .*00002\.jpg"),
        (lambda images, masks: (masks / "00001.png").write_bytes(b"no"), r"cannot read the mask .*00001\.png"),
        (
            lambda images, masks: Image.new("RGB", (48, 30)).save(masks / "00001.png"),
            r"cannot read the mask .*00001\.png: its pixels are colours \(RGB\)",
        ),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    damage(*make(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_all(tmp_path)


def test_lists_that_name_nothing_are_named(tmp_path):
    make(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no list of sequences .*test-dev\.txt"):
        sequence_names(tmp_path, "test-dev")
    listed = tmp_path / "ImageSets" / "2017" / "val.txt"
    listed.write_text("a\n\na\n")
    with pytest.raises(ValueError, match=r"val\.txt names a twice"):
        sequence_names(tmp_path)
    listed.write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt names no sequence"):
        sequence_names(tmp_path)


def test_frames_are_tensors_of_their_own(tmp_path):
    make(tmp_path)
    frame = open_sequence(tmp_path, "blackswan").frame(0)
    assert frame.dtype == torch.float32
    assert frame.is_contiguous()
