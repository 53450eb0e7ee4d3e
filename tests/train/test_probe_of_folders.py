"""The probe leaves out what cannot be read, keeps features and classes in step, and refuses classes that differ."""

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.backbones.creation import create_backbone
from vmflearn.data.photos import load_photos
from vmflearn.train import ConfigError, load_config
from vmflearn.train.knn_probe import KNNProbe


def test_an_unreadable_image_has_no_vote(tmp_path):
    photos = load_photos("train")
    for i in range(8):
        path = tmp_path / f"class{i // 4}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(photos.images[200 * i].permute(1, 2, 0).numpy())).save(path)
    settings = ["data.source=folder", f"data.root={tmp_path}", f"data.val_root={tmp_path}", "views.global_size=16"]
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    probe = KNNProbe(load_config(None, [*settings, "run.knn_k=2"]), torch.device("cpu"))
    whole, labels = probe.features(backbone)
    assert labels[0].tolist() == [0] * 4 + [1] * 4
    (tmp_path / "class0" / "2.png").write_bytes(b"broken")
    features, labels = probe.features(backbone)
    for found, classes, all_of_them in zip(features, labels, whole, strict=True):
        torch.testing.assert_close(found, all_of_them[[0, 1, 3, 4, 5, 6, 7]])
        assert classes.tolist() == [0] * 3 + [1] * 4


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"train": ["a", "b"], "val": ["a", "c"]}, "val must have the classes of .*train"),
        ({"train": ["a", "b"], "val": ["a"]}, "val must have the classes of .*train"),
        ({"train": [""], "val": ["a", "b"]}, "needs class sub-folders .* in .*train"),
    ],
)
def test_classes_that_do_not_agree_are_refused(tmp_path, folders, words):
    for part, classes in folders.items():
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    roots = [f"data.root={tmp_path / 'train'}", f"data.val_root={tmp_path / 'val'}", "run.knn_k=1"]
    with pytest.raises(ConfigError, match=words):
        KNNProbe(load_config(None, ["data.source=folder", *roots]), torch.device("cpu"))
