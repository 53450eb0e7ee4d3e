"""What the configuration says reaches the part that it is about."""

import pytest
import torch

from vmflearn.train.config import load_config
from vmflearn.train.input.loader import open_training, open_validation
from vmflearn.train.state import State

CPU = torch.device("cpu")
TINY = [
    "views.global_size=16",
    "views.local_size=8",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
]


@pytest.fixture(scope="module")
def state():
    settings = [
        "seed=5",
        "views.n_local=3",
        "views.global_scale=[0.3, 0.9]",
        "views.local_scale=[0.1, 0.2]",
        "views.blur_sigma=[0.2, 0.7]",
        "views.color_jitter=0.6",
        "views.grey=0.35",
        "head.out_dim=24",
        "head.n_layers=2",
        "head.batch_norm=true",
        "head.normalization=l2",
        "teacher.centering=logit",
        "teacher.center_momentum=0.75",
        "optimizer.batch_size=90",
        "optimizer.decay_magnitudes=false",
        "optimizer.warmup_epochs=1",
        "run.epochs=3",
        "run.max_steps=7",
        "run.knn_k=9",
        "run.precision=float64",
    ]
    return State(load_config(None, [*TINY, *settings]), CPU)


def test_views(state):
    crops = state.loader.crops
    assert [crop.size for crop in crops] == [16, 16, 8, 8, 8]
    assert [crop.scale for crop in crops] == [(0.3, 0.9)] * 2 + [(0.1, 0.2)] * 3
    assert {(crop.sigma, crop.jitter, crop.grey) for crop in crops} == {((0.2, 0.7), 0.6, 0.35)}
    assert state.loader.order.seed == 5


def test_networks(state):
    for network in (state.student, state.teacher):
        head = network.head
        assert head.prototypes.weight_v.shape == (24, 8)
        assert head.prototypes.normalization == "l2"
        assert [type(layer).__name__ for layer in head.mlp] == ["Linear", "BatchNorm1d", "GELU", "Linear"]
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in state.teacher.parameters())


def test_centring_lengths_and_probe(state):
    assert type(state.method.centerings()["centering"]).__name__ == "LogitCentering"
    assert state.method.centerings()["centering"].momentum == 0.75
    assert state.method.centerings()["centering"].center.shape == (24,)
    assert (state.steps_per_epoch, state.total, state.last) == (20, 60, 7)
    assert state.probe.k == 9


def test_decay_of_magnitudes():
    for spared, weight in ((True, "false"), (False, "true")):
        config = load_config(None, [*TINY, "head.out_dim=24", f"optimizer.decay_magnitudes={weight}"])
        state = State(config, CPU)
        plain = {id(parameter) for parameter in state.optimizer.param_groups[1]["params"]}
        assert (id(state.student.prototypes.weight_g) in plain) == spared


def test_validation_images_are_another_folder_or_another_split(tmp_path, monkeypatch):
    from PIL import Image

    from vmflearn.train.input import loader

    for part, count in (("train", 3), ("val", 2)):
        for i in range(count):
            path = tmp_path / part / "a" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    folders = ["data.source=folder", f"data.root={tmp_path / 'train'}", f"data.val_root={tmp_path / 'val'}"]
    data = load_config(None, folders).data
    assert [len(open(data)) for open in (open_training, open_validation)] == [3, 2]
    asked = []
    monkeypatch.setattr(loader, "open_source", lambda kind, root, *, split, **rest: asked.append((kind, root, split)))
    named = ["data.source=timm", "data.name=torch/cifar10", "data.root=here", "data.split=some", "data.val_split=rest"]
    data = load_config(None, named).data
    open_training(data), open_validation(data)
    assert set(asked) == {("timm", "here", "some"), ("timm", "here", "rest")}
