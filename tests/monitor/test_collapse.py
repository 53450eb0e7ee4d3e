"""Real training of small networks, healthy and with injected collapses; each must be named within 50 steps."""

import copy
import math

import pytest
import torch
from torch import nn

from vmflearn.monitor.collapse import locate_not_finite
from vmflearn.ssl import DINOHead, LogitCentering, Monitor, MultiCropNetwork, ProbabilityCentering, dino_loss

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
    teacher_lags=True,
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
    monitor, history = Monitor(out_dim, window=512, teacher_lags=teacher_lags), []
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


def test_a_teacher_that_is_meant_to_be_a_copy_is_no_finding():
    _, history = train(momentum=0.0, teacher_lags=False)
    assert "student is teacher" not in names(history)
    _, history = train(shared=True, teacher_lags=False)
    assert names(history)[0] == "student is teacher"


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


def look(monitor, student, teacher, rows, step=1, patches=None):
    """What a monitor observes of rows (2, images, dim) with uniform targets over four components."""
    return monitor.observe(
        step=step,
        loss=1.0,
        targets=torch.full((*rows.shape[:2], 4), 0.25),
        features=rows,
        teacher_y=rows,
        student=student,
        teacher=teacher,
        student_temp=0.1,
        teacher_temp=0.04,
        patches=patches,
    )


def test_component_use_over_the_window():
    monitor, net = Monitor(4, window=6), nn.Linear(2, 2)
    other = copy.deepcopy(net)

    def use(winner, n):
        monitor.count(torch.eye(4)[torch.full((2, n), winner)])

    def share():
        return look(monitor, net, other, torch.randn(2, 2, 3))["components_used"]

    use(0, 1)
    use(1, 2)
    assert share() == 0.5
    use(2, 1)  # eight views so far: component 0's two are out of the last six
    assert share() == 0.5
    use(2, 1)
    use(2, 1)
    assert share() == 0.25


LN_K = math.log(100)
SEEN = {
    "step": 21.0,
    "images": 64.0,
    "shared": 0.0,
    "ema_distance": 0.1,
    "student_temp": 0.1,
    "teacher_temp": 0.04,
    "teacher_entropy": 0.5 * LN_K,
    "teacher_information": 1.0,
    "teacher_y_variance": 0.5,
    "loss_to_ln_k": 0.9,
    "kl": 0.5,
    "void_prototypes": 0.0,
}


def judged(*recent, first_variance=0.5, images=512, window=512):
    """What a monitor names after observations that differ from a healthy one as given."""
    monitor = Monitor(100, window=window)
    seen = [SEEN | {"fingerprint": float(i)} | changes for i, changes in enumerate(recent)]
    first = SEEN | {"step": 1.0, "teacher_y_variance": first_variance}
    last_win = torch.full((100,), -1)
    monitor.load_state_dict({"images": images, "last_win": last_win, "first": first, "recent": seen})
    return [finding.name for finding in monitor.findings()]


HOT = {"teacher_temp": 0.1}
CONSTANT = {"teacher_information": 0.0}


def at(share, **more):
    """An observation with that share of the largest entropy."""
    return {"teacher_entropy": share * LN_K, **more}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, None),
        ({"teacher_information": 0.0499 * 0.5 * LN_K}, "constant output"),  # 5 % of ln K - H
        ({"teacher_information": 0.0501 * 0.5 * LN_K}, None),
        ({"teacher_information": 0.0499 * math.log(4), "images": 4.0}, "constant output"),  # 5 % of ln images
        ({"teacher_information": 0.0501 * math.log(4), "images": 4.0}, None),
        ({"teacher_information": 0.0, "images": 3.0}, None),
        (at(0.749, **CONSTANT), "constant output"),
        (at(0.751, **CONSTANT), None),
        (at(0.751, **CONSTANT, teacher_y_variance=1e-7), "constant output"),
        (at(0.969, **CONSTANT, teacher_y_variance=1e-7), "constant output"),
        (at(0.971, **CONSTANT, teacher_y_variance=1e-7), "uniform output"),
        (at(0.971, teacher_y_variance=0.49e-6), "uniform output"),  # a millionth of the first
        (at(0.971, teacher_y_variance=0.51e-6), None),
        (
            at(0.971, teacher_y_variance=0.0049, **HOT),
            "uniform output",
        ),  # a hundredth, beside a hot teacher
        (at(0.971, teacher_y_variance=0.0051, **HOT), "temperature too high"),
        (at(0.971, teacher_y_variance=0.0051), None),
        (at(0.969, teacher_y_variance=0.5, **HOT), None),
        ({"ema_distance": 0.0}, "student is teacher"),
        ({"ema_distance": 0.0, "fingerprint": 1.0}, None),  # nothing moves
        ({"shared": 1.0}, "student is teacher"),
        ({"void_prototypes": 0.1}, "void prototypes"),
        ({"void_prototypes": 0.099}, None),
    ],
)
def test_either_side_of_every_threshold(changes, name):
    assert judged(changes, changes, changes) == ([] if name is None else [name])


PATCH_LN_K = math.log(50)
PATCHES = {
    "patch_images": 40.0,
    "patch_teacher_temp": 0.04,
    "patch_components": 50.0,
    "patch_step": 1.0,
    "patch_teacher_entropy": 0.5 * PATCH_LN_K,
    "patch_teacher_information": 1.0,
    "patch_teacher_y_variance": 0.5,
}


def patches(**changes):
    return PATCHES | {f"patch_{name}": value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, None),
        ({"teacher_information": 0.0499 * 0.5 * PATCH_LN_K}, "constant output of patches"),
        ({"teacher_information": 0.0501 * 0.5 * PATCH_LN_K}, None),
        ({"teacher_information": 0.0, "images": 3.0}, None),
        ({"teacher_entropy": 0.971 * PATCH_LN_K, "teacher_y_variance": 0.49e-6}, "uniform output of patches"),
        ({"teacher_entropy": 0.971 * PATCH_LN_K, "teacher_temp": 0.1}, "temperature too high of patches"),
        ({"teacher_entropy": 0.971 * PATCH_LN_K}, None),
    ],
)
def test_patches_are_judged_by_the_same_thresholds(changes, name):
    seen = patches(**changes)
    monitor = Monitor(100)
    recent = [SEEN | {"fingerprint": float(i)} | seen for i in range(3)]
    first = SEEN | {"step": 1.0} | PATCHES
    monitor.load_state_dict({"images": 512, "last_win": torch.full((100,), -1), "first": first, "recent": recent})
    assert [finding.name for finding in monitor.findings()] == ([] if name is None else [name])
    late = first | {"patch_step": 2.0}  # the first mask came later: 19 steps since
    monitor.load_state_dict({"images": 512, "last_win": torch.full((100,), -1), "first": late, "recent": recent})
    assert monitor.findings() == []
    # a step without masks in between says nothing
    recent[1] = SEEN | {"fingerprint": 1.0}
    monitor.load_state_dict({"images": 512, "last_win": torch.full((100,), -1), "first": first, "recent": recent})
    assert monitor.findings() == []


def test_the_first_patches_are_remembered_when_they_come():
    monitor, net = Monitor(4), nn.Linear(2, 2)
    other, rows = copy.deepcopy(net), torch.randn(2, 5, 3)

    def observe(step, patches):
        return look(monitor, net, other, rows, step, patches)

    assert "patch_teacher_entropy" not in observe(1, None)
    assert "patch_teacher_entropy" not in observe(2, (torch.zeros(0, 3), torch.zeros(0, 2), 0.05))
    metrics = observe(3, (torch.eye(3), torch.randn(3, 2), 0.05))
    assert metrics["patch_teacher_entropy"] == 0
    assert metrics["patch_teacher_information"] == pytest.approx(math.log(3))
    observe(4, (torch.eye(3), torch.randn(3, 2), 0.05))
    first = monitor.state_dict()["first"]
    assert (first["step"], first["patch_step"], first["patch_components"]) == (1, 3, 3)
    assert first["patch_teacher_y_variance"] == metrics["patch_teacher_y_variance"]


def test_a_variance_of_rounding_is_gone_whatever_it_was():
    for variance, expected in ((0.9e-12, ["uniform output"]), (1.1e-12, [])):
        assert judged(*[at(0.98, teacher_y_variance=variance)] * 3, first_variance=1e-9) == expected


def test_patience_and_settling():
    assert judged(CONSTANT, CONSTANT, CONSTANT) == ["constant output"]
    assert judged(CONSTANT, CONSTANT) == []
    assert judged({}, CONSTANT, CONSTANT) == []
    assert judged(*[CONSTANT | {"step": 20.0}] * 3) == []
    for rise, expected in ((0.0099, ["constant output"]), (0.0101, [])):  # while the centre catches up
        assert judged(*[at(0.5 + share, **CONSTANT) for share in (0, rise / 2, rise)]) == expected


def test_void_prototypes_are_named_over_a_whole_window():
    void = {"void_prototypes": 0.2}
    assert judged(void, void, void) == ["void prototypes"]
    assert judged(void, {}, void) == []
    assert judged(void, void, void, images=511) == []


@pytest.mark.parametrize(("arguments", "name"), [({"out_dim": 1}, "out_dim"), ({"out_dim": 2, "window": 0}, "window")])
def test_bad_sizes(arguments, name):
    with pytest.raises(ValueError, match=name):
        Monitor(**arguments)
