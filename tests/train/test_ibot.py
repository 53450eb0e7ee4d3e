"""iBOT's step against the published algorithm written out longhand in float64.

The longhand is written from the original's order of operations: all patch tokens of all crops through the head, a full
softmax per pair, masks as a product, two centres, per-tensor clipping, frozen last layers, AdamW, EMA.
"""

import math

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch.func import functional_call

from vmflearn.sphere import VonMisesFisherMixture, log_normalizer
from vmflearn.ssl import DINOHead, LogitCentering, ProbabilityCentering, create_backbone
from vmflearn.ssl.patch_network import PatchNetwork
from vmflearn.ssl.prototypes import Prototypes
from vmflearn.train import training_step
from vmflearn.train.methods.ibot import IBOT, IBOTSettings
from vmflearn.train.optimizer import make_optimizer
from vmflearn.train.per_step import StepSettings
from vmflearn.views.masking import MaskSpec, draw_masks

# AdamW divides a gradient by its own size: with torch 2.11 one of 204 numbers was 1.4e-10 off after some steps.
CLOSE = 1e-10 if Version(torch.__version__) >= Version("2.12") else 1e-9
WIDTH, BOTTLENECK, K, PATCH_K = 12, 6, 9, 7
MASKS = MaskSpec((0.0, 0.5, 0.9), (0.0, 0.2, 0.0))


def make(normalization, shared, **changed):
    torch.manual_seed(5)
    networks = []
    for _ in range(2):
        backbone = create_backbone(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=WIDTH, depth=2, num_heads=2
        )
        head = DINOHead(WIDTH, K, normalization, hidden_dim=10, bottleneck_dim=BOTTLENECK)
        own = None if shared else Prototypes(BOTTLENECK, PATCH_K, normalization)
        networks.append(PatchNetwork(backbone, head, own).double())
    student, teacher = networks
    with torch.no_grad():
        for name, parameter in student.named_parameters():  # biases, gains and tokens that show
            if parameter.ndim == 1 or "token" in name:
                parameter.uniform_(0.2, 1.5)
            if name.endswith("weight_g") and parameter.requires_grad:
                parameter.uniform_(0.5, 2.0)
            if "head.mlp" in name and parameter.ndim == 2:
                parameter.mul_(20)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    kind = ProbabilityCentering if normalization == "vmf" else LogitCentering
    centers = kind(K).double(), kind(K if shared else PATCH_K).double()
    settings = IBOTSettings(
        mask_ratios=MASKS.ratios,
        mask_spreads=MASKS.spreads,
        patch_warmup_temp=0.05,
        patch_temp=0.08,
        patch_temp_warmup_epochs=3,
        cls_weight=0.7,
        patch_weight=1.3,
        **changed,
    )
    return IBOT(student, teacher, *centers, settings), make_optimizer(student)


class Longhand:
    """iBOT on dictionaries of float64 tensors; gradients by autograd alone."""

    def __init__(self, method, normalization, shared):
        network = method.student
        self.backbone, self.normalization, self.shared = network.backbone, normalization, shared
        self.trained = {name for name, p in network.named_parameters() if p.requires_grad}
        self.student = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.teacher = {name: p.clone() for name, p in self.student.items()}
        self.first = {name: torch.zeros_like(p) for name, p in self.student.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.student.items()}
        self.updates = dict.fromkeys(self.student, 0)
        self.center = torch.zeros(K, dtype=torch.float64)
        self.center2 = torch.zeros(K if shared else PATCH_K, dtype=torch.float64)

    def tokens(self, p, crop, mask=None):
        weights = {k.removeprefix("backbone."): v for k, v in p.items() if k.startswith("backbone.")}
        n, _, side, _ = crop.shape
        g = side // 4
        pixels = crop.reshape(n, 3, g, 4, g, 4).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, 48)
        x = pixels @ weights["patch_embed.proj.weight"].reshape(WIDTH, 48).T + weights["patch_embed.proj.bias"]
        if mask is not None:
            m = mask.flatten(1)[..., None].double()
            x = x * (1 - m) + p["mask_token"] * m
        x = torch.cat([weights["cls_token"].expand(n, -1, -1), x], 1)
        table = weights["pos_embed"]
        if g != 4:
            grid = table[:, 1:].reshape(1, 4, 4, WIDTH).permute(0, 3, 1, 2)
            grid = torch.nn.functional.interpolate(grid, size=(g, g), mode="bicubic", antialias=True)
            table = torch.cat([table[:, :1], grid.flatten(2).mT], 1)
        x = x + table
        for i, block in enumerate(self.backbone.blocks):
            part = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
            x = functional_call(block, part, (x,))
        centred = x - x.mean(-1, keepdim=True)
        x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
        return x * weights["norm.weight"] + weights["norm.bias"]

    def unit(self, p, x):
        for layer in (0, 2, 4):
            x = x @ p[f"head.mlp.{layer}.weight"].T + p[f"head.mlp.{layer}.bias"]
            if layer < 4:
                x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        return x / torch.sqrt((x**2).sum(-1, keepdim=True))

    def logits(self, p, y, tau, patches=False):
        where = "own_patch_prototypes." if patches and not self.shared else "head.prototypes."
        v, g = p[where + "weight_v"], p[where + "weight_g"]
        w = v / torch.sqrt((v**2).sum(-1, keepdim=True))
        if self.normalization != "l2":
            w = g * w
        z = y @ w.T / tau
        return z + log_normalizer(g[:, 0].abs() / tau, BOTTLENECK) if self.normalization == "vmf" else z

    def both(self, p, crop, mask, tau, tau2):
        y = self.unit(p, self.tokens(p, crop, mask))
        return self.logits(p, y[:, 0], tau), self.logits(p, y[:, 1:], tau2, patches=True)

    def step(self, crops, masks, s, tau2):
        p = {name: x.clone().requires_grad_(name in self.trained) for name, x in self.student.items()}
        vmf = self.normalization == "vmf"
        with torch.no_grad():
            t = [self.both(self.teacher, crop, None, s.teacher_temp, tau2) for crop in crops[:2]]
        seen = [
            self.both(p, crop, masks[i] if i < 2 else None, s.student_temp, s.student_temp)
            for i, crop in enumerate(crops)
        ]
        cls, mim, n_cls, n_mim = 0, 0, 0, 0
        for q in range(2):
            q_cls = torch.softmax(t[q][0] - (self.center if vmf else self.center / s.teacher_temp), -1)
            q_patch = torch.softmax(t[q][1] - (self.center2 if vmf else self.center2 / tau2), -1)
            for v in range(len(crops)):
                if v == q:
                    loss = -(q_patch * torch.log_softmax(seen[v][1], -1)).sum(-1)
                    mask = masks[v].flatten(1).double()
                    mim += ((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
                    n_mim += 1
                else:
                    cls += -(q_cls * torch.log_softmax(seen[v][0], -1)).sum(-1).mean()
                    n_cls += 1
        cls, mim = cls / n_cls, mim / n_mim
        total = 0.7 * cls + 1.3 * mim
        names = sorted(self.trained)
        grads = torch.autograd.grad(total, [p[n] for n in names], allow_unused=True)
        for name, g in zip(names, grads, strict=True):
            g = torch.zeros_like(self.student[name]) if g is None else g
            if s.clip_grad:
                g = g * min(1.0, s.clip_grad / (math.sqrt(float((g**2).sum())) + 1e-6))
            if s.freeze_prototypes and "prototypes" in name:
                continue
            self.updates[name] += 1
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g**2
            m = self.first[name] / (1 - 0.9 ** self.updates[name])
            v = self.second[name] / (1 - 0.999 ** self.updates[name])
            decays = not (name.endswith(".bias") or self.student[name].ndim == 1)
            self.student[name] = self.student[name] * (1 - s.lr * s.weight_decay * decays) - s.lr * m / (
                v.sqrt() + 1e-8
            )
        for name, x in self.student.items():
            self.teacher[name] = s.momentum * self.teacher[name] + (1 - s.momentum) * x

        def batch_center(z, tau):
            z = z.flatten(0, -2)
            if vmf:
                return torch.softmax(z, -1).mean(0).clamp_min(torch.finfo(torch.float32).tiny).log()
            return (tau * z).mean(0)

        self.center = 0.9 * self.center + 0.1 * batch_center(torch.cat([a for a, _ in t]), s.teacher_temp)
        self.center2 = 0.9 * self.center2 + 0.1 * batch_center(torch.cat([b for _, b in t]), tau2)
        return float(cls.detach()), float(mim.detach()) if torch.is_tensor(mim) else mim


def crops_of(batch, n_local):
    return [torch.randn(batch, 3, side, side, dtype=torch.float64) for side in [16, 16] + [8] * n_local]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])
@pytest.mark.parametrize(("n_local", "parts"), [(0, 1), (2, 1), (2, 2)])
def test_steps_equal_the_longhand(normalization, shared, n_local, parts):
    method, optimizer = make(normalization, shared)
    longhand = Longhand(method, normalization, shared)
    seen = set()
    for step in range(4):
        crops, indices = crops_of(4, n_local), torch.arange(4) + 4 * step
        settings = StepSettings(
            lr=2e-4 * (step + 1),  # AdamW magnifies rounding by lr / 1e-8 where a gradient is near zero
            weight_decay=0.04 + 0.1 * step,
            momentum=0.9 + 0.02 * step,
            student_temp=0.1,
            teacher_temp=0.05,
            clip_grad=0.05,
            freeze_prototypes=step < 2,
            epoch=step,
            accumulation=parts,
        )
        masks = torch.stack(
            [draw_masks(MASKS, (4, 4), seed=0, epoch=step, indices=indices, crop=crop) for crop in range(2)]
        )
        seen |= set(masks.flatten(2).sum(-1).flatten().tolist())
        result = training_step(method, optimizer, crops, settings, indices=indices)
        cls, mim = longhand.step(crops, masks, settings, tau2=0.05 + 0.015 * min(step, 2))
        assert result.terms == {
            "loss": pytest.approx(cls, rel=1e-10),
            "patch_loss": pytest.approx(mim, rel=1e-10),
        }
        for network, expected in ((method.student, longhand.student), (method.teacher, longhand.teacher)):
            for name, parameter in network.named_parameters():
                bias = name.endswith("qkv.bias")  # the keys' third has no gradient but rounding, which AdamW magnifies
                found, wanted = parameter.detach(), expected[name]
                if bias:
                    keep = [*range(WIDTH), *range(2 * WIDTH, 3 * WIDTH)]
                    found, wanted = found[keep], wanted[keep]
                torch.testing.assert_close(found, wanted, rtol=1e-10, atol=CLOSE, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(method.centering.center, longhand.center, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(method.patch_centering.center, longhand.center2, rtol=1e-10, atol=1e-10)
    assert 0 in seen
    assert len(seen) > 3


def test_no_masks_before_the_start_epoch_and_then_the_warm_up_begins():
    method, optimizer = make("vmf", True, start_epoch=2)
    settings = StepSettings(1e-3, 0.1, 0.9, 0.1, 0.05, epoch=1)
    result = training_step(method, optimizer, crops_of(4, 1), settings, indices=torch.arange(4))
    assert result.terms["patch_loss"] == 0
    assert math.isfinite(result.loss)
    assert [method.settings.teacher_temp(epoch) for epoch in range(6)] == pytest.approx(
        [0.05, 0.05, 0.05, 0.065, 0.08, 0.08]
    )


def test_equal_magnitudes_make_ibot_vmf_ibot():
    """With all |w| alike log C_p is a constant, which no softmax sees: same losses, gradients and centre's effect."""
    ends = []
    for normalization in ("none", "vmf"):
        method, optimizer = make(normalization, False)
        method.centering, method.patch_centering = LogitCentering(K).double(), LogitCentering(PATCH_K).double()
        for network in (method.student, method.teacher):
            for prototypes in (network.prototypes, network.patch_prototypes):
                torch.nn.init.constant_(prototypes.weight_g, 1.7)
                prototypes.weight_g.requires_grad_(False)
        for step in range(3):
            torch.manual_seed(step)
            settings = StepSettings(1e-2, 0.1, 0.9, 0.1, 0.05, epoch=step)
            result = training_step(method, optimizer, crops_of(4, 1), settings, indices=torch.arange(4))
        ends.append((result.terms, result.targets, *method.student.parameters()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-9)
    for ours, theirs in zip(ends[0][1:], ends[1][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def responsibilities(prototypes, y, tau):
    """Eq. 2 by the mixture of the same components in equal proportions: directions v/|v|, kappa = |w|/tau."""
    k, v, g = prototypes.out_dim, prototypes.weight_v.numpy(), prototypes.weight_g.numpy()
    mixture = VonMisesFisherMixture(k)
    mixture.weights_ = np.full(k, 1 / k)
    mixture.means_ = np.sign(g) * v / np.linalg.norm(v, axis=1, keepdims=True)
    mixture.concentrations_ = np.abs(g[:, 0]) / tau
    mixture.n_features_in_ = v.shape[1]
    return mixture.predict_proba(y.numpy())


@pytest.mark.parametrize("tau", [1.0, 0.05])
@pytest.mark.parametrize("shared", [True, False])
def test_targets_without_a_centre_are_responsibilities_of_the_mixture(shared, tau):
    """Of class tokens and masked patches; the centres are zero at the start."""
    method, _ = make("vmf", shared)
    method.settings.patch_warmup_temp = method.settings.patch_temp = tau
    settings = StepSettings(1e-2, 0.1, 0.9, 0.1, tau)
    parts = method.divide(crops_of(6, 1), settings, torch.arange(6))
    aim = method.aim(parts, settings)
    with torch.no_grad():
        _, y, patch_y = method.teacher.embed_all(parts[0].views)
    (targets, patch_targets, masks), masked = aim.parts[0], patch_y[parts[0].inputs[1].flatten(2)]
    assert len(masked) == masks.sum() > 10
    assert targets.std() > 1e-3
    expected = responsibilities(method.teacher.prototypes, y.flatten(0, 1), tau)
    np.testing.assert_allclose(targets.flatten(0, 1), expected, rtol=1e-6, atol=1e-12)
    expected = responsibilities(method.teacher.patch_prototypes, masked, tau)
    np.testing.assert_allclose(patch_targets, expected, rtol=1e-6, atol=1e-12)


def with_batch_norm():
    torch.manual_seed(5)
    backbone = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=WIDTH, depth=1, num_heads=2)
    return PatchNetwork(backbone, DINOHead(WIDTH, K, hidden_dim=10, bottleneck_dim=BOTTLENECK, batch_norm=True))


def test_class_tokens_and_patches_are_normalised_apart():
    """In one pass class tokens, few among many patches, would be centred by the patches' mean: all alike."""
    network, views = with_batch_norm(), [crop.float() for crop in crops_of(3, 0)]
    features, y, patch_y = network.embed_all(views)
    tokens = network.backbone.forward_features(torch.cat(views))[:, 1:]
    torch.testing.assert_close(y, network.head.bottleneck(features))
    torch.testing.assert_close(patch_y, network.head.bottleneck(tokens).unflatten(0, (2, 3)))
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    masks[0, 1, 2:, 1:] = True
    features, y, patch_y = network.embed(views, masks)
    torch.testing.assert_close(y, network.head.bottleneck(features))
    assert patch_y.shape == (6, BOTTLENECK)
    assert patch_y.std(dim=0).max() > 0.01


@pytest.mark.parametrize("n_masked", [0, 1])
def test_batches_with_hardly_a_mask_have_no_statistics_of_their_own(n_masked):
    network, views = with_batch_norm(), [crop.float() for crop in crops_of(3, 1)]
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    masks[0, 1, 2, 2] = n_masked == 1
    _, y, patch_y = network.embed(views, masks)
    (y.sum() + patch_y.sum()).backward()
    assert patch_y.shape == (n_masked, BOTTLENECK)
    assert network.head.training
    assert all(torch.isfinite(buffer).all() for buffer in network.head.buffers())
    assert all(torch.isfinite(p.grad).all() for p in network.head.mlp.parameters())
