"""Real training of small networks, healthy and with injected collapses; each must be named within 50 steps."""

import copy
import math

import pytest
import torch
from torch import nn

from vmflearn.ssl import DINOHead, LogitCentering, Monitor, MultiCropNetwork, ProbabilityCentering, dino_loss
from vmflearn.ssl.collapse import locate_not_finite

STEPS, EVERY = 50, 10
COLLAPSING = {"centering": "none", "teacher_temp": 0.02, "momentum": 0.9, "lr": 3e-3, "normalization": "l2"}
COLLAPSING |= {"contrast": 0.2}
CENTERINGS = {"logit": LogitCentering, "probability": ProbabilityCentering}


class NoCentering(LogitCentering):
    """The centre stays at zero: the known way into a constant output."""

    def update(self, logits, temperature):
        pass


def backbone(kind):
    if kind == "mlp":
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 64), nn.GELU(), nn.Linear(64, 32), nn.LayerNorm(32))
        return net
    timm = pytest.importorskip("timm")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **options)


def train(
    *,
    out_dim=64,
    batch=16,
    normalization="vmf",
    centering="probability",
    teacher_temp=0.04,
    lr=1e-3,
    momentum=0.99,
    shared=False,
    spoil=None,
    contrast=1.0,
    kind="mlp",
    steps=STEPS,
    seed=0,
):
    """Train as the trainer does, and return the monitor with what it measured and named on the way."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    size = 8 if kind == "mlp" else 32
    width = 32 if kind == "mlp" else 64
    head = DINOHead(width, out_dim, normalization, hidden_dim=64, bottleneck_dim=32 if out_dim < 1000 else 64)
    student = MultiCropNetwork(backbone(kind), head)
    teacher = student if shared else copy.deepcopy(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr)
    center = (CENTERINGS | {"none": NoCentering})[centering](out_dim)
    monitor, history = Monitor(out_dim, window=512), []
    places = torch.randn(8, 3, size, size, generator=generator)  # eight kinds of images
    common = torch.randn(3, size, size, generator=generator)
    for step in range(1, steps + 1):
        kinds = torch.arange(batch) % 8
        images = places[kinds] + 0.3 * torch.randn(batch, 3, size, size, generator=generator)
        crops = [common + contrast * (images + 0.3 * torch.randn(images.shape, generator=generator)) for _ in range(4)]
        if spoil is not None:
            spoil(step, crops)
        with torch.no_grad():
            features = teacher.features(crops[:2])
            teacher_y = teacher.head.bottleneck(features)
            logits = teacher.head.prototypes(teacher_y, teacher_temp)
        targets = center.probabilities(logits, teacher_temp)
        loss = dino_loss(student(crops, 0.1), targets)
        finite = bool(loss.isfinite())
        if finite:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not shared:
                with torch.no_grad():
                    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                        t.lerp_(s, 1 - momentum)
            center.update(logits, teacher_temp)
        monitor.count(targets)
        if step % EVERY == 0 or step == 1 or not finite:
            metrics = monitor.observe(
                step=step,
                loss=float(loss.detach()),
                targets=targets,
                features=features,
                teacher_y=teacher_y,
                student=student,
                teacher=teacher,
                student_temp=0.1,
                teacher_temp=teacher_temp,
            )
            history.append((step, metrics, [str(f) for f in monitor.findings()], monitor.state_dict()))
        if not finite:
            break
    return monitor, history


def names(history):
    """Every name that was ever given, in order of the first time."""
    return list(dict.fromkeys(text.partition(":")[0] for _, _, found, _ in history for text in found))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_centering_is_named_constant_output(seed):
    """On images that differ little all end in one component; on easy ones in two or three, which is not constant."""
    _, history = train(**COLLAPSING, seed=seed)
    assert names(history) == ["constant output"]


def test_centering_alone_is_named_uniform_output():
    _, history = train(centering="logit", teacher_temp=0.5, momentum=0.8, lr=3e-3, steps=STEPS)
    assert "uniform output" in names(history)
    assert set(names(history)) <= {"uniform output", "temperature too high"}
    assert history[-1][2][0].startswith("uniform output")


def test_temperature_too_high():
    _, history = train(centering="logit", teacher_temp=0.5, lr=1e-5)
    assert names(history) == ["temperature too high"]


def test_shared_student():
    _, history = train(shared=True)
    assert names(history)[0] == "student is teacher"
    assert history[0][2] != []  # at the first look


def test_momentum_zero_copies_the_student():
    _, history = train(momentum=0.0)
    assert "student is teacher" in names(history)


def test_nan_in_one_image():
    def spoil(step, crops):
        if step == 7:
            crops[1][5, 0, 2, 2] = math.nan

    _, history = train(spoil=spoil)
    step, metrics, found, _ = history[-1]
    assert step == 7
    assert metrics == {}
    assert len(found) == 1
    assert found[0].startswith("not a number")
    assert "features of image 5 " in found[0]


@pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])
@pytest.mark.parametrize("centering", ["logit", "probability"])
def test_healthy_cells(normalization, centering):
    _, history = train(normalization=normalization, centering=centering)
    assert names(history) == []
    assert history[-1][1]["teacher_information"] > 0.1


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("contrast", [0.05, 0.2])
def test_healthy_when_images_differ_little(contrast, seed):
    """The variance dips by two orders, and comes back after hundreds of steps: no alarm on the way."""
    assert names(train(contrast=contrast, seed=seed, steps=100)[1]) == []


@pytest.mark.parametrize(("centering", "lr"), [("logit", 1e-5), ("probability", 1e-3)])
@pytest.mark.slow
def test_healthy_at_65536_components_from_the_first_step(centering, lr):
    _, history = train(out_dim=65536, batch=8, centering=centering, lr=lr, momentum=0.996, kind="vit")
    assert history[0][1]["loss_to_ln_k"] == pytest.approx(1, abs=0.3)  # what looks like collapse
    assert history[0][1]["teacher_information"] < 0.5
    assert names(history) == []


def test_locate_without_anything_wrong():
    assert locate_not_finite(loss=torch.tensor(1.0), features=torch.zeros(2, 4, 3)) is None


@pytest.mark.parametrize("batch", [1, 3])
def test_few_images_say_nothing(batch):
    """The same collapse as above, with too few images to tell."""
    _, history = train(**COLLAPSING | {"batch": batch})
    assert names(history) == []


def test_state_goes_on_with_the_same_numbers(tmp_path):
    _, history = train(**COLLAPSING)
    whole = Monitor(64, window=512)
    torch.save(history[-1][3], tmp_path / "state.pt")
    whole.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [str(f) for f in whole.findings()] == history[-1][2] != []
    with pytest.raises(ValueError, match="out_dim"):
        Monitor(65).load_state_dict(history[-1][3])


def test_component_use_over_the_window():
    monitor, net = Monitor(4, window=6), nn.Linear(2, 2)
    other = copy.deepcopy(net)

    def use(winner, n):
        monitor.count(torch.eye(4)[torch.full((2, n), winner)])

    def share():
        rows = torch.randn(2, 2, 3)
        return monitor.observe(
            step=1,
            loss=1.0,
            targets=torch.full((2, 2, 4), 0.25),
            features=rows,
            teacher_y=rows,
            student=net,
            teacher=other,
            student_temp=0.1,
            teacher_temp=0.04,
        )["components_used"]

    use(0, 1)
    use(1, 2)
    assert share() == 0.5
    use(2, 1)  # eight views so far: component 0's two are out of the last six
    assert share() == 0.5
    use(2, 1)
    use(2, 1)
    assert share() == 0.25


@pytest.mark.parametrize(("arguments", "name"), [({"out_dim": 1}, "out_dim"), ({"out_dim": 2, "window": 0}, "window")])
def test_bad_sizes(arguments, name):
    with pytest.raises(ValueError, match=name):
        Monitor(**arguments)
