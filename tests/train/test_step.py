"""One step against DINO's algorithm written out longhand in float64: parameters, teacher, centre and loss."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from vmflearn.sphere import log_normalizer
from vmflearn.ssl import DINOHead, LogitCentering, MultiCropNetwork, ProbabilityCentering, SinkhornKnopp, koleo_loss
from vmflearn.train import StepSettings, TrainingError, training_step
from vmflearn.train.config import load_config
from vmflearn.train.methods import DINO
from vmflearn.train.optimizer import make_optimizer
from vmflearn.train.per_step import step_settings

WIDTH, HIDDEN, BOTTLENECK = 5, 7, 6


class Backbone(nn.Module):
    """Mean over patches of a norm of a nonlinear embedding: as small as a network for several resolutions can be."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.3)  # three-dimensional: decayed, as a class token is
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, images):
        return self.norm(self.patch(images).flatten(2).mT.tanh() + self.token).mean(dim=1)


def make(normalization, out_dim, learn_magnitudes, centering=None, decay_magnitudes=True):
    torch.manual_seed(3)
    networks = []
    for _ in range(2):
        head = DINOHead(
            WIDTH,
            out_dim,
            normalization,
            hidden_dim=HIDDEN,
            bottleneck_dim=BOTTLENECK,
            learn_magnitudes=learn_magnitudes,
        )
        networks.append(MultiCropNetwork(Backbone(), head).double())
    student, teacher = networks
    for module in student.modules():  # biases and gains away from zero and one, so that their decay would show
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or (isinstance(module, nn.LayerNorm) and name == "weight"):
                nn.init.uniform_(parameter, 0.2, 1.5)
    with torch.no_grad():
        if learn_magnitudes:
            student.prototypes.weight_g.uniform_(0.5, 2.0)
        for linear in student.head.mlp:
            if isinstance(linear, nn.Linear):
                linear.weight.mul_(20)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    kind = LogitCentering if normalization != "vmf" else ProbabilityCentering
    centering = (centering or kind)(out_dim)
    return student, teacher, centering.double(), make_optimizer(student, decay_magnitudes=decay_magnitudes)


def make_crops(n_local, batch=4):
    sizes = [16, 16] + [8] * n_local
    return [torch.randn(batch, 3, size, size, dtype=torch.float64) for size in sizes]


class Longhand:
    """DINO's step on a dictionary of float64 tensors: every operation written out, gradients by autograd alone."""

    def __init__(self, student, normalization):
        self.normalization = normalization
        self.trained = {name for name, p in student.named_parameters() if p.requires_grad}
        self.student = {name: p.detach().clone() for name, p in student.named_parameters()}
        self.teacher = {name: p.clone() for name, p in self.student.items()}
        self.first = {name: torch.zeros_like(p) for name, p in self.student.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.student.items()}
        self.updates = dict.fromkeys(self.student, 0)
        self.center = torch.zeros(len(self.student["head.prototypes.weight_v"]), dtype=torch.float64)

    def unit(self, p, crop):
        """Bottleneck vectors of one crop."""
        n, _, side, _ = crop.shape
        patches = crop.reshape(n, 3, side // 4, 4, side // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 48)
        tokens = patches @ p["backbone.patch.weight"].reshape(WIDTH, 48).T + p["backbone.patch.bias"]
        tokens = torch.tanh(tokens) + p["backbone.token"]
        centred = tokens - tokens.mean(-1, keepdim=True)
        tokens = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        x = (tokens * p["backbone.norm.weight"] + p["backbone.norm.bias"]).mean(1)
        for layer in (0, 2, 4):
            x = x @ p[f"head.mlp.{layer}.weight"].T + p[f"head.mlp.{layer}.bias"]
            if layer < 4:
                x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        return x / torch.sqrt((x**2).sum(-1, keepdim=True))

    def logits(self, p, crop, tau):
        v, g = p["head.prototypes.weight_v"], p["head.prototypes.weight_g"]
        w = v / torch.sqrt((v**2).sum(-1, keepdim=True))
        if self.normalization != "l2":
            w = g * w
        z = self.unit(p, crop) @ w.T / tau
        if self.normalization == "vmf":
            z = z + log_normalizer(g[:, 0].abs() / tau, BOTTLENECK)
        return z

    def step(self, crops, s):
        p = {name: x.clone().requires_grad_(name in self.trained) for name, x in self.student.items()}
        with torch.no_grad():
            t = [self.logits(self.teacher, crop, s.teacher_temp) for crop in crops[:2]]
        terms = []
        for u in range(2):
            shift = self.center if self.normalization == "vmf" else self.center / s.teacher_temp
            q = torch.softmax(t[u] - shift, -1)
            for v, crop in enumerate(crops):
                if v != u:
                    log_p = torch.log_softmax(self.logits(p, crop, s.student_temp), -1)
                    terms.append(-(q * log_p).sum(-1).mean())
        loss = sum(terms) / len(terms)
        names = sorted(self.trained)
        grads = dict(zip(names, torch.autograd.grad(loss, [p[n] for n in names]), strict=True))
        for name, g in grads.items():
            if s.clip_grad:
                norm = math.sqrt(float((g**2).sum()))
                g = g * min(1.0, s.clip_grad / (norm + 1e-6))
            if s.freeze_prototypes and "prototypes" in name:
                continue
            self.updates[name] += 1
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g**2
            m = self.first[name] / (1 - 0.9 ** self.updates[name])
            v = self.second[name] / (1 - 0.999 ** self.updates[name])
            decays = not (name.endswith(".bias") or self.student[name].ndim == 1)
            x = self.student[name] * (1 - s.lr * s.weight_decay * decays)
            self.student[name] = x - s.lr * m / (v.sqrt() + 1e-8)
        for name, x in self.student.items():
            self.teacher[name] = s.momentum * self.teacher[name] + (1 - s.momentum) * x
        z = torch.cat(t)
        responsibilities = torch.softmax(z, -1).mean(0).clamp_min(torch.finfo(torch.float32).tiny)
        batch = responsibilities.log() if self.normalization == "vmf" else (s.teacher_temp * z).mean(0)
        self.center = 0.9 * self.center + 0.1 * batch
        return float(loss.detach())


@pytest.mark.parametrize(
    ("normalization", "learn_magnitudes"), [("none", True), ("none", False), ("l2", False), ("vmf", True)]
)
@pytest.mark.parametrize(
    ("n_local", "out_dim", "student_temp", "teacher_temp", "parts"),
    [(0, 2, 0.1, 0.04, 1), (3, 9, 0.1, 0.07, 1), (3, 9, 0.1, 0.07, 2), (6, 33, 0.2, 0.02, 4)],
)
def test_steps_equal_the_longhand(normalization, learn_magnitudes, n_local, out_dim, student_temp, teacher_temp, parts):
    student, teacher, centering, optimizer = make(normalization, out_dim, learn_magnitudes)
    longhand = Longhand(student, normalization)
    for step in range(4):
        crops = make_crops(n_local)
        settings = StepSettings(
            lr=1e-2 * (step + 1),
            weight_decay=0.04 + 0.1 * step,
            momentum=0.9 + 0.02 * step,
            student_temp=student_temp,
            teacher_temp=teacher_temp,
            clip_grad=0.05,
            freeze_prototypes=step < 2,
            accumulation=parts,
        )
        result = training_step(DINO(student, teacher, centering), optimizer, crops, settings)
        assert result.loss == pytest.approx(longhand.step(crops, settings), rel=1e-10, abs=1e-14)
        for network, expected in ((student, longhand.student), (teacher, longhand.teacher)):
            for name, parameter in network.named_parameters():
                torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-10, atol=1e-10, msg=name)
        torch.testing.assert_close(centering.center, longhand.center, rtol=1e-10, atol=1e-10)
    # and everything did move
    magnitudes = student.prototypes.weight_g.detach()
    assert bool((magnitudes != teacher.prototypes.weight_g).any()) == learn_magnitudes


def settings(**changed):
    plain = {"lr": 1e-2, "weight_decay": 0.4, "momentum": 0.9, "student_temp": 0.1, "teacher_temp": 0.05}
    return StepSettings(**{**plain, **changed})


def test_magnitudes_that_do_not_decay_keep_their_length():
    """With its gradient forgotten by a zero learning rate nothing moves; with decay alone kappa shrinks by lr x wd."""
    moved = {}
    for decays in (True, False):
        student, teacher, centering, optimizer = make("vmf", 9, True, decay_magnitudes=decays)
        before = student.prototypes.weight_g.detach().clone()
        training_step(DINO(student, teacher, centering), optimizer, make_crops(1), settings())
        moved[decays] = student.prototypes.weight_g.detach() / before
    # AdamW's step is the same in both; the decay factor 1 - lr wd is the difference
    torch.testing.assert_close(moved[False] - moved[True], torch.full((9, 1), 1e-2 * 0.4, dtype=torch.float64))


def test_the_centre_can_leave_the_normaliser_out():
    """Eq. 9 as printed averages softmax(<w, y>/tau)."""
    student, teacher, centering, optimizer = make("vmf", 9, True)
    crops = make_crops(1)
    tau = 0.05
    with torch.no_grad():
        _, y = teacher.embed(crops[:2])
        p = teacher.prototypes
        z = y.flatten(0, 1) @ (p.weight_g * p.weight_v / p.weight_v.norm(dim=1, keepdim=True)).T / tau
    training_step(DINO(student, teacher, centering), optimizer, crops, settings(center_normalizer=False))
    torch.testing.assert_close(centering.center, 0.1 * z.softmax(-1).mean(0).log())


@pytest.mark.parametrize("parts", [1, 2])
def test_koleo_pulls_duplicates_apart_and_is_reported(parts):
    student, teacher, centering, optimizer = make("vmf", 9, True)
    with torch.no_grad():
        student.prototypes.weight_v[1] = student.prototypes.weight_v[0] + 0.01
    before = float(koleo_loss(student.prototypes.directions.detach()))
    result = training_step(
        DINO(student, teacher, centering), optimizer, make_crops(1), settings(koleo=10.0, accumulation=parts)
    )
    assert float(result.koleo) == pytest.approx(before)
    assert float(koleo_loss(student.prototypes.directions.detach())) < before - 0.1


def test_sinkhorn_gives_targets_that_use_all_components():
    student, teacher, centering, optimizer = make("l2", 9, False, SinkhornKnopp)
    result = training_step(DINO(student, teacher, centering), optimizer, make_crops(1, batch=18), settings())
    share = result.targets.flatten(0, 1).mean(0)
    assert float((share - 1 / 9).abs().max()) < 0.02


@pytest.mark.parametrize("kind", [ProbabilityCentering, SinkhornKnopp])
def test_parts_with_koleo_and_any_centring_take_the_step_of_the_whole_batch(kind):
    """Targets are those of the batch: made part by part, Sinkhorn's would differ by far more than rounding."""
    crops, ends = make_crops(2, batch=6), []
    for parts in (1, 2, 3, 6):
        student, teacher, centering, optimizer = make("vmf", 9, True, kind)
        chosen = settings(koleo=0.1, accumulation=parts, clip_grad=0.05)
        losses = [training_step(DINO(student, teacher, centering), optimizer, crops, chosen).loss for _ in range(3)]
        state = {**student.state_dict(), **{f"teacher.{k}": v for k, v in teacher.state_dict().items()}}
        ends.append((losses, {**state, **centering.state_dict()}))
    for losses, state in ends[1:]:
        assert losses == pytest.approx(ends[0][0], rel=1e-12)
        for name, value in state.items():
            torch.testing.assert_close(value, ends[0][1][name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("parts", [0, 3, 8])
def test_images_that_do_not_divide_are_refused(parts):
    student, teacher, centering, optimizer = make("vmf", 9, True)
    with pytest.raises(ValueError, match=f"accumulation={parts} does not divide 4 images"):
        training_step(DINO(student, teacher, centering), optimizer, make_crops(1), settings(accumulation=parts))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_not_finite_names_the_image_and_changes_nothing(parts):
    student, teacher, centering, optimizer = make("none", 9, True)
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in (student, teacher, centering)]
    crops = make_crops(2)
    crops[3][2, 0, 0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"loss is nan .*student_features of image 2 of the batch"):
        training_step(DINO(student, teacher, centering), optimizer, crops, settings(accumulation=parts))
    for part, saved in zip((student, teacher, centering), before, strict=True):
        for name, value in part.state_dict().items():
            assert torch.equal(value, saved[name])
    assert not optimizer.state


def test_a_batch_of_one_takes_a_step():
    student, teacher, centering, optimizer = make("vmf", 9, True)
    result = training_step(DINO(student, teacher, centering), optimizer, make_crops(2, batch=1), settings())
    assert math.isfinite(result.loss)
    assert all(bool(p.isfinite().all()) for p in student.parameters())


def test_one_crop_is_refused():
    student, teacher, centering, optimizer = make("vmf", 9, True)
    with pytest.raises(ValueError, match="crops"):
        training_step(DINO(student, teacher, centering), optimizer, make_crops(0)[:1], settings())


def test_schedules_equal_dinos_arrays_at_every_step():
    config = load_config(
        None,
        [
            "run.epochs=7",
            "optimizer.warmup_epochs=3",
            "teacher.temp_warmup_epochs=4",
            "optimizer.batch_size=512",
            "optimizer.freeze_last_layer_epochs=2",
        ],
    )
    n, total = 5, 35

    def cosine_array(start, end, warmup):
        rest = np.arange(total - warmup)
        cosines = end + 0.5 * (start - end) * (1 + np.cos(np.pi * rest / len(rest)))
        return np.concatenate([np.linspace(0, start, warmup), cosines])

    rates, decays = cosine_array(5e-4 * 2, 1e-5, 15), cosine_array(0.04, 0.4, 0)
    momenta = cosine_array(0.996, 1, 0)
    temperatures = np.concatenate([np.linspace(0.04, 0.07, 4), np.full(3, 0.07)])
    for step in range(total):
        found = step_settings(config, step, n)
        assert found.lr == pytest.approx(rates[step], rel=1e-12, abs=1e-18)
        assert found.weight_decay == pytest.approx(decays[step], rel=1e-12)
        assert found.momentum == pytest.approx(momenta[step], rel=1e-12)
        assert found.teacher_temp == pytest.approx(temperatures[step // n], rel=1e-12)
        assert found.freeze_prototypes == (step < 2 * n)
