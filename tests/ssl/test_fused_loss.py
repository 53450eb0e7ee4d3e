import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vmflearn.ssl.fused_loss import prototype_loss
from vmflearn.ssl.losses import dino_loss
from vmflearn.ssl.prototypes import Prototypes

ALL = pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])


def problem(normalization="vmf", n_crops=4, batch=3, out_dim=33, dim=8, magnitude=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layer = Prototypes(dim, out_dim, normalization).to(dtype)
    with torch.no_grad():
        layer.weight_v.copy_(2 * normal(out_dim, dim))
        layer.weight_g.copy_(magnitude * normal(out_dim, 1))  # of both signs
    y = F.normalize(normal(n_crops, batch, dim), dim=-1).to(dtype).requires_grad_()
    probs = torch.softmax(3 * normal(2, batch, out_dim), dim=-1).to(dtype)
    return y, layer, probs


def value_and_gradients(loss, y, layer):
    wanted = [x for x in (y, layer.weight_v, layer.weight_g) if x.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, wanted)]


def assert_equal(ours, theirs, relative):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= relative * b.abs().max()


@ALL
@pytest.mark.parametrize(("n_crops", "out_dim", "chunk_size"), [(2, 2, 1), (3, 33, 8), (12, 40, 4096), (8, 64, 64)])
@pytest.mark.parametrize("temperature", [0.04, 0.1, 1.0])
def test_equals_dino_loss_in_float64(normalization, n_crops, out_dim, chunk_size, temperature):
    y, layer, probs = problem(normalization, n_crops, out_dim=out_dim)
    ours = value_and_gradients(prototype_loss(y, layer, temperature, probs, chunk_size=chunk_size), y, layer)
    theirs = value_and_gradients(dino_loss(layer(y, temperature), probs), y, layer)
    assert_equal(ours, theirs, 1e-12)


def longhand(logits, probs):
    """A cross-entropy for every pair of a teacher view and another crop, from probabilities."""
    e = (logits - logits.detach().amax(dim=-1, keepdim=True)).exp()
    surprise = e.sum(dim=-1, keepdim=True).log() - (logits - logits.detach().amax(dim=-1, keepdim=True))
    pairs = [(u, v) for u in range(2) for v in range(len(logits)) if u != v]
    return torch.stack([(probs[u] * surprise[v]).sum(dim=-1).mean() for u, v in pairs]).mean()


@ALL
def test_equals_the_loop_over_pairs(normalization):
    y, layer, probs = problem(normalization)
    ours = value_and_gradients(prototype_loss(y, layer, 0.1, probs, chunk_size=10), y, layer)
    assert_equal(ours, value_and_gradients(longhand(layer(y, 0.1), probs), y, layer), 1e-12)


@ALL
def test_gradcheck(normalization):
    y, layer, probs = problem(normalization, 3, 2, 5, 4, magnitude=1.0)
    inputs = [x for x in (y, layer.weight_v, layer.weight_g) if x.requires_grad]

    def loss(*_):
        return prototype_loss(y, layer, 0.3, probs, chunk_size=2)

    assert torch.autograd.gradcheck(loss, inputs)


def on_axes(magnitudes, dim, dtype):
    """A layer whose logits are exact: each prototype lies on an axis, as each unit vector will."""
    k = torch.arange(len(magnitudes))
    layer = Prototypes(dim, len(magnitudes), "none").to(dtype)
    with torch.no_grad():
        layer.weight_v.zero_()[k, k % dim] = 1.0
        layer.weight_g[:, 0] = magnitudes
    return layer


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_a_small_loss_of_large_logits_keeps_its_digits(chunk_size):
    """[300, 290, 0] twice: the loss is 0.0005, though log-sum-exp and <q, s> are 300 each."""
    s = torch.tensor([300.0, 290.0, 0.0], dtype=torch.float64)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        for dtype, rel in ((torch.float64, 4e-13), (torch.float32, 6e-5)):  # 1 + exp(-10) is rounded
            layer, q = on_axes(s[order], 1, dtype), torch.softmax(s[order], dim=0).to(dtype)
            above = math.log1p(math.exp(-10) + math.exp(-300))  # the log-sum-exp, less 300
            expected = sum(p * (above + (300 - x)) for p, x in zip(q.tolist(), s[order].tolist(), strict=True))
            rows, both = torch.ones(2, 1, 1, dtype=dtype), q.expand(2, 1, 3)
            loss = prototype_loss(rows, layer, 1.0, both, chunk_size=chunk_size)
            assert expected == pytest.approx(4.99378e-4, rel=1e-6)
            assert loss.item() == pytest.approx(expected, rel=rel, abs=0)


@pytest.mark.parametrize("chunk_size", [7, 4096])
@pytest.mark.parametrize("scale", [1.0, 50.0, 500.0, 5000.0])
def test_large_logits_lose_no_more_than_rounding(scale, chunk_size):
    """Against float64 from the same numbers, loss and gradients, of every size; logits of 500 round to 3e-5."""
    generator = torch.Generator().manual_seed(1)
    magnitudes = scale * torch.randn(64, generator=generator)
    probs = torch.softmax(scale * torch.randn(2, 3, 64, generator=generator), dim=-1)
    y = torch.eye(4)[torch.randint(4, (5, 3), generator=generator)]
    found = {}
    for dtype in (torch.float32, torch.float64):
        rows, layer, q = y.to(dtype).requires_grad_(), on_axes(magnitudes, 4, dtype), probs.to(dtype)
        found[dtype] = value_and_gradients(prototype_loss(rows, layer, 1.0, q, chunk_size=chunk_size), rows, layer)
    expected = value_and_gradients(longhand(layer(rows, 1.0), q), rows, layer)
    assert_equal(found[torch.float64], expected, 1e-14)
    assert_equal([x.double() for x in found[torch.float32]], expected, 3e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_whose_logits_are_all_far_below_zero(dtype):
    """A softmax does not see a constant that is taken from all logits: exp(-2000) is 0 in either precision."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(24, generator=generator).to(dtype) - 2000
    probs = torch.softmax(torch.randn(2, 3, 24, generator=generator), dim=-1).to(dtype)
    loss = prototype_loss(torch.ones(5, 3, 1, dtype=dtype), on_axes(logits, 1, dtype), 1.0, probs, chunk_size=7)
    expected = longhand((logits + 2000).expand(5, 3, 24), probs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4 if dtype == torch.float32 else 1e-12)


@ALL
def test_float32_is_near_float64(normalization):
    y, layer, probs = problem(normalization, out_dim=500, magnitude=1.0)
    exact = value_and_gradients(prototype_loss(y, layer, 0.1, probs), y, layer)
    y_low = y.detach().float().requires_grad_()
    layer.float()
    low = value_and_gradients(prototype_loss(y_low, layer, 0.1, probs.float(), chunk_size=64), y_low, layer)
    assert_equal([x.double() for x in low], exact, 2e-5)


def test_autocast_keeps_float32():
    y, layer, probs = problem(dtype=torch.float32)
    plain = value_and_gradients(prototype_loss(y, layer, 0.1, probs), y, layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = value_and_gradients(prototype_loss(y, layer, 0.1, probs), y, layer)
        low = y.detach().bfloat16().requires_grad_()
        loss = prototype_loss(low, layer, 0.1, probs)
        loss.backward()
    for a, b in zip(under, plain, strict=True):
        assert torch.equal(a, b)
    assert loss.dtype == torch.float32
    assert low.grad.dtype == torch.bfloat16


def test_65536_components_at_temperature_004_with_large_magnitudes():
    y, layer, probs = problem(n_crops=3, batch=2, out_dim=65_536, dim=16, magnitude=1.0)
    with torch.no_grad():
        layer.weight_g[::2] = 400.0  # kappa = 1e4
    exact = value_and_gradients(dino_loss(layer(y, 0.04), probs), y, layer)
    y_low = y.detach().float().requires_grad_()
    layer.float()
    low = value_and_gradients(prototype_loss(y_low, layer, 0.04, probs.float()), y_low, layer)
    assert all(x.isfinite().all() for x in low)
    assert abs(low[0] - exact[0]) < 1e-5 * exact[0].abs()
    for a, b in zip(low[1:], exact[1:], strict=True):
        assert (a - b).norm() < 0.02 * b.norm()  # a logit of 1e4 is known to 1e-3 in float32


@ALL
def test_a_prototype_of_length_zero_is_the_uniform_component(normalization):
    y, layer, probs = problem(normalization)
    with torch.no_grad():
        layer.weight_v[5] = 0.0
    assert torch.equal(layer(y, 0.1)[..., 5], torch.zeros(4, 3, dtype=torch.float64))
    ours = value_and_gradients(prototype_loss(y, layer, 0.1, probs, chunk_size=8), y, layer)
    theirs = value_and_gradients(dino_loss(layer(y, 0.1), probs), y, layer)
    assert all(x.isfinite().all() for x in ours)
    assert_equal(ours, theirs, 1e-12)
    keep = torch.arange(33) != 5  # its huge gradient hides the others in a norm
    assert_equal([x[keep] for x in ours[2:]], [x[keep] for x in theirs[2:]], 1e-12)


@ALL
def test_a_prototype_below_the_smallest_norm_has_the_gradient_of_normalize(normalization):
    y, layer, probs = problem(normalization)
    with torch.no_grad():
        layer.weight_v[5] *= 1e-13 / layer.weight_v[5].norm()
    ours = value_and_gradients(prototype_loss(y, layer, 0.1, probs, chunk_size=8), y, layer)
    assert_equal(ours, value_and_gradients(dino_loss(layer(y, 0.1), probs), y, layer), 1e-12)


@pytest.mark.parametrize("frozen", ["y", "v", "g", "vg"])
def test_what_is_frozen_has_no_gradient_and_the_rest_is_right(frozen):
    y, layer, probs = problem()
    full = dict(zip("yvg", value_and_gradients(dino_loss(layer(y, 0.1), probs), y, layer)[1:], strict=True))
    tensors = {"y": y, "v": layer.weight_v, "g": layer.weight_g}
    for name in frozen:
        tensors[name].requires_grad_(False)
    prototype_loss(y, layer, 0.1, probs, chunk_size=10).backward()
    for name, tensor in tensors.items():
        if name in frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, full[name], rtol=1e-10, atol=1e-14)


def test_targets_are_constants_and_no_grad_gives_the_value():
    y, layer, probs = problem()
    probs.requires_grad_()
    loss = prototype_loss(y, layer, 0.1, probs)
    loss.backward()
    assert probs.grad is None
    with torch.no_grad():
        assert torch.equal(prototype_loss(y, layer, 0.1, probs), loss)


def test_the_gradient_of_the_loss_is_scaled():
    y, layer, probs = problem()
    once = value_and_gradients(prototype_loss(y, layer, 0.1, probs), y, layer)
    thrice = value_and_gradients(3 * prototype_loss(y, layer, 0.1, probs), y, layer)
    assert_equal(thrice, [3 * x for x in once], 1e-13)


def test_a_second_derivative_is_refused():
    y, layer, probs = problem()
    with pytest.raises(RuntimeError, match="differentiated once, and create_graph=True asks for more: use dino_loss"):
        torch.autograd.grad(prototype_loss(y, layer, 0.1, probs), y, create_graph=True)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest result of any operation."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_no_tensor_is_as_large_as_the_logits():
    y, layer, probs = problem(n_crops=10, batch=8, out_dim=20_000, dim=4, dtype=torch.float32)
    inputs = max(layer.weight_v.numel(), probs.numel())
    logits = 10 * 8 * 20_000
    with LargestTensor() as plain:
        dino_loss(layer(y, 0.1), probs).backward()
    with LargestTensor() as ours:
        prototype_loss(y, layer, 0.1, probs, chunk_size=500).backward()
    assert plain.largest >= logits
    assert ours.largest <= inputs
    assert inputs < logits / 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@ALL
def test_on_the_gpu(normalization):
    y, layer, probs = problem(normalization, 12, 4, 5000, 64, magnitude=1.0)
    expected = value_and_gradients(dino_loss(layer(y, 0.1), probs), y, layer)
    layer.cuda()
    y, probs = y.detach().cuda().requires_grad_(), probs.cuda()
    ours = value_and_gradients(prototype_loss(y, layer, 0.1, probs, chunk_size=999), y, layer)
    assert_equal([x.cpu() for x in ours], expected, 1e-11)


@pytest.mark.parametrize(
    ("y", "targets", "message"),
    [
        ((4, 8), (2, 4, 5), r"y must have shape \(crops, batch, bottleneck_dim\)"),
        ((3, 0, 8), (2, 0, 5), "none of them zero"),
        ((1, 4, 8), (2, 4, 5), "y must hold at least 2 crops, got 1"),
        ((3, 4, 7), (2, 4, 5), r"y must have shape \(crops, batch, 8\), got \(3, 4, 7\)"),
        ((3, 4, 8), (3, 4, 5), r"teacher_probs must have shape \(2, 4, 5\)"),
        ((3, 4, 8), (2, 4, 6), r"teacher_probs must have shape \(2, 4, 5\)"),
    ],
)
def test_wrong_shapes_are_named(y, targets, message):
    with pytest.raises(ValueError, match=message):
        prototype_loss(torch.zeros(y), Prototypes(8, 5), 0.1, torch.zeros(targets))


def test_bad_numbers_are_named():
    y, layer, probs = problem()
    for temperature in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"temperature must be .*got {temperature}"):
            prototype_loss(y, layer, temperature, probs)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        prototype_loss(y, layer, 0.1, probs, chunk_size=0)
