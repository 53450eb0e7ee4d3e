"""Files in the exact forms that DINO, iBOT, MSN and this project write, and everything that can be wrong with them."""

import argparse
import json
import math
import pickle
import re
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from vmflearn.sphere import log_normalizer
from vmflearn.ssl import DINOHead, create_backbone, load_published
from vmflearn.train import load_config, pretrain
from vmflearn.weights.reading import read_weights

DIM, HEADS, PATCH, GRID, CHANNELS = 128, 2, 4, 6, 3


def normal(generator, *shape, scale=0.15, shift=0.0):
    return shift + scale * torch.randn(*shape, generator=generator)


def vit_state(seed=0, *, depth=2, grid=GRID, channels=CHANNELS):
    """The names and shapes of DINO's Vision Transformer."""
    g = torch.Generator().manual_seed(seed)
    state = {
        "cls_token": normal(g, 1, 1, DIM),
        "pos_embed": normal(g, 1, 1 + grid**2, DIM, scale=0.5),
        "patch_embed.proj.weight": normal(g, DIM, channels, PATCH, PATCH),
        "patch_embed.proj.bias": normal(g, DIM),
    }
    linear = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), "mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM)}
    norms = [f"blocks.{i}.norm{j}" for i in range(depth) for j in (1, 2)] + ["norm"]
    for name in norms:
        state |= {f"{name}.weight": normal(g, DIM, shift=1.0), f"{name}.bias": normal(g, DIM)}
    for i in range(depth):
        for name, shape in linear.items():
            state[f"blocks.{i}.{name}.weight"] = normal(g, *shape, scale=0.1)
            state[f"blocks.{i}.{name}.bias"] = normal(g, shape[0])
    return state


def head_state(seed=1, *, batch_norm=False, hidden=12, bottleneck=8, out=10):
    """The names and shapes of DINO's head."""
    g = torch.Generator().manual_seed(seed)
    places = (0, 3, 6) if batch_norm else (0, 2, 4)
    state = {}
    sizes = [DIM, hidden, hidden, bottleneck]
    for place, before, after in zip(places, sizes[:-1], sizes[1:], strict=True):
        state |= {f"mlp.{place}.weight": normal(g, after, before), f"mlp.{place}.bias": normal(g, after)}
    for place in (1, 4) if batch_norm else ():
        state |= {
            f"mlp.{place}.weight": normal(g, hidden, shift=1.0),
            f"mlp.{place}.bias": normal(g, hidden),
            f"mlp.{place}.running_mean": normal(g, hidden),
            f"mlp.{place}.running_var": normal(g, hidden).abs() + 0.5,
            f"mlp.{place}.num_batches_tracked": torch.tensor(7),
        }
    state["last_layer.weight_g"] = normal(g, out, 1, scale=0.5, shift=2.0)
    state["last_layer.weight_v"] = normal(g, out, bottleneck)
    return state


def wrapped(backbone, head, prefix=""):
    return {f"{prefix}backbone.{name}": t for name, t in backbone.items()} | {
        f"{prefix}head.{name}": t for name, t in head.items()
    }


def dino_content(*, batch_norm=False, **args):
    """What DINO's training saves."""
    head = [head_state(seed, batch_norm=batch_norm) for seed in (1, 11)]
    schedule = np.linspace(1e-4, 5e-4, 5)
    group = {"lr": schedule[2], "weight_decay": np.float64(0.04), "betas": (0.9, 0.999), "params": [0, 1]}
    return {
        "student": wrapped(vit_state(10), head[1], "module."),
        "teacher": wrapped(vit_state(0), head[0], "module." if batch_norm else ""),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [group]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=PATCH, lr=5e-4, local_crops_scale=(0.05, 0.25), **args),
        "dino_loss": {"center": torch.zeros(1, 10)},
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 17},
    }


def ibot_content():
    """What iBOT's training saves: a token for masked patches in the student, a last layer under two names."""
    content = dino_content()
    for which, prefix in (("student", "module."), ("teacher", "")):
        for kind in "gv":
            shared = content[which][f"{prefix}head.last_layer.weight_{kind}"]
            content[which][f"{prefix}head.last_layer2.weight_{kind}"] = shared
    content["student"]["module.backbone.masked_embed"] = torch.zeros(1, DIM)
    content["ibot_loss"] = {"center": torch.zeros(1, 10), "center2": torch.zeros(1, 1, 10)}
    del content["dino_loss"]
    return content


def msn_content(prefix="module."):
    """What MSN's training saves."""
    head = head_state(2, batch_norm=True)
    names = {"mlp.0": "fc.fc1", "mlp.1": "fc.bn1", "mlp.3": "fc.fc2", "mlp.4": "fc.bn2", "mlp.6": "fc.fc3"}

    def encoder(seed):
        state = {prefix + name: t for name, t in vit_state(seed).items()}
        for name, t in head.items():
            if name.startswith("mlp."):
                place, _, kind = name.rpartition(".")
                state[f"{prefix}{names[place]}.{kind}"] = t
        return state

    return {
        "encoder": encoder(20),
        "target_encoder": encoder(21),
        "prototypes": nn.Parameter(head["last_layer.weight_v"]),
        "opt": {"state": {}, "param_groups": []},
        "epoch": 800,
        "loss": 2.5,
        "batch_size": 64,
        "world_size": 16,
        "lr": np.float64(1e-6),
        "temperature": 0.1,
    }


def longhand_vit(state, images, offset=0.1, n_heads=HEADS):
    """DINO's forward pass in float64, attention with its matrix: all tokens after the final norm."""
    s = {name: tensor.double() for name, tensor in state.items()}
    batch, images = len(images), images.double()
    weight = s["patch_embed.proj.weight"]
    h, w = images.shape[-2] // PATCH, images.shape[-1] // PATCH
    rows = []
    for i in range(h):
        for j in range(w):
            piece = images[:, :, PATCH * i : PATCH * (i + 1), PATCH * j : PATCH * (j + 1)]
            rows.append(piece.flatten(1) @ weight.flatten(1).T + s["patch_embed.proj.bias"])
    tokens = torch.cat([s["cls_token"].expand(batch, 1, DIM), torch.stack(rows, dim=1)], dim=1)
    positions = s["pos_embed"]
    side = math.isqrt(positions.shape[1] - 1)
    if not (tokens.shape[1] == positions.shape[1] and h == w):
        table = positions[:, 1:].reshape(1, side, side, DIM).permute(0, 3, 1, 2)
        scale = ((h + offset) / side, (w + offset) / side)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic")
        assert table.shape[-2:] == (h, w)
        positions = torch.cat([positions[:, :1], table.permute(0, 2, 3, 1).reshape(1, -1, DIM)], dim=1)
    x = tokens + positions

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(x, name):
        return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    depth = sum(name.endswith("qkv.weight") for name in s)
    for i in range(depth):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(DIM, dim=-1)
        heads = []
        for part in torch.arange(DIM).chunk(n_heads):
            matrix = torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(DIM / n_heads), dim=-1)
            heads.append(matrix @ v[..., part])
        x = x + linear(torch.cat(heads, dim=-1), f"blocks.{i}.attn.proj")
        inner = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))), f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")


def longhand_bottleneck(state, features):
    s, x = {name: tensor.double() for name, tensor in state.items()}, features.double()
    batch_norm = "mlp.1.running_mean" in s
    for place in (0, 3, 6) if batch_norm else (0, 2, 4):
        x = x @ s[f"mlp.{place}.weight"].T + s[f"mlp.{place}.bias"]
        if place == (6 if batch_norm else 4):
            return x / x.norm(dim=-1, keepdim=True)
        if batch_norm:
            b = f"mlp.{place + 1}"
            x = (x - s[f"{b}.running_mean"]) / (s[f"{b}.running_var"] + 1e-5).sqrt() * s[f"{b}.weight"] + s[f"{b}.bias"]
        x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    raise AssertionError


def longhand_head(state, features, temperature):
    v, g = state["last_layer.weight_v"].double(), state["last_layer.weight_g"].double()
    return longhand_bottleneck(state, features) @ (g * v / v.norm(dim=-1, keepdim=True)).T / temperature


def save(content, path):
    torch.save(content, path)
    return path


def images(height, width, channels=CHANNELS):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(5))


def assert_is(backbone, state, sizes=((GRID * PATCH, GRID * PATCH), (12, 12)), offset=0.1):
    """The backbone's tokens are those of the longhand pass, to rounding, in float64 and in float32."""
    for size in sizes:
        x = images(*size, channels=state["patch_embed.proj.weight"].shape[1])
        expected = longhand_vit(state, x, offset)
        with torch.no_grad():
            torch.testing.assert_close(backbone.float().forward_features(x).double(), expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(backbone.float()(x).double(), expected[:, 0], atol=1e-5, rtol=0)
            tokens = backbone.double().forward_features(x.double())
            torch.testing.assert_close(tokens, expected, atol=1e-12, rtol=0)


# ---------------------------------------------------------------------------------------------- files that load


@pytest.mark.parametrize(
    "size",
    [(24, 24), (12, 12), (48, 48), (36, 16), (16, 36), (20, 44), (4, 4), (27, 13)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_features_are_dinos_at_every_image_size(tmp_path, size):
    backbone, _ = load_published(save(dino_content(), tmp_path / "checkpoint.pth"))
    assert_is(backbone, vit_state(0), [size])


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("which", "seed"), [("teacher", 0), ("student", 10)])
def test_a_full_dino_checkpoint(tmp_path, which, seed, batch_norm):
    path = save(dino_content(batch_norm=batch_norm), tmp_path / "checkpoint.pth")
    backbone, head = load_published(path, which)
    assert_is(backbone, vit_state(seed))
    state = head_state(seed + 1, batch_norm=batch_norm)
    features = images(3, DIM)[:, 0]
    assert isinstance(head, DINOHead)
    torch.testing.assert_close(head.prototypes.weight_g, nn.Parameter(state["last_layer.weight_g"]), atol=0, rtol=0)
    logits = head.double()(features.double(), 0.07)
    torch.testing.assert_close(logits, longhand_head(state, features, 0.07), atol=1e-11, rtol=0)
    assert head.prototypes.normalization == "none"
    assert not backbone.training
    assert not head.training


@pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])
def test_the_prototypes_score_as_asked_for(tmp_path, normalization):
    path = save(dino_content(), tmp_path / "checkpoint.pth")
    _, head = load_published(path, normalization=normalization)
    assert head.prototypes.normalization == normalization
    state = head_state(1)
    assert torch.equal(head.prototypes.weight_g, state["last_layer.weight_g"])
    features = images(3, DIM)[:, 0]
    if normalization == "l2":
        state["last_layer.weight_g"] = torch.ones(10, 1)
    expected = longhand_head(state, features, 0.1)
    if normalization == "vmf":
        kappa = state["last_layer.weight_g"].double().squeeze() / 0.1
        expected = expected + log_normalizer(kappa, 8) - log_normalizer(torch.zeros(1, dtype=torch.float64), 8)
    torch.testing.assert_close(head.double()(features.double(), 0.1), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("frozen", [True, False])
def test_magnitudes_are_frozen_where_the_run_froze_them(tmp_path, frozen):
    _, head = load_published(save(dino_content(norm_last_layer=frozen), tmp_path / "checkpoint.pth"))
    assert head.prototypes.weight_g.requires_grad is not frozen


def test_numbers_of_an_older_numpy_do_not_stop_it(tmp_path):
    new, old = save(dino_content(), tmp_path / "new.pth"), tmp_path / "old.pth"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("data.pkl"):
                name = np.float64.__reduce__(np.float64(0))[0].__module__.encode()  # numpy._core.multiarray, from 2 on
                assert name in data
                data = data.replace(name, b"numpy.core.multiarray")
            target.writestr(item, data)
    backbone, _ = load_published(old)
    assert_is(backbone, vit_state(0))
    lr = read_weights(old)["optimizer"]["param_groups"][0]["lr"]
    assert lr == np.linspace(1e-4, 5e-4, 5)[2]


def test_files_of_an_older_torch_load(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(dino_content(), path, _use_new_zipfile_serialization=False)
    assert_is(load_published(path)[0], vit_state(0))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_not_asked_for_is_not_read_into_memory(tmp_path):
    content = dino_content()
    content["optimizer"]["state"][0]["exp_avg"] = torch.ones(2**24)  # 64 MiB
    path = save(content, tmp_path / "checkpoint.pth")
    del content

    def private_memory():
        return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    before = private_memory()
    held = read_weights(path)
    assert private_memory() - before < 32
    assert held["optimizer"]["state"][0]["exp_avg"].sum() == 2**24


@pytest.mark.parametrize(
    ("prefix", "nested"),
    [
        *[(prefix, "") for prefix in ("", "module.", "backbone.", "module.backbone.")],
        *[(prefix, "") for prefix in ("_orig_mod.", "_orig_mod.module.", "module._orig_mod.backbone._orig_mod.")],
        *[("", "state_dict"), ("module.", "model")],
    ],
)
def test_a_backbone_alone(tmp_path, prefix, nested):
    state = {prefix + name: tensor for name, tensor in vit_state().items()}
    content = {nested: state, "epoch": 3} if nested else state
    backbone, head = load_published(save(content, tmp_path / "pretrain.pth"), num_heads=HEADS)
    assert head is None
    assert_is(backbone, vit_state())


@pytest.mark.parametrize(("depth", "grid", "channels"), [(1, 5, 1), (3, 7, 4)])
def test_the_architecture_is_read_off_the_shapes(tmp_path, depth, grid, channels):
    state = vit_state(depth=depth, grid=grid, channels=channels)
    backbone, _ = load_published(save(state, tmp_path / "pretrain.pth"), num_heads=HEADS)
    assert_is(backbone, state, [(grid * PATCH, grid * PATCH), (12, 28)])


@pytest.mark.parametrize("n_heads", [1, 4, 16])
def test_another_number_of_heads_is_as_said(tmp_path, n_heads):
    """Shapes are the same with any number of heads: it must be said, and then the features are those of it."""
    path, x = save(vit_state(), tmp_path / "pretrain.pth"), images(24, 24)
    backbone, _ = load_published(path, num_heads=n_heads)
    expected = longhand_vit(vit_state(), x, n_heads=n_heads)
    with torch.no_grad():
        torch.testing.assert_close(backbone.double().forward_features(x.double()), expected, atol=1e-12, rtol=0)
    assert (expected - longhand_vit(vit_state(), x)).abs().max() > 1e-2


def test_a_width_that_is_no_multiple_of_64_needs_the_heads(tmp_path):
    state = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=48, depth=1, num_heads=3)
    path = save(state.state_dict(), tmp_path / "pretrain.pth")
    assert "pos_embed has width 48" in refusal(path)
    assert "else say num_heads" in refusal(path)
    x = images(16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load_published(path, num_heads=3)[0](x), state.eval()(x))
    assert "num_heads=5 does not divide the width 48" in refusal(path, num_heads=5)
    assert "num_heads=0 does not divide" in refusal(path, num_heads=0)


def without_args():
    content = dino_content()
    del content["args"]
    return content


@pytest.mark.parametrize(
    "content", [vit_state(), {"state_dict": vit_state()}, without_args()], ids=["flat", "nested", "two"]
)
def test_heads_that_nothing_tells_are_assumed_with_a_warning(tmp_path, content):
    path = save(content, tmp_path / "pretrain.pth")
    with pytest.warns(
        UserWarning, match=r"does not tell the number of attention heads: 2 heads of 64 .* say num_heads=2"
    ):
        assert_is(load_published(path)[0], vit_state())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_published(path, num_heads=2)


@pytest.mark.parametrize("name", ["dino", "msn", "dino_deitsmall16_pretrain.pth"])
def test_files_that_tell_whose_they_are_need_no_warning_and_hold_to_it(tmp_path, name):
    content = {"dino": dino_content, "msn": msn_content}.get(name, vit_state)()
    path = save(content, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_published(path)[0].blocks[0].attn.num_heads == HEADS
    assert "num_heads=4, and the file's network has 2" in refusal(path, num_heads=4)


def test_an_architecture_of_another_name_tells_no_heads(tmp_path):
    content = dino_content()
    content["args"].arch = "vit_small_with_twelve_heads"
    with pytest.warns(UserWarning, match="does not tell"):
        load_published(save(content, tmp_path / "checkpoint.pth"))


def test_compiled_parts_of_a_network(tmp_path):
    """torch.compile puts its prefix where it was called, which may be inside."""
    state = {name.replace("blocks.1.", "blocks.1._orig_mod."): tensor for name, tensor in vit_state().items()}
    assert_is(load_published(save(state, tmp_path / "pretrain.pth"), num_heads=HEADS)[0], vit_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_last_layer_without_weight_norm(tmp_path, dtype):
    """Logits are those of the plain product; a zero row stays one."""
    content, plain = dino_content(), torch.randn(10, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    plain[4] = 0
    teacher = content["teacher"]
    for kind in "gv":
        del teacher[f"head.last_layer.weight_{kind}"]
    teacher["head.last_layer.weight"] = plain
    _, head = load_published(save(content, tmp_path / "checkpoint.pth"))
    features = images(3, DIM)[:, 0].double()
    expected = longhand_bottleneck(head_state(1), features) @ plain.double().T / 0.1
    torch.testing.assert_close(head.double()(features, 0.1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(head.prototypes.magnitudes.float(), plain.float().norm(dim=1))
    teacher |= {"head.last_layer.weight_g": torch.ones(10, 1), "head.last_layer.weight_v": plain}
    assert "unexpected: head.last_layer.weight" in refusal(save(content, tmp_path / "both.pth"))


def test_the_other_spellings_of_the_head(tmp_path):
    content, head = dino_content(), head_state(1)
    teacher = content["teacher"]
    for kind, number in (("g", 0), ("v", 1)):  # torch.nn.utils.parametrizations.weight_norm
        tensor = teacher.pop(f"head.last_layer.weight_{kind}")
        teacher[f"head.last_layer.parametrizations.weight.original{number}"] = tensor
    for name in [name for name in teacher if name.startswith("head.mlp")]:
        del teacher[name]
    weight, bias = torch.randn(8, DIM), torch.randn(8)
    teacher |= {"head.mlp.weight": weight, "head.mlp.bias": bias}  # a head of one layer
    _, loaded = load_published(save(content, tmp_path / "checkpoint.pth"))
    features = images(3, DIM)[:, 0]
    y = F.normalize(features @ weight.T + bias, dim=-1)
    torch.testing.assert_close(loaded.bottleneck(features), y)
    torch.testing.assert_close(loaded.prototypes.weight_v.data, head["last_layer.weight_v"], atol=0, rtol=0)
    torch.testing.assert_close(loaded.prototypes.weight_g.data, head["last_layer.weight_g"], atol=0, rtol=0)


@pytest.mark.parametrize(("which", "seed"), [("teacher", 0), ("student", 10)])
def test_a_full_ibot_checkpoint(tmp_path, which, seed):
    backbone, head = load_published(save(ibot_content(), tmp_path / "checkpoint.pth"), which)
    assert_is(backbone, vit_state(seed))
    features = images(3, DIM)[:, 0]
    expected = longhand_head(head_state(seed + 1), features, 0.1)
    torch.testing.assert_close(head.double()(features.double(), 0.1), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("which", "seed"), [("teacher", 21), ("student", 20)])
def test_an_msn_checkpoint(tmp_path, which, seed, prefix):
    backbone, head = load_published(save(msn_content(prefix), tmp_path / "msn.pth"), which)
    assert_is(backbone, vit_state(seed), offset=0.0)  # MSN resizes positions to the exact size
    state = head_state(2, batch_norm=True)
    assert head.prototypes.normalization == "l2"
    assert torch.equal(head.prototypes.weight_g, torch.ones(10, 1))
    features = images(3, DIM)[:, 0]
    prototypes = F.normalize(state["last_layer.weight_v"].double())
    expected = longhand_bottleneck(state, features) @ prototypes.T / 0.1
    torch.testing.assert_close(head.double()(features.double(), 0.1), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_alone(tmp_path, name):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)()
    reference.fc = nn.Identity()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):  # running statistics that matter
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    backbone, head = load_published(save(reference.state_dict(), tmp_path / f"{name}.pth"))
    assert head is None
    x = images(64, 48)
    with torch.no_grad():
        expected = reference.eval()(x)
        torch.testing.assert_close(backbone(x), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step by this project's own training."""
    settings = [
        "views.global_size=16",
        "views.local_size=8",
        "views.n_local=1",
        "model.backbone=vit_tiny_patch16_224",
        "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 4}",
        "head.out_dim=32",
        "head.hidden_dim=16",
        "head.bottleneck_dim=8",
        "head.batch_norm=true",
        "optimizer.batch_size=64",
        "optimizer.warmup_epochs=0",
        "run.epochs=1",
        "run.max_steps=1",
        "run.device=cpu",
    ]
    folder = tmp_path_factory.mktemp("run")
    pretrain(load_config(None, settings), folder, quiet=True)
    return folder


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_an_own_checkpoint(run, which):
    path = max((run / "checkpoints").glob("step-*.pt"))
    backbone, head = load_published(path, which)
    saved = torch.load(path, weights_only=True)[which]
    loaded = wrapped(backbone.state_dict(), head.state_dict())
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert backbone.blocks[0].attn.num_heads == 4  # from the configuration: no shape tells it
    load_published(path, which, num_heads=4)
    assert "num_heads=2, and the file's network has 4" in refusal(path, num_heads=2)
    assert head.prototypes.normalization == "vmf"
    assert load_published(path, which, "none")[1].prototypes.normalization == "none"


def test_an_own_exported_backbone(run):
    backbone, head = load_published(run / "backbone.safetensors")
    path = max((run / "checkpoints").glob("step-*.pt"))
    teacher, _ = load_published(path)
    assert head is None
    about = json.loads((run / "backbone.json").read_text())
    reference = timm.create_model(about["backbone"], num_classes=0, dynamic_img_size=True, **about["options"]).eval()
    reference.load_state_dict(load_file(run / "backbone.safetensors"))
    x = images(16, 24)
    expected = reference.forward_features(x)
    assert torch.equal(backbone.forward_features(x), expected)
    assert torch.equal(teacher.forward_features(x), expected)


@pytest.mark.parametrize("rule", ["timm", "dino", "msn"])
def test_an_own_backbone_resizes_positions_as_it_was_trained(tmp_path, rule):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
    model = {"backbone": "vit_tiny_patch16_224", "options": options, "position_interpolation": rule}
    torch.manual_seed(0)
    trained = create_backbone("vit_tiny_patch16_224", position_interpolation=rule, **options).eval()
    nn.init.normal_(trained.pos_embed)
    x = images(16, 24)
    expected = trained.forward_features(x)
    save_file(trained.state_dict(), tmp_path / "backbone.safetensors")
    elsewhere = {"pretrained": True, "checkpoint_path": str(tmp_path / "nowhere")}  # nothing is fetched or read for it
    (tmp_path / "backbone.json").write_text(json.dumps(model | {"options": options | elsewhere}))
    assert torch.equal(load_published(tmp_path / "backbone.safetensors")[0].forward_features(x), expected)
    head = DINOHead(48, 8, "l2", hidden_dim=8, bottleneck_dim=4)
    config = {"model": model, "head": {"normalization": "l2", "learn_magnitudes": False}}
    content = {"config": config, "teacher": wrapped(trained.state_dict(), head.state_dict())}
    backbone, loaded = load_published(save(content, tmp_path / "checkpoint.pt"))
    assert torch.equal(backbone.forward_features(x), expected)
    assert loaded.prototypes.normalization == "l2"


def test_double_precision_is_kept(tmp_path):
    state = {name: tensor.double() + 1e-12 for name, tensor in vit_state().items()}
    backbone, _ = load_published(save(state, tmp_path / "pretrain.pth"), num_heads=HEADS)
    assert torch.equal(backbone.norm.weight, state["norm.weight"])
    half = {name: tensor.half() for name, tensor in vit_state().items()}
    backbone, _ = load_published(save(half, tmp_path / "pretrain.pth"), num_heads=HEADS)
    assert backbone.norm.weight.dtype == torch.float32
    assert torch.equal(backbone.norm.weight, half["norm.weight"].float())


# ---------------------------------------------------------------------------------------- files that must not load


def refusal(path, **how):
    with pytest.raises(ValueError, match=r"^path=" + re.escape(str(path))) as caught:
        load_published(path, **how)
    return str(caught.value)


def test_everything_wrong_is_listed_at_once(tmp_path):
    content = dino_content()
    teacher = content["teacher"]
    teacher["backbone.blocks.1.norm1.wieght"] = teacher.pop("backbone.blocks.1.norm1.weight")
    teacher["backbone.norm.bias"] = torch.zeros(DIM + 1)
    del teacher["backbone.cls_token"]
    del teacher["head.last_layer.weight_g"]
    teacher["head.extra"] = torch.zeros(1)
    message = refusal(save(content, tmp_path / "checkpoint.pth"))
    assert "missing: blocks.1.norm1.weight, cls_token" in message
    assert "unexpected: blocks.1.norm1.wieght" in message
    assert "mis-shaped: norm.bias (129,) instead of (128,)" in message
    assert "missing: head.last_layer.weight_g" in message
    assert "unexpected: head.extra" in message
    assert "nothing was loaded" in message
    load_published(tmp_path / "checkpoint.pth", "student")  # which is whole


@pytest.mark.parametrize("name", sorted(vit_state(depth=1)))
def test_no_tensor_of_the_backbone_may_be_missing(tmp_path, name):
    state = vit_state(depth=1)
    del state[name]
    assert re.search(rf"missing: [^;]*\b{re.escape(name)}", refusal(save(state, tmp_path / "pretrain.pth")))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_no_tensor_of_the_head_may_be_missing(tmp_path, batch_norm):
    for name in head_state(batch_norm=batch_norm):
        content = dino_content(batch_norm=batch_norm)
        del content["student"][f"module.head.{name}"]
        message = refusal(save(content, tmp_path / "checkpoint.pth"), which="student")
        assert re.search(rf"missing: (head\.last_layer\.weight_v, )?head\.{re.escape(name)}\b", message), message


def test_a_prefix_that_is_not_a_wrappers_is_an_error(tmp_path):
    state = {"encoder." + name: tensor for name, tensor in vit_state().items()}
    message = refusal(save(state, tmp_path / "pretrain.pth"))
    assert "neither a Vision Transformer nor a ResNet" in message
    assert "encoder.blocks.0.attn.proj.bias" in message
    assert "and 22 more" in message


def test_the_same_tensor_twice_is_an_error(tmp_path):
    state = vit_state()
    state["module.cls_token"] = state["cls_token"] + 1
    assert "stand twice, with and without a prefix: cls_token" in refusal(save(state, tmp_path / "pretrain.pth"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pos_embed": torch.zeros(1, 38, DIM)}, "pos_embed has 38 rows; expected one for the class token"),
        ({"pos_embed": torch.zeros(1, 37, 100)}, "pos_embed has width 100; published transformers"),
        ({"pos_embed": torch.zeros(37, DIM)}, r"mis-shaped: pos_embed is \(37, 128\), expected 3 dimensions"),
        ({"patch_embed.proj.weight": torch.zeros(DIM, 3, 4, 5)}, r"patch_embed.proj.weight \(128, 3, 4, 5\) instead"),
        ({"patch_embed.proj.weight": torch.zeros(DIM, 3, 0, 0)}, "none empty"),
        (
            {"head.weight": torch.zeros(1000, DIM)},
            r"missing: head.mlp.0.weight, head.last_layer.weight_v, .*: head.weight",
        ),
        ({"blocks.0.ls1.gamma": torch.zeros(DIM)}, "unexpected: blocks.0.ls1.gamma"),
        ({"mask_token": torch.zeros(1, DIM)}, "unexpected: mask_token"),
        ({"epoch": 3}, "this is no state dict: epoch are no tensors"),
    ],
)
def test_another_architecture_is_an_error(tmp_path, change, said):
    assert re.search(said, refusal(save(vit_state() | change, tmp_path / "pretrain.pth")))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_an_error(tmp_path, dtype):
    """Weights in eight bits are numbers of steps, and those of which size is not among them."""
    state = vit_state() | {"blocks.0.mlp.fc1.weight": torch.ones(4 * DIM, DIM, dtype=dtype)}
    message = refusal(save(state, tmp_path / "pretrain.pth"))
    assert f"of another kind: blocks.0.mlp.fc1.weight {dtype} instead of torch.float32" in message


def test_heads_are_for_transformers(tmp_path):
    path = save(create_backbone("resnet18").state_dict(), tmp_path / "resnet.pth")
    assert "num_heads=6 is for Vision Transformers, and the file holds a ResNet" in refusal(path, num_heads=6)


def test_a_resnet_of_another_kind_is_an_error(tmp_path):
    state = torchvision.models.resnet18().state_dict()
    message = refusal(save(state, tmp_path / "resnet.pth"))
    assert "unexpected: fc.bias, fc.weight" in message
    state = {name: tensor for name, tensor in state.items() if not name.startswith(("layer4.1.", "fc."))}
    assert "ResNet with (2, 2, 2, 1) blocks that end in conv2" in refusal(save(state, tmp_path / "resnet.pth"))


def test_a_head_for_another_backbone_is_an_error(tmp_path):
    content = dino_content()
    content["teacher"]["head.mlp.0.weight"] = torch.zeros(12, 64)
    message = refusal(save(content, tmp_path / "checkpoint.pth"))
    assert "the head takes 64 features, the backbone has 128" in message


def test_msn_names_are_those_of_its_file(tmp_path):
    content = msn_content()
    del content["target_encoder"]["module.fc.fc3.weight"]
    content["target_encoder"]["module.fc.fc4.weight"] = torch.zeros(1)
    message = refusal(save(content, tmp_path / "msn.pth"))
    assert "missing: fc.fc3.weight" in message
    assert "unexpected: fc.fc4.weight" in message
    del content["target_encoder"]["module.fc.fc3.bias"], content["target_encoder"]["module.fc.fc4.weight"]
    message = refusal(save(content, tmp_path / "msn.pth"))
    assert message.endswith("missing: fc.fc3.bias, fc.fc3.weight")
    del content["prototypes"]
    assert "missing: prototypes" in refusal(save(content, tmp_path / "msn.pth"))


@pytest.mark.parametrize("content", [{}, {"teacher": {}}, {"state_dict": None}, {"teacher": 3}, {"linear": {}}, [1], 7])
def test_a_file_without_tensors_is_an_error(tmp_path, content):
    refusal(save(content, tmp_path / "checkpoint.pth"))


def test_the_network_asked_for_must_be_there(tmp_path):
    content = dino_content()
    del content["teacher"]
    message = refusal(save(content, tmp_path / "checkpoint.pth"))
    assert "it has no 'teacher', only args, dino_loss, epoch" in message
    load_published(tmp_path / "checkpoint.pth", "student")


def test_files_that_are_no_checkpoints(tmp_path):
    assert "is a directory" in refusal(tmp_path)
    assert "there is no such file" in refusal(tmp_path / "nothing.pth")
    path = tmp_path / "file.pth"
    path.write_bytes(b"")
    assert "is empty" in refusal(path)
    path.write_text("<!doctype html> 404 not found")
    assert "cannot be read as a checkpoint of torch.save (its contents are no pickle of weights)" in refusal(path)
    path.write_bytes(save(dino_content(), path).read_bytes()[:-2000])
    assert "cannot be read as a checkpoint" in refusal(path)
    path = tmp_path / "file.safetensors"
    path.write_text("nothing of the kind")
    assert "no readable safetensors file" in refusal(path)


def test_an_exported_backbone_needs_its_description(run, tmp_path):
    path = tmp_path / "backbone.safetensors"
    path.write_bytes((run / "backbone.safetensors").read_bytes())
    assert "backbone.json, which tells the architecture, is not beside it" in refusal(path)
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}')
    assert "mis-shaped: " in refusal(path)  # timm's description, of the whole network
    (tmp_path / "config.json").write_text("[]")
    assert "config.json beside it does not tell the architecture" in refusal(path)
    (tmp_path / "backbone.json").write_text('{"backbone": "vit_tiny_patch16_224"}')
    assert "does not tell the architecture ('options')" in refusal(path)
    about = json.loads((run / "backbone.json").read_text())
    about["options"]["depth"] = 2
    (tmp_path / "backbone.json").write_text(json.dumps(about))
    assert "missing: blocks.1.attn.proj.bias" in refusal(path)


@pytest.mark.parametrize("config", [{}, {"model": {"backbone": "vit_tiny_patch16_224"}, "head": {}}, {"model": 3}])
def test_a_config_of_something_else_is_an_error(tmp_path, config):
    content = {"config": config, "student": wrapped(vit_state(), head_state()), "teacher": {}}
    message = refusal(save(content, tmp_path / "checkpoint.pth"), which="student")
    assert "its config is not that of a run of vmflearn" in message


@pytest.mark.parametrize(
    ("how", "said"),
    [({"which": "ema"}, "which must be 'teacher' or 'student', got 'ema'"), ({"normalization": "l1"}, "got 'l1'")],
)
def test_arguments_are_checked(tmp_path, how, said):
    with pytest.raises(ValueError, match=said):
        load_published(tmp_path, **how)


class Hostile:
    """A pickle that writes a file when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "gotcha")


@pytest.mark.parametrize("form", ["zip", "older torch", "pickle"])
@pytest.mark.parametrize("place", ["top", "optimizer", "args"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, form, place):
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pth"
    hostile, content = Hostile(marker), dino_content()
    if place == "top":
        content = hostile
    elif place == "optimizer":
        content["optimizer"]["state"][0]["step"] = hostile
    else:
        content["args"].hook = hostile
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = refusal(path)
    assert "was refused, and nothing in it was run" in message or form == "pickle"
    assert not marker.exists()
    pickle.loads(path.read_bytes()) if form == "pickle" else torch.load(path, weights_only=False)
    assert marker.exists()  # the trap is a real one


def test_a_whole_pickled_module_is_refused(tmp_path):
    assert "asks for torch.nn.modules.linear.Linear" in refusal(save(nn.Linear(2, 2), tmp_path / "module.pth"))
