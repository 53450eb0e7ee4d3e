"""Which folders are taken for training and test images, and classes that must be the same."""

import pytest
from PIL import Image

from vmflearn.evaluate.splits import open_splits


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


def test_val_is_taken_before_test(tmp_path):
    """What is published for ImageNet is of its validation part; its test part has no classes."""
    root = write(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png")
    assert open_splits(str(root))[1].path(0) == root / "test" / "a" / "2.png"
    write(root, "val/a/3.png", "val/b/3.png")
    train, test = open_splits(str(root))
    assert (train.path(0), test.path(0)) == (root / "train" / "a" / "1.png", root / "val" / "a" / "3.png")


def test_two_folders_are_taken_as_they_are(tmp_path):
    write(tmp_path, "mine/a/1.png", "mine/b/1.png", "theirs/a/2.png", "theirs/b/2.png")
    train, test = open_splits(str(tmp_path / "mine"), test_data=str(tmp_path / "theirs"))
    assert (train.path(1).parent.name, test.path(1)) == ("b", tmp_path / "theirs" / "b" / "2.png")


def test_classes_in_another_order_are_not_the_same(tmp_path):
    """A class is its place in the order: shards state theirs, which need not be that of the alphabet."""
    from vmflearn.data.shard_writing import write_shards
    from vmflearn.evaluate.splits import unlike_classes

    root = write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png")
    for part in ("train", "val"):
        write_shards(root / part, tmp_path / "shards" / part)
    assert open_splits(str(tmp_path / "shards"))[1].class_names == ("a", "b")
    manifest = tmp_path / "shards" / "val" / "manifest.json"
    assert manifest.is_file(), list((tmp_path / "shards" / "val").iterdir())
    text = manifest.read_text()
    manifest.write_text(text.replace('"a"', '"x"').replace('"b"', '"a"').replace('"x"', '"b"'))
    with pytest.raises(ValueError, match="in their order: the order is another"):
        open_splits(str(tmp_path / "shards"))
    assert unlike_classes(("a", "b", "c"), ("a", "c")) == "it lacks b"


def test_tar_files_beside_images_are_refused(tmp_path):
    """The archives of the classes, left where they were unpacked: they had been taken for the data set's shards."""
    root = write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png")
    (root / "train" / "._a.tar").touch()  # another system's
    assert open_splits(str(root))[0].class_names == ("a", "b")
    (root / "train" / "a.tar").touch()
    with pytest.raises(ValueError, match=r"train holds tar files beside images, a\.tar and a/1\.png among them"):
        open_splits(str(root))
