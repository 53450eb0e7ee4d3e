"""Data sets by the names of timm: CIFAR-10 in torchvision's own files."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from vmflearn.data.named import open_named
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
