"""iBOT's and MSN's training files, written here name by name as their code writes them, as the start of a run.

Every tensor must arrive where the method trains with it: the same steps then follow from the file and from the state
that it was written from, to the last bit.
"""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from vmflearn.train import ConfigError, load_config, training_step
from vmflearn.train.per_step import StepSettings
from vmflearn.train.state import State
from vmflearn.train.warm_start import start_from
from vmflearn.weights.published import load_published, load_whole

SETTINGS = [
    "data.source=photos",
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=1",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 4, embed_dim: 64, depth: 1, num_heads: 1}",
    "model.drop_path=0",
    "head.out_dim=12",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "optimizer.batch_size=300",
    "optimizer.warmup_epochs=0",
    "optimizer.freeze_last_layer_epochs=0",
    "run.epochs=1",
    "run.device=cpu",
]
DINO = ["head.normalization=none", "teacher.centering=logit", "model.position_interpolation=dino"]
IBOT = [*DINO, "method.name=ibot", "method.patch_temp_warmup_epochs=0"]
SEPARATE = [*IBOT, "method.shared_head=false", "method.patch_out_dim=10"]
VMF = ["head.normalization=vmf", "teacher.centering=probability"]
MSN = ["method.name=msn", "head.normalization=l2", "teacher.centering=sinkhorn", "head.batch_norm=true"]
MSN += ["model.position_interpolation=msn"]

MSN_HEAD = {"mlp.0": "fc.fc1", "mlp.1": "fc.bn1", "mlp.3": "fc.fc2", "mlp.4": "fc.bn2", "mlp.6": "fc.fc3"}


def fresh(overrides, seed=99):
    """A state as a new run has it."""
    torch.manual_seed(seed)
    return State(load_config(overrides=[*SETTINGS, *overrides]), torch.device("cpu"))


def trained(overrides):
    """A state of which no tensor is where it started, nor student and teacher alike."""
    state = fresh(overrides, seed=1)
    with torch.no_grad():
        for network in (state.student, state.teacher):
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point() and "weight_g" not in name:
                    tensor.copy_(tensor + 0.05 * torch.randn_like(tensor).abs())
            for prototypes in {network.prototypes, getattr(network, "patch_prototypes", network.prototypes)}:
                if prototypes.normalization != "l2":
                    prototypes.weight_g.uniform_(0.5, 2.0)
        for centering in state.method.centerings().values():
            centering.center.normal_(std=0.1)
    state.method.share()
    return state


def ibot_file(state, path, **changes):
    """The file that iBOT's main_ibot.py saves, of a state's weights."""

    def named(network, prefix, mask_token):
        found = {f"{prefix}backbone.{name}": t for name, t in network.backbone.state_dict().items()}
        if mask_token:
            found[f"{prefix}backbone.masked_embed"] = network.mask_token.detach()
        found |= {f"{prefix}head.mlp.{name}": t for name, t in network.head.mlp.state_dict().items()}
        for layer, prototypes in (("last_layer", network.prototypes), ("last_layer2", network.patch_prototypes)):
            found[f"{prefix}head.{layer}.weight_g"] = prototypes.weight_g.detach()
            found[f"{prefix}head.{layer}.weight_v"] = prototypes.weight_v.detach()
        return {name: tensor.clone() for name, tensor in found.items()}

    centers = [centering.center.clone() for centering in state.method.centerings().values()]
    content = {
        "student": named(state.student, "module.", True),
        "teacher": named(state.teacher, "", False),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-4), "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_tiny", patch_size=4, shared_head=True, norm_last_layer=False),
        "ibot_loss": {"center": centers[0][None], "center2": centers[1][None, None]},
        "fp16_scaler": {"scale": 65536.0},
    }
    torch.save(content | changes, path)
    return path


def msn_file(state, path, **changes):
    """The file that MSN's msn_train.py saves, of a state's weights."""

    def named(network):
        found = {f"module.{name}": t for name, t in network.backbone.state_dict().items()}
        for name, tensor in network.head.mlp.state_dict().items():
            place, _, kind = f"mlp.{name}".rpartition(".")
            found[f"module.{MSN_HEAD[place]}.{kind}"] = tensor
        return {name: tensor.clone() for name, tensor in found.items()}

    content = {
        "encoder": named(state.student),
        "target_encoder": named(state.teacher),
        "prototypes": nn.Parameter(state.student.prototypes.weight_v.detach().clone()),
        "opt": {"state": {}, "param_groups": []},
        "epoch": 800,
        "loss": 2.5,
        "batch_size": 64,
        "world_size": 16,
        "lr": np.float64(1e-6),
        "temperature": 0.1,
    }
    torch.save(content | changes, path)
    return path


def step(state):
    """A training step on images that are always the same."""
    generator = torch.Generator().manual_seed(7)
    crops = [torch.randn(6, 3, side, side, generator=generator) for side in (16, 16, 8)]
    settings = StepSettings(1e-2, 0.1, 0.9, 0.1, 0.04, clip_grad=0.5)
    return training_step(state.method, state.optimizer, crops, settings, indices=torch.arange(6))


def contents(state):
    parts = {"student": state.student, "teacher": state.teacher, **state.method.centerings()}
    return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        # a published teacher has no mask token; ours has one, which nothing reads
        assert name == "teacher.mask_token" or torch.equal(one[name], other[name]), name


ALL_RESTORED = {
    "ibot": [
        "restored: backbones of student and teacher",
        "restored: the head's MLP",
        "restored: prototypes",
        "restored: the token of masked patches",
        "restored: the centre",
        "restored: the centre of the patches",
    ],
    "ibot, separate": [
        "restored: backbones of student and teacher",
        "restored: the head's MLP",
        "restored: prototypes",
        "restored: the token of masked patches",
        "restored: prototypes of the patches",
        "restored: the centre",
        "restored: the centre of the patches",
    ],
    "msn": ["restored: backbones of student and teacher", "restored: the head's MLP", "restored: prototypes"],
}
AFRESH = "afresh: optimiser, schedules, step and linear probe"
CASES = {"ibot": (IBOT, ibot_file), "ibot, separate": (SEPARATE, ibot_file), "msn": (MSN, msn_file)}


@pytest.mark.parametrize("case", CASES)
def test_a_step_from_the_file_is_that_of_the_state_it_was_written_from(case, tmp_path):
    overrides, write = CASES[case]
    original, state = trained(overrides), fresh(overrides)
    path = write(original, tmp_path / "checkpoint.pth")
    lines = [line.strip() for line in start_from(state, path)]
    assert lines[1:] == [*ALL_RESTORED[case], AFRESH]
    assert_same(contents(state), contents(original))
    before = contents(state)["student.backbone.norm.bias"].clone()
    ours, theirs = step(state), step(original)
    assert ours.terms == theirs.terms
    assert torch.equal(ours.targets, theirs.targets)
    assert_same(contents(state), contents(original))
    assert not torch.equal(contents(state)["student.backbone.norm.bias"], before)


@pytest.mark.parametrize("case", CASES)
def test_an_own_checkpoint_of_the_method_restores_as_much(case, tmp_path):
    overrides, _ = CASES[case]
    original, state = trained(overrides), fresh(overrides)
    torch.save(original.save(), tmp_path / "step.pt")
    lines = [line.strip() for line in start_from(state, tmp_path / "step.pt")]
    assert lines[1:] == [*ALL_RESTORED[case], AFRESH]
    assert_same(contents(state), contents(original))
    backbone, head = load_published(tmp_path / "step.pt", "student")
    assert torch.equal(backbone.norm.bias, original.student.backbone.norm.bias)
    assert torch.equal(head.prototypes.weight_v, original.student.prototypes.weight_v)


def test_the_whole_file_tells_patches_and_centres(tmp_path):
    original = trained(SEPARATE)
    path = ibot_file(original, tmp_path / "checkpoint.pth")
    student, teacher = load_whole(path, "student"), load_whole(path, "teacher")
    assert torch.equal(student.mask_token, original.student.mask_token)
    assert teacher.mask_token is None
    assert not teacher.shared
    assert torch.equal(teacher.patch_prototypes.weight_v, original.teacher.patch_prototypes.weight_v)
    assert torch.equal(teacher.centers["centering"], original.method.centering.center)
    assert torch.equal(teacher.centers["patch_centering"], original.method.patch_centering.center)
    assert (teacher.method, teacher.centering) == ("ibot", "logit")
    shared = load_whole(ibot_file(trained(IBOT), path))
    assert shared.shared
    assert shared.patch_prototypes is shared.head.prototypes


def lines_of(overrides, path):
    state = fresh(overrides)
    return state, [line.strip() for line in start_from(state, path)]


def test_what_does_not_fit_is_named(tmp_path):
    original = trained(SEPARATE)
    path = ibot_file(original, tmp_path / "checkpoint.pth")
    state, lines = lines_of([*SEPARATE, "head.out_dim=20", "method.patch_out_dim=11"], path)
    assert (
        "afresh: prototypes (weight_v is (12, 8) in the file and (20, 8) here; weight_g is (12, 1) in the"
        in " ".join(lines)
    )
    assert any(line.startswith("afresh: prototypes of the patches (weight_v is (10, 8) in the file") for line in lines)
    assert {"afresh: the centre", "afresh: the centre of the patches"} <= set(lines)
    assert not state.method.patch_centering.center.any()
    # prototypes of the class tokens may fit alone
    state, lines = lines_of([*SEPARATE, "method.patch_out_dim=11"], path)
    assert {"restored: prototypes", "restored: the centre", "afresh: the centre of the patches"} <= set(lines)
    assert torch.equal(state.method.centering.center, original.method.centering.center)
    # and prototypes belong to their head
    _, lines = lines_of([*SEPARATE, "head.hidden_dim=24"], path)
    assert "afresh: prototypes of the patches (they belong to another head)" in lines


def test_a_shared_head_of_the_file_may_start_two(tmp_path):
    """What scored the patches in the file scores them here."""
    original = trained(IBOT)
    state, lines = lines_of([*IBOT, "method.shared_head=false"], ibot_file(original, tmp_path / "checkpoint.pth"))
    assert lines[1:] == [*ALL_RESTORED["ibot, separate"], AFRESH]
    assert torch.equal(state.student.own_patch_prototypes.weight_v, original.student.prototypes.weight_v)


def test_two_heads_of_the_file_leave_one_aside(tmp_path):
    original = trained(SEPARATE)
    state, lines = lines_of(IBOT, ibot_file(original, tmp_path / "checkpoint.pth"))
    assert "set aside: prototypes of the patches (method.shared_head=true)" in lines
    assert "afresh: the centre of the patches" in lines
    assert torch.equal(state.method.centering.center, original.method.centering.center)


def test_ibot_vmf_may_start_from_ibot(tmp_path):
    original = trained(IBOT)
    state, lines = lines_of([*IBOT, *VMF], ibot_file(original, tmp_path / "checkpoint.pth"))
    assert "restored: prototypes, read as 'vmf' from now on, not 'none'" in lines
    assert lines[-3:-1] == [
        f"afresh: {center} (the file's is one of logit space, teacher.centering=probability)"
        for center in ("the centre", "the centre of the patches")
    ]
    assert not state.method.patch_centering.center.any()


# ----------------------------------------------------------------------------------- the file of another method


def test_dino_under_ibot_lacks_what_is_ibots(tmp_path):
    original = trained(DINO)
    torch.save(original.save(), tmp_path / "step.pt")
    _, lines = lines_of(IBOT, tmp_path / "step.pt")
    assert lines[1] == "other: the file is of method dino, this run of ibot: it takes what both have"
    assert "afresh: the token of masked patches (the file has none)" in lines
    assert lines[-3:-1] == ["restored: the centre", "afresh: the centre of the patches"]
    _, lines = lines_of(SEPARATE, tmp_path / "step.pt")
    assert "afresh: prototypes of the patches (the file has none)" in lines


def test_ibot_under_dino_leaves_what_is_ibots_aside(tmp_path):
    original = trained(SEPARATE)
    state, lines = lines_of(DINO, ibot_file(original, tmp_path / "checkpoint.pth"))
    assert "other: the file is of method ibot, this run of dino: it takes what both have" in lines
    for title in ("the token of masked patches", "prototypes of the patches", "the centre of the patches"):
        assert f"set aside: {title} (method.name=dino has no place for it)" in lines
    assert torch.equal(state.method.centering.center, original.method.centering.center)


def test_msn_under_ibot_and_back(tmp_path):
    original = trained([*MSN, "head.batch_norm=false"])
    torch.save(original.save(), tmp_path / "msn.pt")
    state, lines = lines_of(IBOT, tmp_path / "msn.pt")
    assert "other: the file is of method msn, this run of ibot: it takes what both have" in lines
    assert "restored: prototypes, read as 'none' from now on, not 'l2'" in lines
    assert "afresh: the centre (the file has none for these prototypes)" in lines
    # two sets of prototypes become the student's
    original = trained(IBOT)
    state, lines = lines_of([*MSN, "head.batch_norm=false"], ibot_file(original, tmp_path / "checkpoint.pth"))
    assert "set aside: the centre (method.name=msn has no place for it)" in lines
    for network in (state.student, state.teacher):
        assert torch.equal(network.prototypes.weight_v, original.student.prototypes.weight_v)


# -------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("module.backbone.masked_embed", torch.zeros(1, 63), r"token of masked patches \(1, 63\) instead of \(1, 64\)"),
        ("module.head.last_layer2.weight_v", torch.zeros(10, 7), r"patches' prototypes have 7 dimensions.* tokens 8"),
        ("module.head.last_layer2.weight_g", torch.zeros(9, 1), r"head.last_layer2.weight_g \(9, 1\) instead of"),
        ("module.head.last_layer2.bias", torch.zeros(10), "unexpected: head.last_layer2.bias"),
    ],
)
def test_parts_of_the_patches_that_fit_nothing_are_named(tmp_path, name, tensor, said):
    path = ibot_file(trained(SEPARATE), tmp_path / "checkpoint.pth")
    content = torch.load(path, weights_only=False)
    content["student"][name] = tensor
    torch.save(content, path)
    with pytest.raises(ConfigError, match=said):
        start_from(fresh(SEPARATE), path)
    with pytest.raises(ValueError, match=said):
        load_published(path, "student")
