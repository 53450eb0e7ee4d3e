"""Windows of a photograph, the agreement of two labellings, and what is packed of a run with patches."""

import json

import pytest
import torch
from ship_models import ORIGIN
from ship_patches import agreement, centering_of, measure, pack, patch_vectors, windows

from vmflearn.backbones.tokens import token_features
from vmflearn.ssl import DINOHead, create_backbone
from vmflearn.train.checkpoints.checkpoint import save_checkpoint
from vmflearn.views.photometric import normalize


@pytest.fixture
def network():
    torch.manual_seed(0)
    backbone = create_backbone(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=1, num_heads=2
    ).eval()
    return backbone, DINOHead(12, 9, "vmf", hidden_dim=10, bottleneck_dim=6, batch_norm=True).eval()


def test_windows_tile_a_picture_and_leave_out_what_does_not_fit():
    picture = torch.arange(3 * 70 * 100.0).reshape(3, 70, 100)
    tiles, grid = windows(picture)
    assert grid == (2, 3)
    assert torch.equal(tiles[4], picture[:, 32:64, 32:64])
    tiles, grid = windows(picture, 8, 8)
    assert grid == (1, 2)
    assert torch.equal(tiles[1], picture[:, 8:40, 40:72])


def test_a_map_has_the_vector_of_each_patch_at_its_place(network):
    backbone, head = network
    pictures = [torch.rand(3, 64, 96), torch.rand(3, 32, 40)]
    first, second = patch_vectors(backbone, head, pictures)
    assert first.shape == (8, 12, 6)
    assert second.shape == (4, 4, 6)
    windows_in_order = torch.stack([pictures[0][:, r : r + 32, c : c + 32] for r in (0, 32) for c in (0, 32, 64)])
    rows = torch.cat([windows_in_order, pictures[1][None, :, :, :32]])
    with torch.no_grad():
        y = head.train().bottleneck(token_features(backbone, normalize(rows))[:, 1:])
    torch.testing.assert_close(first[5, 6], y[4, 6])  # second row of windows, middle; second row of patches, third
    torch.testing.assert_close(second[3, 0], y[6, 12])


def test_measuring_leaves_the_network_as_it_is(network):
    backbone, head = network
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    saved = {"config": {"teacher": {"centering": "probability"}}, "patch_centering": {"center": torch.zeros(9)}}
    found = measure(backbone, head, centering_of(saved, "patch_centering"))
    assert not head.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
    assert 0 <= found["patch_information"] <= found["patch_information"] + found["patch_entropy"] <= 2.2
    assert -1 < found["shift_agreement"] <= 1


def test_agreement_is_cohens():
    a, b = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 2, 2, 1])
    observed, luck = 4 / 6, 3 * (1 / 3) ** 2
    assert agreement(a, b) == pytest.approx((observed - luck) / (1 - luck))
    assert agreement(a, a) == 1
    assert agreement(a * 0, a * 0) == 0


def run_folder(folder, step=4):
    saved = {
        "step": 4,
        "config": {"seed": 3, "teacher": {"centering": "logit"}},
        "teacher": {"mask_token": torch.ones(1, 2), "w": torch.tensor([3.0])},
        "student": {"w": torch.tensor([1.0])},
        "centering": {"center": torch.tensor([0.5])},
        "patch_centering": {"center": torch.tensor([0.25])},
    }
    save_checkpoint(folder / "checkpoints", 4, saved)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "knn_top1": 0.5}) + "\n")
    (folder / "environment.json").write_text(json.dumps({**dict.fromkeys(ORIGIN, "x"), "command": ["/home/me"]}))
    return folder


def test_the_teacher_and_both_centres_are_packed(tmp_path):
    about = pack(run_folder(tmp_path / "run"), tmp_path / "packed.pt")
    packed = torch.load(tmp_path / "packed.pt", weights_only=True)
    assert set(packed) == {"step", "config", "teacher", "centering", "patch_centering"}
    assert set(packed["teacher"]) == {"w"}
    assert packed["teacher"]["w"].item() == 3
    assert packed["patch_centering"]["center"].item() == 0.25
    assert about["seed"] == 3
    assert "home" not in json.dumps(about)


def test_an_unfinished_run_is_not_packed(tmp_path):
    with pytest.raises(SystemExit, match="is not a finished run: give the same command"):
        pack(run_folder(tmp_path / "run", step=3), tmp_path / "packed.pt")
