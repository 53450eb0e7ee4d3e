import pytest
import timm
import torch
from torch import nn

from vmflearn.backbones.creation import create_backbone
from vmflearn.ssl import fetch_published, load_published, published_names
from vmflearn.weights.downloads import TIMM_NAMES, published_url


@pytest.mark.parametrize("name", sorted(TIMM_NAMES))
def test_the_addresses_are_those_that_timm_knows(name):
    assert name in published_names()
    assert published_url(name) == timm.models.get_pretrained_cfg(TIMM_NAMES[name]).url
    assert published_url(name, full=True).endswith("_pretrain_full_checkpoint.pth")


def test_timms_name_gives_the_published_architecture():
    backbone = create_backbone(TIMM_NAMES["dino_vits8"], position_interpolation="dino")
    assert backbone.num_features == 384
    assert backbone.pos_embed.shape == (1, 785, 384)


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of dino_vits16, .*got 'dino_vits14'"):
        fetch_published("dino_vits14")


def test_a_file_is_fetched_once(tmp_path):
    """From a mirror on the disk: the same folders and names."""
    torch.manual_seed(0)
    resnet = create_backbone("resnet50")
    there = tmp_path / "mirror" / "dino_resnet50_pretrain"
    there.mkdir(parents=True)
    source = there / "dino_resnet50_pretrain.pth"
    torch.save(resnet.state_dict(), source)
    where = {"folder": tmp_path / "kept", "site": (tmp_path / "mirror").as_uri()}
    path = fetch_published("dino_resnet50", **where)
    assert path == tmp_path / "kept" / "dino_resnet50_pretrain.pth"
    backbone, head = load_published(path)
    assert head is None
    assert nn.utils.parameters_to_vector(backbone.parameters()).equal(
        nn.utils.parameters_to_vector(resnet.parameters())
    )
    source.unlink()
    assert fetch_published("dino_resnet50", **where) == path


def test_what_cannot_be_fetched_leaves_nothing(tmp_path):
    with pytest.raises(ConnectionError, match=r"dino_vitbase8_pretrain\.pth cannot be fetched .*load_published"):
        fetch_published("dino_vitb8", folder=tmp_path, site=(tmp_path / "nowhere").as_uri())
    assert list(tmp_path.iterdir()) == []
