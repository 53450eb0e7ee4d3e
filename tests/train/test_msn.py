"""MSN's step against the published algorithm written out longhand in float64.

The longhand keeps the original's order: encoder and head one resolution at a time, patches dropped from the first, one
parameter of prototypes for both networks, sharpening by a power, Sinkhorn on probabilities, mean entropy by
-sum p log p, clipping by the encoder's common norm, AdamW with undecayed prototypes, EMA of the encoder.
"""

import math

import pytest
import torch
from torch.func import functional_call

from vmflearn.sphere import log_normalizer
from vmflearn.ssl import DINOHead, create_backbone
from vmflearn.ssl.anchor_network import AnchorNetwork
from vmflearn.train import load_config, training_step
from vmflearn.train.methods.msn import MSN, MSNSettings
from vmflearn.train.optimizer import make_optimizer
from vmflearn.train.per_step import StepSettings
from vmflearn.views.masking import draw_kept

WIDTH, BOTTLENECK, K, BATCH = 12, 6, 9, 5


def make(normalization="l2", **changed):
    torch.manual_seed(5)
    networks = []
    for _ in range(2):
        backbone = create_backbone(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=4,
            embed_dim=WIDTH,
            depth=2,
            num_heads=2,
            position_interpolation="msn",
        )
        head = DINOHead(WIDTH, K, normalization, hidden_dim=10, bottleneck_dim=BOTTLENECK, batch_norm=True)
        networks.append(AnchorNetwork(backbone, head).double())
    student, teacher = networks
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.2, 1.5)
            if name.endswith("weight_g") and parameter.requires_grad:
                parameter.uniform_(0.5, 2.0)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    method = MSN(student, teacher, MSNSettings(mean_entropy=1.5, dropped=0.4, **changed))
    return method, make_optimizer(student, undecayed=method.undecayed)


class Longhand:
    """MSN on dictionaries of float64 tensors; gradients by autograd alone."""

    def __init__(self, method):
        network = method.student
        self.backbone, self.settings = network.backbone, method.settings
        self.normalization = network.prototypes.normalization
        every = {name: p.detach().clone() for name, p in network.named_parameters()}
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        self.prototypes = {name: every.pop(name) for name in list(every) if "prototypes" in name}
        self.trained_prototypes = [name for name in self.prototypes if name in trained]
        self.student, self.teacher = every, {name: p.clone() for name, p in every.items()}
        both = {**self.student, **self.prototypes}
        self.first = {name: torch.zeros_like(p) for name, p in both.items()}
        self.second = {name: torch.zeros_like(p) for name, p in both.items()}
        self.updates = 0

    def encode(self, p, images, kept=None):
        weights = {k.removeprefix("backbone."): v for k, v in p.items() if k.startswith("backbone.")}
        n, _, side, _ = images.shape
        g = side // 4
        pixels = images.reshape(n, 3, g, 4, g, 4).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, 48)
        x = pixels @ weights["patch_embed.proj.weight"].reshape(WIDTH, 48).T + weights["patch_embed.proj.bias"]
        x = torch.cat([weights["cls_token"].expand(n, -1, -1), x], 1)
        table = weights["pos_embed"]
        if g != 4:
            grid = table[:, 1:].reshape(1, 4, 4, WIDTH).permute(0, 3, 1, 2)
            grid = torch.nn.functional.interpolate(grid, scale_factor=math.sqrt(g * g / 16), mode="bicubic")
            table = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)], 1)
        x = x + table
        if kept is not None:
            rows = [x[i, [0, *(1 + kept[i if len(kept) > 1 else 0])]] for i in range(n)]
            x = torch.stack(rows)
        for i, block in enumerate(self.backbone.blocks):
            part = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
            x = functional_call(block, part, (x,))
        centred = x - x.mean(-1, keepdim=True)
        x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
        x = (x * weights["norm.weight"] + weights["norm.bias"])[:, 0]
        for linear, norm in ((0, 1), (3, 4), (6, None)):  # Linear, batch norm over these rows, GELU
            x = x @ p[f"head.mlp.{linear}.weight"].T + p[f"head.mlp.{linear}.bias"]
            if norm is not None:
                x = (x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5)
                x = x * p[f"head.mlp.{norm}.weight"] + p[f"head.mlp.{norm}.bias"]
                x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        return x

    def assign(self, prototypes, z, tau=0.1):
        v, g = prototypes["head.prototypes.weight_v"], prototypes["head.prototypes.weight_g"]
        w = v / torch.sqrt((v**2).sum(1, keepdim=True))
        y = z / torch.sqrt((z**2).sum(1, keepdim=True))
        if self.normalization == "l2":
            return torch.softmax(y @ w.T / tau, 1)
        return torch.softmax(y @ (g * w).T / tau + log_normalizer(g[:, 0].abs() / tau, BOTTLENECK), 1)

    def step(self, crops, kept, s):
        own = self.settings
        p = {name: x.clone().requires_grad_() for name, x in self.student.items()}
        c = {name: x.clone().requires_grad_(name in self.trained_prototypes) for name, x in self.prototypes.items()}
        n_random = own.n_random
        z = [self.encode(p, torch.cat(crops[1 : 1 + n_random]), kept)]
        if len(crops) > 1 + n_random:
            z.append(self.encode(p, torch.cat(crops[1 + n_random :])))
        probs = self.assign(c, torch.cat(z))
        with torch.no_grad():
            q = self.assign(c, self.encode(self.teacher, crops[0])) ** (1 / (s.teacher_temp / s.student_temp))
            q = q / q.sum(1, keepdim=True)
            if own.balanced:
                m = q.T / q.sum()
                for _ in range(3):
                    m = m / m.sum(1, keepdim=True) / K
                    m = m / m.sum(0, keepdim=True) / BATCH
                q = (m * BATCH).T
            q = q.repeat(len(crops) - 1, 1)
        cross_entropy = -(q * torch.log(probs)).sum(1).mean()
        mean = probs.mean(0)
        mean_entropy = math.log(K) + (mean * torch.log(mean)).sum()
        names = list(p)
        leaves = [p[n] for n in names] + [c[n] for n in self.trained_prototypes]
        found = torch.autograd.grad(cross_entropy + own.mean_entropy * mean_entropy, leaves)
        grads = dict(zip([*names, *self.trained_prototypes], found, strict=True))
        norm = math.sqrt(sum(float((grads[n] ** 2).sum()) for n in names))
        for n in names:
            grads[n] = grads[n] * min(1.0, s.clip_grad / (norm + 1e-6))
        self.updates += 1
        for name, g in grads.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g**2
            m, v = self.first[name] / (1 - 0.9**self.updates), self.second[name] / (1 - 0.999**self.updates)
            where = self.student if name in self.student else self.prototypes
            decays = name in self.student and where[name].ndim != 1
            where[name] = where[name] * (1 - s.lr * s.weight_decay * decays) - s.lr * m / (v.sqrt() + 1e-8)
        for name, x in self.student.items():
            self.teacher[name] = s.momentum * self.teacher[name] + (1 - s.momentum) * x
        return float(cross_entropy.detach()), float(mean_entropy.detach())


@pytest.mark.parametrize(
    ("n_focal", "changed"),
    [
        (3, {}),
        (0, {}),
        (2, {"n_random": 2}),
        (2, {"n_random": 2, "own_patches": True}),
        (2, {"balanced": False}),
    ],
)
@pytest.mark.parametrize("normalization", ["l2", "vmf"])
def test_steps_equal_the_longhand(normalization, n_focal, changed):
    method, optimizer = make(normalization, **changed)
    longhand, n_random = Longhand(method), method.settings.n_random
    for step in range(4):
        crops = [
            torch.randn(BATCH, 3, side, side, dtype=torch.float64) for side in [16] * (1 + n_random) + [8] * n_focal
        ]
        indices = torch.arange(BATCH) + step
        settings = StepSettings(
            lr=2e-4 * (step + 1),
            weight_decay=0.04 + 0.1 * step,
            momentum=0.9 + 0.02 * step,
            student_temp=0.1,
            teacher_temp=0.025,
            clip_grad=0.3,
            epoch=1,
            step=step,
        )
        if method.settings.own_patches:
            kept = torch.cat([draw_kept(16, 0.4, 0, 1, indices.numpy(), view) for view in range(n_random)])
        else:
            kept = draw_kept(16, 0.4, 0, step)
        result = training_step(method, optimizer, crops, settings, indices=indices)
        cross_entropy, mean_entropy = longhand.step(crops, kept, settings)
        assert result.terms == {
            "loss": pytest.approx(cross_entropy, rel=1e-10),
            "mean_entropy": pytest.approx(mean_entropy, rel=1e-9),
        }
        pairs = [(method.student, {**longhand.student, **longhand.prototypes})]
        pairs.append((method.teacher, {**longhand.teacher, **longhand.prototypes}))
        for network, expected in pairs:
            for name, parameter in network.named_parameters():
                found, wanted = parameter.detach(), expected[name]
                if name.endswith("qkv.bias"):  # the keys' third has no gradient but rounding, which AdamW magnifies
                    keep = [*range(WIDTH), *range(2 * WIDTH, 3 * WIDTH)]
                    found, wanted = found[keep], wanted[keep]
                if name in ("head.mlp.0.bias", "head.mlp.3.bias"):  # nor has a bias in front of batch norm
                    continue
                torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_parts_are_refused_because_the_mean_entropy_is_no_mean_over_images():
    method, optimizer = make()
    settings = StepSettings(1e-3, 0.1, 0.9, 0.1, 0.025, accumulation=2)
    with pytest.raises(ValueError, match="accumulation=2: the mean entropy of MSN is not a mean over images"):
        training_step(method, optimizer, [torch.randn(4, 3, 16, 16).double()] * 2, settings)


def test_schedules_are_the_published_ones():
    """Written out as MSN's schedulers: counted from one for the rate and the decay, from nought for the EMA."""
    settings = ["method.name=msn", "teacher.centering=sinkhorn", "run.epochs=5", "optimizer.warmup_epochs=2"]
    settings += ["optimizer.batch_size=1024", "optimizer.lr=2.5e-4", "optimizer.min_lr=1e-6"]
    config, per_epoch = load_config(None, settings), 7
    n_steps, t_max, warmup = 35, int(1.25 * 35), 14
    momentum = 0.996
    for i in range(n_steps):
        count = i + 1
        if count < warmup:
            lr = 2e-4 + count / warmup * (1e-3 - 2e-4)
        else:
            progress = (count - warmup) / (t_max - warmup)
            lr = max(1e-6, 1e-6 + (1e-3 - 1e-6) * 0.5 * (1 + math.cos(math.pi * progress)))
        decay = min(0.4, 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * count / t_max)))
        found = MSN.schedule(config, i, per_epoch)
        assert found.lr == pytest.approx(lr, rel=1e-12)
        assert found.weight_decay == pytest.approx(decay, rel=1e-12)
        assert found.momentum == pytest.approx(momentum, rel=1e-12)
        assert (found.epoch, found.step) == (i // per_epoch, i)
        momentum += (1.0 - 0.996) / (n_steps * 1.25)
