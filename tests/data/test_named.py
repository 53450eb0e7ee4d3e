"""Data sets by the names of timm: CIFAR-10 in torchvision's own files."""

import hashlib
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from vmflearn.data.named import NamedImages, open_named
from vmflearn.data.sources import open_source

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(root, monkeypatch, each=4):
    """Small CIFAR-10 files as published: pickled dictionaries of rows of 3072 bytes, and the checksums of these."""
    folder, rng = root / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()

    def save(name, content):
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(name):
        rows = rng.integers(0, 256, (each, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, each).tolist()
        return {"batch_label": name, "labels": labels, "data": rows, "filenames": [f"{i}.png" for i in range(each)]}

    content = {name: batch(name) for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]}
    sums = [save(name, value) for name, value in content.items()]
    _, meta = save("batches.meta", {"label_names": NAMES, "num_cases_per_batch": each, "num_vis": 3072})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": meta})
    return content


def test_cifar10_from_its_own_files(tmp_path, monkeypatch):
    content = write_cifar10(tmp_path, monkeypatch)
    train = open_source("timm", tmp_path, name="torch/cifar10")
    test = open_source("timm", str(tmp_path), name="torch/cifar10", split="validation")
    assert (len(train), len(test)) == (20, 4)
    assert train.class_names == test.class_names == tuple(NAMES)
    assert train.labels.tolist() == [y for i in range(1, 6) for y in content[f"data_batch_{i}"]["labels"]]
    assert test.labels.tolist() == content["test_batch"]["labels"]
    want = torch.from_numpy(content["data_batch_3"]["data"][1].reshape(3, 32, 32))
    assert torch.equal(train.read(9), want)
    assert train.path(9).as_posix() == "torch/cifar10/train/9"
    assert torch.equal(pickle.loads(pickle.dumps(train)).read(9), want)


def test_damaged_files_are_refused(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"short")
    with pytest.raises(FileNotFoundError, match=r"'torch/cifar10' cannot be opened in .*corrupted"):
        open_named("torch/cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", "names are those of timm with an index: torch/cifar10"),
        ("torch/no_such_set", "Unknown torchvision dataset no_such_set"),
        ("wds/some", "it is a stream, without an index; download it as tar files and open those as shards"),
        ("TFDS/some", "it is a stream"),
    ],
)
def test_names_that_cannot_be_opened(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        open_named(name, tmp_path)


def test_a_set_that_needs_another_package(tmp_path):
    try:
        import datasets as hub  # noqa: F401
    except ImportError:
        with pytest.raises(ModuleNotFoundError, match="needs the package 'datasets': install it"):
            open_named("hfds/owner/name", tmp_path)


@pytest.mark.parametrize("split", ["Train", "trainval", "train[:50%]", "tran", "", "TEST"])
@pytest.mark.parametrize("name", ["torch/cifar10", "torch/qmnist", "torch/imagenet", "torch/places365", "torch/folder"])
def test_a_part_that_is_not_known_is_not_the_test_set(tmp_path, monkeypatch, name, split):
    if name == "torch/cifar10":
        write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"has no part '{re.escape(split)}'; its parts are train, training, "):
        open_named(name, tmp_path, split=split)


@pytest.mark.parametrize(
    ("split", "n"), [("train", 20), ("training", 20), *((w, 4) for w in ("val", "valid", "test", "eval"))]
)
def test_every_word_that_is_permitted_is_that_part(tmp_path, monkeypatch, split, n):
    write_cifar10(tmp_path, monkeypatch)
    assert len(open_named("Torch/CIFAR10", tmp_path, split=split)) == n


def images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


def test_a_folder_by_name_needs_the_folder_of_its_part(tmp_path):
    images(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png", "train/dog/._2.png")
    train = open_named("torch/image_folder", tmp_path, split="training")
    assert (train.class_names, train.labels.tolist()) == (("cat", "dog"), [0, 1])
    assert open_named("torch/folder", str(tmp_path), split="validation").labels.tolist() == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"'torch/image_folder' has no folder test in .*data\.source=folder"):
        open_named("torch/image_folder", tmp_path, split="test")
    with pytest.raises(ValueError, match=r"needs data\.root, the folder that holds train"):
        open_named("torch/image_folder")


def test_imagenet_in_its_folders(tmp_path):
    """Both parts by every word, from files as torchvision unpacks them; two classes of one name are two."""
    images(tmp_path, *(f"{part}/n0{i}/{i}.JPEG" for part in ("train", "val") for i in range(3)))
    torch.save(({"n00": ("crane",), "n01": ("crane", "bird"), "n02": ("tench",)}, []), tmp_path / "meta.bin")
    for split in ("train", "training", "val", "valid", "validation"):
        source = open_named("torch/imagenet", tmp_path, split=split, download=True)
        assert (source.class_names, source.labels.tolist()) == (("crane", "crane", "tench"), [0, 1, 2])
        assert source._dataset.split == ("train" if split.startswith("train") else "val")
    with pytest.raises(
        ValueError, match="'torch/imagenet' has no part 'test'; its parts are train, training, validation"
    ):
        open_named("torch/imagenet", tmp_path, split="test")


@pytest.mark.parametrize("name", ["cifar/10", "imagenet/train", "folder/", "hfds/", "torch/inat", "torch/INaturalist"])
def test_a_prefix_that_is_not_known_is_no_folder(tmp_path, name):
    images(tmp_path, "train/cat/1.png")
    with pytest.raises(ValueError, match=r"cannot be opened by name|does not list its images in a fixed order"):
        open_named(name, tmp_path)


def test_a_set_that_does_not_know_every_class_has_none():
    """As torchvision's Places365 lists its test images: None for each."""

    class Listed(torch.utils.data.Dataset):
        def __init__(self):
            self.classes, self.targets = ["a", "b"], [0, None, 1]

    source = NamedImages("torch/some", "test", Listed())
    assert (source.class_names, source.labels.tolist()) == ((), [-1, -1, -1])
    assert source.notes == ["no image has a class, because 1 of 3 in torch/some/test have none"]
