"""Every kind of source trains an epoch with real files; the same images give the same run, wherever they lie."""

import hashlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from vmflearn.data.photos import load_photos
from vmflearn.data.shard_writing import write_shards
from vmflearn.data.shards import open_shards
from vmflearn.data.sources import FolderImages, open_images
from vmflearn.train import trainer
from vmflearn.train.checkpoints.checkpoint import CheckpointError
from vmflearn.train.config import ConfigError, load_config
from vmflearn.train.input import loader
from vmflearn.train.input.batches import DataError
from vmflearn.train.runs.records import read_metrics

SETTINGS = [
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=2",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}",  # one block would drop none
    "model.drop_path=0.1",
    "head.out_dim=32",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "optimizer.batch_size=16",
    "optimizer.warmup_epochs=1",
    "run.epochs=1",
    "run.log_every=1",
    "run.knn_k=3",
    "run.device=cpu",
]


def train(run_dir, *settings):
    """Metrics of a run."""
    return trainer.pretrain(load_config(None, [*SETTINGS, *settings]), run_dir, quiet=True).metrics


def lines(run_dir):
    return (run_dir / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JPEG files of many sizes in four class folders."""
    root, photos = tmp_path_factory.mktemp("images"), load_photos("train")
    for i in range(40):
        path = root / f"class_{i % 4}" / f"{i:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        patch = photos.images[180 * (i % 4) + i].permute(1, 2, 0).numpy()
        Image.fromarray(patch[: 30 + i % 7, : 60 - i % 11]).save(path, quality=95)
    return root


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "train"
    write_shards(folder, out, shard_size=7)
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_and_folder_give_equal_metrics(folder, shards, tmp_path, workers):
    for kind, root in (("folder", folder), ("shards", shards)):
        found = train(
            tmp_path / kind,
            f"data.source={kind}",
            f"data.root={root}",
            f"data.val_root={root}",
            f"data.workers={workers if kind == 'shards' else 0}",
        )
        assert found["epoch"] == 0
        assert 0 <= found["knn_top1"] <= 1
    assert lines(tmp_path / "folder") == lines(tmp_path / "shards")


def test_a_folder_without_classes_trains(folder, tmp_path):
    (tmp_path / "images").mkdir()
    for path in folder.rglob("*.jpg"):
        shutil.copy(path, tmp_path / "images")
    found = train(tmp_path / "run", "data.source=folder", f"data.root={tmp_path / 'images'}")
    assert found["step"] == 2
    assert "knn_top1" not in found


def test_cifar10_trains_from_torchvisions_files(tmp_path, monkeypatch):
    """Ten photographs as ten classes, in the pickles that torchvision reads, and cached or not the same run."""
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()

    def save(name, content):
        data = pickle.dumps(content, protocol=2)
        (batches / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(split, rows):
        photos = load_photos(split)
        images = torch.nn.functional.avg_pool2d(photos.images[rows].float(), 2).to(torch.uint8)
        return {"data": images.flatten(1).numpy(), "labels": photos.labels[rows].tolist()}

    sums = [save(f"data_batch_{i}", batch("train", slice(i, None, 150))) for i in range(1, 6)]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [save("test_batch", batch("test", slice(0, None, 30)))])
    names = {"label_names": [f"photograph {i}" for i in range(10)]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": save("batches.meta", names)[1]})
    for cache in ("true", "false"):
        settings = ["data.source=timm", "data.name=torch/cifar10", f"data.root={tmp_path}", f"data.cache={cache}"]
        found = train(tmp_path / cache, *settings, "data.val_split=validation")
        assert found["step"] == 60 // 16
        assert "knn_top1" in found
        assert "linear_top1" in found
    assert lines(tmp_path / "true") == lines(tmp_path / "false")


LONG = ["run.epochs=3", "optimizer.batch_size=8"]


def test_a_run_moves_from_a_folder_to_shards_in_the_middle_of_an_epoch(folder, shards, tmp_path):
    at = {
        "folder": ["data.source=folder", f"data.root={folder}"],
        "shards": ["data.source=shards", f"data.root={shards}"],
    }
    train(tmp_path / "whole", *LONG, *at["shards"])
    train(tmp_path / "part", *LONG, *at["folder"], "run.max_steps=7")  # of five steps an epoch
    train(tmp_path / "part", *LONG, *at["shards"], "run.max_steps=9", "data.workers=2")
    train(tmp_path / "part", *LONG, *at["folder"])
    part, whole = (lines(tmp_path / name).splitlines() for name in ("part", "whole"))
    assert len(part) == 15
    for end in (6, 8):
        assert part[end].startswith(whole[end][:-1])  # a run's last step says more
    assert [part[i] for i in range(15) if i not in (6, 8)] == [whole[i] for i in range(15) if i not in (6, 8)]


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory):
    """Two steps on the folder."""
    run_dir = tmp_path_factory.mktemp("begun")
    train(run_dir, *LONG, "data.source=folder", f"data.root={folder}", "run.max_steps=2")
    return run_dir


def renamed(root):
    (root / "class_2" / "006.jpg").rename(root / "class_2" / "006b.jpg")


def relabelled(root):
    (root / "class_3").rename(root / "class_4")


def removed(root):
    (root / "class_2" / "006.jpg").unlink()


@pytest.mark.parametrize("kind", ["folder", "shards"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed, "made with 40 images, and their names or their order have changed; give the same images"),
        (relabelled, "40 images, and their names or their order and their classes have changed"),
        (removed, "made with 40 images, and there are 39 now"),
    ],
)
def test_other_images_are_refused_and_what_has_changed_is_said(folder, begun, tmp_path, kind, change, words):
    images = shutil.copytree(folder, tmp_path / "images")
    change(images)
    if kind == "shards":
        write_shards(images, tmp_path / "shards", shard_size=9)
    before = {path.name: path.read_bytes() for path in begun.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match=words):
        train(begun, *LONG, f"data.source={kind}", f"data.root={tmp_path / kind.replace('folder', 'images')}")
    assert {path.name: path.read_bytes() for path in begun.iterdir() if path.is_file()} == before


def test_the_same_images_in_another_order_are_refused(folder, begun, tmp_path, monkeypatch):
    found = open_images(folder)
    source = FolderImages(folder, [found.path(i).relative_to(folder).as_posix() for i in reversed(range(len(found)))])
    monkeypatch.setattr(loader, "open_source", lambda *arguments, **settings: source)
    with pytest.raises(CheckpointError, match="their names or their order and their classes have changed"):
        train(begun, *LONG, "data.source=folder", f"data.root={folder}")


def test_a_checkpoint_from_before_images_had_a_digest_goes_on_as_it_did(folder, shards, begun, tmp_path):
    shutil.copytree(begun, tmp_path / "old")
    images = shutil.copytree(folder, tmp_path / "images")
    renamed(images)
    for path in (tmp_path / "old" / "checkpoints").glob("step-*.pt"):
        saved = torch.load(path, weights_only=True)
        for later in ("described", "recorded", "pending", "sha256"):
            del saved[later]
        torch.save(saved, path)
    with pytest.raises(CheckpointError, match=r"another configuration \(data.source: folder -> shards\)"):
        train(tmp_path / "old", *LONG, "data.source=shards", f"data.root={shards}")
    assert train(tmp_path / "old", *LONG, "data.source=folder", f"data.root={images}", "run.max_steps=3")["step"] == 3


def test_accuracies_can_be_switched_on_for_a_run_without_them(folder, begun, tmp_path):
    shutil.copytree(begun, tmp_path / "run")
    settings = ["data.source=folder", f"data.root={folder}", f"data.val_root={folder}", "run.max_steps=3"]
    assert {"knn_top1", "linear_top1"} < train(tmp_path / "run", *LONG, *settings).keys()


@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_corrupt_image_in_a_shard_is_named_and_skipped(tmp_path, capsys, cache):
    root, images = tmp_path / "shards", tmp_path / "images"
    images.mkdir()
    for i, patch in enumerate(load_photos("test").images[:128]):
        Image.fromarray(patch.permute(1, 2, 0).numpy()).save(images / f"{i:03}.png")
    write_shards(images, root, shard_size=50)
    source = open_shards(root)

    def damage(index):
        with source.path(index).parent.open("r+b") as file:
            file.seek(int(source._index[index]["offset"]) + 300)
            file.write(b"damage")

    damage(61)
    config = load_config(
        None, [*SETTINGS, "data.source=shards", f"data.root={root}", f"data.cache={cache}", "optimizer.batch_size=64"]
    )
    trainer.pretrain(config, tmp_path / "run")
    out = capsys.readouterr().out
    assert out.count("skipped unreadable image") == 1
    assert f"{root / 'shard-000001.tar'}/000000061-061.png (the shard is corrupt" in out
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 2
    damage(7)
    with pytest.raises(DataError, match=r"2 of 128 images cannot be read, more than 1%: .*shard-00000"):
        trainer.pretrain(config, tmp_path / "again", quiet=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.source=shards"], "data.source=shards needs data.root, the folder of tar shards"),
        (["data.source=timm"], "data.source=timm needs data.name, for example torch/cifar10"),
        (["data.source=folder", "data.root=x", "data.name=y"], "data.name=y needs data.source=timm, not folder"),
        (["data.val_split=test"], "data.val_split=test needs data.source=timm, not photos"),
        (["data.source=timm", "data.name=hfds/a/b", "data.download=true"], "is for torchvision's sets"),
        (["data.max_side=-1"], "data.max_side must be at least 0, not -1"),
        (["data.cache=sometimes"], "data.cache must be one of auto, True, False, not 'sometimes'"),
    ],
)
def test_data_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, settings)


def test_a_name_that_is_not_known_stops_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.source=timm: .*Unknown torchvision dataset nothing"):
        train(tmp_path, "data.source=timm", "data.name=torch/nothing", f"data.root={tmp_path}")


def test_images_of_different_sizes_cannot_be_cached(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"data.cache=true cannot be done: the images have different sizes; set"):
        train(tmp_path, "data.source=folder", f"data.root={folder}", "data.cache=true")


def test_draws_do_not_depend_on_the_cap(folder):
    """Indices of boxes are drawn on the originals: with and without a cap the views show the same parts."""
    from vmflearn.train.input.loader import make_loader
    from vmflearn.views.batched import dino_crops

    views = []
    for cap in (0, 32):
        config = load_config(None, [*SETTINGS, "data.source=folder", f"data.root={folder}", f"data.max_side={cap}"])
        loader = make_loader(config, dino_crops(8, 4, 1), torch.device("cpu"))
        (step,) = loader(1, 2)
        views.append(step)
    assert torch.equal(views[0][1], views[1][1])
    for one, other in zip(views[0][0], views[1][0], strict=True):
        assert not torch.equal(one, other)
        assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 0.97
