import subprocess
import sys

import numpy as np
import pytest
import torch

from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.losses import dino_loss

BOTH = pytest.mark.parametrize("centering", [LogitCentering, ProbabilityCentering])


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def random_logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_logit_centering_over_several_steps():
    centering = LogitCentering(6, momentum=0.8).double()
    c = np.zeros(6)
    for step, tau in enumerate([0.04, 0.05, 0.06, 0.07]):
        z = random_logits(2, 5, 6, seed=step)  # two views of five images
        probs = centering.probabilities(z, tau)
        np.testing.assert_allclose(probs.numpy(), softmax(z.numpy() - c / tau), rtol=1e-11)
        centering.update(z, tau)
        c = 0.8 * c + 0.2 * (tau * z.numpy()).reshape(10, 6).mean(axis=0)
        np.testing.assert_allclose(centering.center.numpy(), c, rtol=1e-12)


def test_probability_centering_over_several_steps():
    centering = ProbabilityCentering(6, momentum=0.8).double()
    c = np.zeros(6)
    for step, tau in enumerate([0.04, 0.05, 0.06, 0.07]):
        z = random_logits(2, 5, 6, seed=step)
        probs = centering.probabilities(z, tau)
        np.testing.assert_allclose(probs.numpy(), softmax(z.numpy() - c), rtol=1e-11)
        centering.update(z, tau)
        c = 0.8 * c + 0.2 * np.log(softmax(z.numpy()).reshape(10, 6).mean(axis=0))
        np.testing.assert_allclose(centering.center.numpy(), c, rtol=1e-12)


def test_a_scheduled_temperature_leaves_the_logit_centre_as_it_was():
    w_y = random_logits(8, 5)  # <w, y>, the same at every step
    centering = LogitCentering(5, momentum=0.5).double()
    for tau in torch.linspace(0.04, 0.07, 40).tolist():
        centering.update(w_y / tau, tau)
    torch.testing.assert_close(centering.center, w_y.mean(dim=0))


def test_none_and_logit_is_dino():
    """Five steps of DINO written out: <w, y>, loss per pair, centre, with the teacher's temperature on its schedule."""
    torch.manual_seed(0)
    dim, out_dim, batch, n_crops, student_temp = 8, 16, 3, 5, 0.1
    student, teacher = (DINOHead(dim, out_dim, "none", hidden_dim=12, bottleneck_dim=6).double() for _ in range(2))
    for head in (student, teacher):  # magnitudes that have moved from one, directions that spread
        torch.nn.init.uniform_(head.prototypes.weight_g, 0.5, 2.0)
        for parameter in head.mlp.parameters():
            torch.nn.init.normal_(parameter)
    centering = LogitCentering(out_dim, momentum=0.9).double()

    def score(head, features):
        y = head.mlp(features)
        y = y / (y**2).sum(dim=-1, keepdim=True).sqrt()
        v, g = head.prototypes.weight_v, head.prototypes.weight_g
        return y @ (g * v / (v**2).sum(dim=1, keepdim=True).sqrt()).T

    center = torch.zeros(1, out_dim, dtype=torch.float64)
    for teacher_temp in np.linspace(0.04, 0.07, 5):
        crops = torch.randn(n_crops, batch, dim, dtype=torch.float64)
        with torch.no_grad():
            teacher_logits = teacher(crops[:2], teacher_temp)
            targets = centering.probabilities(teacher_logits, teacher_temp)
        loss = dino_loss(student(crops, student_temp), targets)
        centering.update(teacher_logits, teacher_temp)

        outputs_s = [score(student, crop) / student_temp for crop in crops]
        outputs_t = [score(teacher, crop).detach() for crop in crops[:2]]
        expected, n_pairs = 0.0, 0
        for iq, output in enumerate(outputs_t):
            q = torch.softmax((output - center) / teacher_temp, dim=-1)
            for v, other in enumerate(outputs_s):
                if v == iq:
                    continue
                expected = expected + torch.sum(-q * torch.log_softmax(other, dim=-1), dim=-1).mean()
                n_pairs += 1
        expected = expected / n_pairs
        center = center * 0.9 + torch.cat(outputs_t).mean(dim=0, keepdim=True) * 0.1

        assert abs(loss.item() - expected.item()) < 1e-10
        assert (centering.center - center).abs().max() < 1e-10
        ours = torch.autograd.grad(loss, list(student.parameters()))
        theirs = torch.autograd.grad(expected, list(student.parameters()))
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).abs().max() < 1e-10


def test_rich_gets_poorer():
    """Once the centre has settled, a component that took nearly every image has to share."""
    z = random_logits(64, 4, scale=1.0)
    z[:, 0] += 4.0
    centering = ProbabilityCentering(4).double()
    before = centering.probabilities(z, 0.1).mean(dim=0)
    for _ in range(200):
        centering.update(z, 0.1)
    after = centering.probabilities(z, 0.1)
    assert before[0] > 0.85
    assert after.mean(dim=0)[0] < 0.45
    # At the fixed point exp(c) is the mean responsibility: before rows are normalised, all columns weigh the same.
    r = softmax(z.numpy())
    np.testing.assert_allclose(centering.center.exp().numpy(), r.mean(axis=0), rtol=1e-8)
    balanced = r / r.mean(axis=0)
    np.testing.assert_allclose(after.numpy(), balanced / balanced.sum(axis=1, keepdims=True), rtol=1e-8)


def test_65536_components_at_temperature_004():
    """Prototypes of length one give cosines / 0.04; responsibilities down to 1e-20 times the largest."""
    generator = torch.Generator().manual_seed(0)
    z = (2 * torch.rand(4, 65_536, generator=generator) - 1) / 0.04
    centering = ProbabilityCentering(65_536)
    for _ in range(3):
        probs = centering.probabilities(z, 0.04)
        centering.update(z, 0.04)
    log_r = z.double().numpy() - np.log(np.exp(z.double().numpy()).sum(axis=-1, keepdims=True))
    expected = (1 - 0.9**3) * np.log(np.exp(log_r).mean(axis=0))
    np.testing.assert_allclose(centering.center.numpy(), expected, rtol=2e-6)
    assert probs.isfinite().all()
    torch.testing.assert_close(probs.sum(dim=-1), torch.ones(4), rtol=1e-5, atol=0)


def test_the_log_domain_holds_what_float32_probabilities_lose():
    z = torch.tensor([[0.0, -80.0], [0.0, -86.0]])
    centering = ProbabilityCentering(2, momentum=0.0)
    centering.update(z + 1e3, 1.0)
    assert centering.center[1].item() == pytest.approx(np.log((np.exp(-80.0) + np.exp(-86.0)) / 2), rel=1e-6)


@pytest.mark.parametrize("lost", [-200.0, -1e4, -torch.inf])
def test_a_component_that_no_image_reaches_keeps_a_finite_centre(lost):
    z = torch.zeros(3, 4)
    z[:, 2] = lost
    centering = ProbabilityCentering(4)
    for _ in range(500):
        centering.update(z, 0.04)
    assert centering.center[2].item() == pytest.approx(-126 * np.log(2), rel=1e-6)  # smallest normal float32
    probs = centering.probabilities(z, 0.04)
    assert probs.isfinite().all()
    assert probs[:, 2].max() < 1e-30  # still out of reach
    z[0, 2] = 0.0  # an image arrives: the component gets all of it, and no other image
    probs = centering.probabilities(z, 0.04)
    assert probs[0, 2] > 0.99
    assert probs[1:, 2].max() < 1e-30


@BOTH
def test_state_is_saved(centering):
    first, second = centering(5), centering(5)
    first.update(random_logits(7, 5), 0.05)
    assert list(first.state_dict()) == ["center"]
    second.load_state_dict(first.state_dict())
    assert second.center.abs().max() > 0
    assert torch.equal(second.center, first.center)
    assert list(first.parameters()) == []


@BOTH
def test_dtypes(centering):
    module = centering(5)
    z = random_logits(7, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probs = module.probabilities(z.bfloat16(), 0.05)
        module.update(z.bfloat16(), 0.05)
    assert probs.dtype == module.center.dtype == torch.float32
    assert module.probabilities(z, 0.05).dtype == torch.float64
    module.update(z, 0.05)
    assert module.center.dtype == torch.float32


@BOTH
def test_update_records_no_graph(centering):
    module = centering(5)
    module.update(random_logits(7, 5).requires_grad_(), 0.05)
    assert not module.center.requires_grad


@BOTH
def test_bad_input_is_named(centering):
    for out_dim in (0, 1):
        with pytest.raises(ValueError, match=rf"out_dim.* must be at least 2, got {out_dim}"):
            centering(out_dim)
    for momentum in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"momentum must lie between 0 and 1, got {momentum}"):
            centering(5, momentum)
    module = centering(5)
    for call in (module.probabilities, module.update):
        for shape in ((7, 4), (0, 5), ()):
            with pytest.raises(ValueError, match=r"logits must have shape \(\.\.\., 5\)"):
                call(torch.zeros(shape), 0.05)
        for temperature in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"temperature must be .*got {temperature}"):
                call(torch.zeros(7, 5), temperature)
    assert torch.equal(module.center, torch.zeros(5))


PROCESS = """
import sys, torch
import torch.distributed as dist
from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
rows = torch.load(f"{folder}/rows.pt")
for centering in (LogitCentering(5).double(), ProbabilityCentering(5).double()):
    centering.update(rows[rank::2], 0.05)
    torch.save(centering.center, f"{folder}/{type(centering).__name__}{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_move_the_centre_as_one(tmp_path):
    rows = random_logits(8, 5)
    torch.save(rows, tmp_path / "rows.pt")
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for centering in (LogitCentering(5).double(), ProbabilityCentering(5).double()):
        centering.update(rows, 0.05)
        for rank in range(2):
            center = torch.load(tmp_path / f"{type(centering).__name__}{rank}.pt")
            torch.testing.assert_close(center, centering.center, rtol=1e-12, atol=1e-14)


@BOTH
def test_before_any_batch_the_centre_is_zero(centering):
    z = random_logits(1, 5)  # a batch of one
    np.testing.assert_allclose(centering(5).double().probabilities(z, 0.05).numpy(), softmax(z.numpy()), rtol=1e-12)
