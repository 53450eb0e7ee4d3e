"""The exported backbone as timm reads it: a folder in the form of the Hugging Face hub, and one file of weights."""

import json
import os

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config

from vmflearn.ssl import load_published
from vmflearn.train import build_model, load_config
from vmflearn.train.runs.folder import export_backbone
from vmflearn.views.photometric import IMAGENET_MEAN, IMAGENET_STD

VIT = "model.options={img_size: 32, patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}"
HEAD = ["head.out_dim=8", "head.hidden_dim=8", "head.bottleneck_dim=4"]


def exported(folder, *settings):
    """A configuration and a network, its backbone written."""
    config = load_config(None, ["model.backbone=vit_tiny_patch16_224", VIT, "views.global_size=24", *HEAD, *settings])
    torch.manual_seed(0)
    network = build_model(config).eval()
    torch.nn.init.normal_(network.backbone.pos_embed)
    folder.mkdir(exist_ok=True)
    return config, network, export_backbone(config, network, folder)


def test_timm_reads_the_folder(tmp_path):
    _, network, path = exported(tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path / 'backbone'}", pretrained=True).eval()
    assert model.num_classes == 0
    for size in (32, 24, 16):
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            assert torch.equal(model(images), network.backbone(images))
    assert path == tmp_path / "backbone.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone", "backbone.json", "backbone.safetensors"]
    assert sorted(p.name for p in (tmp_path / "backbone").iterdir()) == ["config.json", "model.safetensors"]


def test_the_folder_tells_how_images_come_to_the_network(tmp_path):
    exported(tmp_path)
    data = resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path / 'backbone'}", pretrained=True))
    assert tuple(data["input_size"]) == (3, 24, 24)  # the crops', of a network made for 32
    assert (tuple(data["mean"]), tuple(data["std"])) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", 0.875)


def test_a_classifier_and_other_channels_may_be_put_on_it(tmp_path):
    _, network, _ = exported(tmp_path)
    name = f"local-dir:{tmp_path / 'backbone'}"
    model = timm.create_model(name, pretrained=True, num_classes=7).eval()
    images = torch.randn(2, 3, 24, 24)
    assert model(images).shape == (2, 7)
    assert torch.equal(model.forward_features(images)[:, 0], network.backbone(images))
    grey = timm.create_model(name, pretrained=True, in_chans=1)
    expected = network.backbone.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.patch_embed.proj.weight, expected)


def test_a_size_that_only_timms_name_tells_is_kept(tmp_path):
    """Full-size networks are given no img_size: their positions are those of 384 pixels, whatever the crops' size."""
    options = "model.options={patch_size: 96, embed_dim: 48, depth: 1, num_heads: 3}"
    name = "model.backbone=vit_small_patch16_384"
    _, network, _ = exported(tmp_path, name, options, "views.global_size=192", "views.local_size=96")
    model = timm.create_model(f"local-dir:{tmp_path / 'backbone'}", pretrained=True).eval()
    assert torch.equal(model.pos_embed, network.backbone.pos_embed)
    images = torch.randn(2, 3, 192, 192)
    assert torch.equal(model(images), network.backbone(images))


@pytest.mark.parametrize("rule", ["dino", "msn"])
def test_the_rule_for_positions_goes_with_it(tmp_path, rule):
    """timm has its own, so that other sizes differ there; `load_published` reads the folder's."""
    _, network, _ = exported(tmp_path, f"model.position_interpolation={rule}")
    model = timm.create_model(f"local-dir:{tmp_path / 'backbone'}", pretrained=True).eval()
    ours, _ = load_published(tmp_path / "backbone" / "model.safetensors")
    own, other = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(own), network.backbone(own))
        assert not torch.equal(model(other), network.backbone(other))
        assert torch.equal(ours(other), network.backbone(other))


def test_where_weights_came_from_is_not_carried_on(tmp_path):
    """A run that began with pretrained=true or a file must be read where there is neither network nor that file."""
    config, network, _ = exported(tmp_path)
    torch.save(network.backbone.state_dict(), tmp_path / "start.pth")
    options = config.model.options | {"checkpoint_path": str(tmp_path / "start.pth")}
    config, network, _ = exported(tmp_path / "run", f"model.options={options}")
    (tmp_path / "start.pth").unlink()
    arguments = json.loads((tmp_path / "run" / "backbone" / "config.json").read_text())["model_args"]
    assert "checkpoint_path" not in arguments
    timm.create_model(f"local-dir:{tmp_path / 'run' / 'backbone'}", pretrained=True)


def test_one_file_serves_both_also_when_it_is_written_again(tmp_path):
    config, network, path = exported(tmp_path)
    twin = tmp_path / "backbone" / "model.safetensors"
    assert os.path.samefile(path, twin)
    torch.nn.init.constant_(network.backbone.cls_token, 7)
    export_backbone(config, network, tmp_path)
    assert os.path.samefile(path, twin)
    assert (load_file(twin)["cls_token"] == 7).all()


def test_a_file_system_without_links_gets_a_copy(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refused)
    _, _, path = exported(tmp_path)
    twin = tmp_path / "backbone" / "model.safetensors"
    assert not os.path.samefile(path, twin)
    assert path.read_bytes() == twin.read_bytes()
