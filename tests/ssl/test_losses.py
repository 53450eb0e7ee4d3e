import mpmath
import pytest
import torch

from vmflearn.ssl.losses import dino_loss


def longhand(student_logits, teacher_probs):
    """The definition: one cross-entropy for every pair of a teacher view and another crop."""
    total, n_pairs = 0.0, 0
    for u, q in enumerate(teacher_probs):
        for v, s in enumerate(student_logits):
            if u != v:
                p = s.exp() / s.exp().sum(dim=-1, keepdim=True)
                total = total - (q * p.log()).sum(dim=-1).mean()
                n_pairs += 1
    return total / n_pairs


def problem(n_crops, batch=3, out_dim=7, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n_crops, batch, out_dim, generator=generator, dtype=torch.float64)
    probs = torch.softmax(scale * torch.randn(2, batch, out_dim, generator=generator, dtype=torch.float64), dim=-1)
    return logits, probs


@pytest.mark.parametrize("n_crops", [2, 3, 8, 12])
@pytest.mark.parametrize("batch", [1, 5])
def test_loss_and_gradient_equal_the_loop_over_pairs(n_crops, batch):
    logits, probs = problem(n_crops, batch, seed=n_crops)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = dino_loss(ours, probs), longhand(theirs, probs)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


def test_ten_crops_make_eighteen_pairs():
    # Crop 0 alone is uninformed; it meets one teacher view, in 1 of 18 pairs. The others predict their target exactly.
    logits = torch.full((10, 1, 4), 0.0, dtype=torch.float64)
    logits[1:, :, 2] = 800.0
    probs = torch.zeros(2, 1, 4, dtype=torch.float64)
    probs[:, :, 2] = 1.0
    torch.testing.assert_close(dino_loss(logits, probs).item(), torch.tensor(4.0).double().log().item() / 18)


def test_uniform_output_costs_log_k():
    out_dim = 65_536
    loss = dino_loss(torch.zeros(4, 2, out_dim), torch.full((2, 2, out_dim), 1 / out_dim))
    assert loss.item() == pytest.approx(11.0904, abs=1e-4)


def exact(logits, probs):
    """The definition in 40 digits, of the very numbers in the tensors (targets that sum to one only to rounding)."""
    n_crops, batch, _ = logits.shape
    total = mpmath.mpf(0)
    with mpmath.workdps(40):
        for v in range(n_crops):
            for b in range(batch):
                s = [mpmath.mpf(x) for x in logits[v, b].tolist()]
                log_sum = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in s))
                for u in {0, 1} - {v}:
                    total += mpmath.fsum(q * (log_sum - x) for q, x in zip(probs[u, b].tolist(), s, strict=True))
        return float(total / (batch * (2 * n_crops - 2)))


def test_a_small_loss_of_large_logits_keeps_its_digits():
    """Two crops that agree, sure of one component: log-sum-exp and <q, s> are 300, and their difference 0.0005."""
    s = torch.tensor([[[300.0, 290.0, 0.0]]] * 2, dtype=torch.float64)
    q = torch.softmax(s, dim=-1)
    assert exact(s, q) == pytest.approx(4.99378e-4, rel=1e-6)
    for dtype, rel in ((torch.float64, 4e-13), (torch.float32, 6e-5)):  # 1 + exp(-10) is rounded
        assert dino_loss(s.to(dtype), q.to(dtype)).item() == pytest.approx(exact(s, q.to(dtype)), rel=rel, abs=0)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("scale", [1.0, 50.0, 500.0, 5000.0])
def test_large_logits_against_mpmath(scale, offset):
    logits, probs = problem(4, out_dim=64, scale=scale)
    logits, probs = (logits + offset).float(), probs.float()
    expected = exact(logits, probs)
    low, high = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, loss_high = dino_loss(low, probs), dino_loss(high, probs.double())
    assert loss.item() == pytest.approx(expected, rel=2e-7, abs=0)
    assert loss_high.item() == pytest.approx(expected, rel=1e-15, abs=0)
    loss.backward()
    targets = torch.stack([probs[1], probs[0], *[probs[0] + probs[1]] * 2]).double()
    p = (high.detach() - high.detach().amax(dim=-1, keepdim=True)).exp()
    gradient = (targets.sum(dim=-1, keepdim=True) * p / p.sum(dim=-1, keepdim=True) - targets) / (3 * 6)
    assert (low.grad - gradient).abs().max() < 3e-7 * gradient.abs().max()


def test_targets_are_constants():
    logits, probs = problem(4)
    probs.requires_grad_()
    logits.requires_grad_()
    dino_loss(logits, probs).backward()
    assert probs.grad is None
    assert logits.grad is not None


def test_bfloat16_under_autocast_is_summed_in_float32():
    logits, probs = problem(5, out_dim=300)
    low = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dino_loss(low, probs.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(longhand(low.double(), probs).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((4, 3), (2, 4, 3), r"student_logits must have shape \(crops, batch, out_dim\)"),
        ((4, 0, 3), (2, 0, 3), r"student_logits .* none of them zero, got \(4, 0, 3\)"),
        ((1, 4, 3), (2, 4, 3), "student_logits must hold at least 2 crops, got 1"),
        ((3, 4, 3), (3, 4, 3), r"teacher_probs must have shape \(2, 4, 3\)"),
        ((3, 4, 3), (2, 1, 3), r"teacher_probs must have shape \(2, 4, 3\)"),
        ((3, 4, 3), (2, 4, 5), r"teacher_probs must have shape \(2, 4, 3\)"),
        ((3, 4, 3), (4, 3), r"teacher_probs must have shape \(2, 4, 3\)"),
    ],
)
def test_wrong_shapes_are_named(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        dino_loss(torch.zeros(student), torch.zeros(teacher))
