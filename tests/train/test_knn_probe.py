import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.photos import load_photos
from vmflearn.data.shard_writing import write_shards
from vmflearn.train import ConfigError, load_config, pretrain
from vmflearn.train.input.batches import DataError
from vmflearn.train.knn_probe import KNNProbe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Real patches as files: one class in `one`, two classes in `two`, 12 images a class."""
    root = tmp_path_factory.mktemp("images")
    photos = load_photos("train")
    for name, classes in (("one", [0]), ("two", [0, 3])):
        for label in classes:
            folder = root / name / f"class{label}"
            folder.mkdir(parents=True)
            for i, image in enumerate(photos.images[photos.labels == label][:12]):
                Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(folder / f"{i}.png")
    return root


def settings(root, *more):
    return load_config(
        overrides=[
            "data.source=folder",
            f"data.root={root}",
            "views.global_size=16",
            "views.local_size=8",
            "views.n_local=1",
            "model.backbone=vit_tiny_patch16_224",
            "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
            "head.out_dim=16",
            "head.hidden_dim=16",
            "head.bottleneck_dim=8",
            "optimizer.batch_size=6",
            "optimizer.warmup_epochs=0",
            "optimizer.freeze_last_layer_epochs=0",
            "run.epochs=1",
            "run.knn_k=3",
            "run.device=cpu",
            *more,
        ]
    )


def test_a_folder_of_one_class_trains_and_has_no_accuracy(folders, tmp_path):
    result = pretrain(settings(folders / "one"), tmp_path, quiet=True)
    assert result.steps == 2
    assert "knn_top1" not in result.metrics
    assert "linear_top1" not in result.metrics


def test_the_accuracy_of_one_class_is_refused(folders, tmp_path):
    with pytest.raises(
        ConfigError, match=r"one has one class, class0: every answer would be right; leave data.val_root"
    ):
        pretrain(settings(folders / "one", f"data.val_root={folders / 'one'}"), tmp_path, quiet=True)


def test_two_classes_have_both_accuracies(folders, tmp_path):
    result = pretrain(settings(folders / "two", f"data.val_root={folders / 'two'}"), tmp_path, quiet=True)
    assert 0 < result.metrics["knn_top1"] <= 1
    assert 0 <= result.metrics["linear_top1"] <= 1


def probe(source, root, val_root, *more):
    settings_ = [f"data.source={source}", f"data.root={root}", f"data.val_root={val_root}", *more]
    return KNNProbe(settings(root, *settings_), torch.device("cpu"))


def images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


@pytest.mark.parametrize("source", ["folder", "shards"])
def test_classes_that_differ_are_named(tmp_path, source):
    """The same rule and the same words for folders and shards."""
    train = images(tmp_path / "train", *(f"c{i}/{i}.png" for i in range(8)))
    fewer = images(tmp_path / "fewer", "c1/1.png", "c0/0.png", "dog/2.png", "c7/7.png")
    if source == "shards":
        write_shards(train, tmp_path / "shards")
        write_shards(fewer, tmp_path / "fewer_shards")
        train, fewer = tmp_path / "shards", tmp_path / "fewer_shards"
    words = rf"validation images in {fewer} must have the classes of {train}, in their order: "
    with pytest.raises(ConfigError, match=words + "it lacks c2, c3, c4, c5 and 1 more and it has dog besides$"):
        probe(source, train, fewer)
    probe(source, train, train)


def test_shards_of_others_beside_ours_are_refused_by_their_classes(tmp_path):
    folder = images(tmp_path / "images", "cat/1.png", "dog/2.png", "dog/3.png")
    for name in ("ours", "theirs"):
        write_shards(folder, tmp_path / name)
    for name in ("index.npy", "manifest.json"):
        (tmp_path / "theirs" / name).unlink()
    with pytest.raises(ConfigError, match="it lacks cat, dog and it has 0, 1 besides"):
        probe("shards", tmp_path / "ours", tmp_path / "theirs")
    probe("shards", tmp_path / "theirs", tmp_path / "theirs")


def test_images_without_classes_are_refused_in_the_words_of_their_source(tmp_path):
    classes = images(tmp_path / "train", "cat/1.png", "dog/2.png")
    flat = images(tmp_path / "val", "ILSVRC2012_val_1.png", "cat/2.png")
    with pytest.raises(
        ConfigError, match=r"data\.val_root asks for kNN, which needs class sub-folders .*prepare_imagenet\.py"
    ):
        probe("folder", classes, flat)
    with pytest.raises(ConfigError, match=r"needs class sub-folders .* in .*val; .*1\.png lies in no class folder"):
        probe("folder", flat, classes)
    write_shards(flat, tmp_path / "shards")
    with pytest.raises(ConfigError, match=r"needs a KEY\.cls with the number of its class beside every image"):
        probe("shards", tmp_path / "shards", tmp_path / "shards")


@pytest.mark.parametrize("size", [7, 16, 28])
def test_images_are_shown_as_dino_shows_them(tmp_path, size):
    """The shorter side at 8/7 of the size, then the central square: Pillow's own resampling, longhand."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(
        (84, 60), Image.Resampling.BICUBIC
    )
    root = images(tmp_path, "a/1.png", "b/2.png")
    picture.save(root / "b" / "2.png")
    side = {7: 8, 16: 18, 28: 32}[size]
    want = picture.resize((int(84 * side / 60), side), Image.Resampling.BICUBIC)
    left, top = round((want.width - size) / 2), round((want.height - size) / 2)
    want = np.asarray(want.crop((left, top, left + size, top + size))).astype(int)

    class Seen(torch.nn.Module):
        num_features = 3 * size**2

        def forward(self, x):
            seen.append(x)
            return x.flatten(1)

    seen = []
    probe("folder", root, root, "run.knn_k=1", f"views.global_size={size}", "views.local_size=6").features(Seen())
    for batch in seen:  # training, then validation images
        shown = 255 * (batch[1].permute(1, 2, 0).numpy() * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406])
        assert np.abs(shown.round() - want).max() <= 2
    assert len(seen) == 2


def test_images_that_cannot_be_read_have_no_say(tmp_path):
    """Their classes go with them, wherever in the order they are."""
    root = images(tmp_path / "train", "a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png")
    for name in ("a/1.png", "b/4.png"):
        (root / name).write_bytes(b"none")

    class Brightness(torch.nn.Module):
        num_features = 3

        def forward(self, x):
            return x.mean(dim=(2, 3))

    features, labels = probe("folder", root, root).features(Brightness())
    for x, y in zip(features, labels, strict=True):
        assert x.isfinite().all()
        assert y.tolist() == [0, 1, 1]


def test_what_validation_lacks_is_said_once(folders, tmp_path, capsys):
    """Neither a file that is passed over nor one that cannot be read goes from the accuracy without a word."""
    validation = images(tmp_path / "val", "class0/1.png", "class0/2.png", "class3/1.png", "class3/2.png")
    (validation / "class3" / "2.png").write_bytes(b"none")
    (validation / "class3" / "3.gif").write_bytes(b"none")
    config = settings(folders / "two", f"data.val_root={validation}", "run.epochs=2", "run.knn_every=1")
    pretrain(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("validation images: ") == 1
    assert ".gif" in next(line for line in said.splitlines() if "validation images: " in line)
    assert said.count("1 of 4 validation images cannot be read; kNN is measured without them") == 1
    for path in validation.rglob("*.png"):
        path.write_bytes(b"none")
    with pytest.raises(DataError, match=r"^4 of 4 validation images cannot be read; mend them, or"):
        pretrain(config, tmp_path / "blind")
