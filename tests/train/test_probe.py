import numpy as np
import pytest
from PIL import Image

from vmflearn.data.photos import load_photos
from vmflearn.train import ConfigError, load_config, pretrain


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
