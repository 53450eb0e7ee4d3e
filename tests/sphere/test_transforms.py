"""Functions of torch that take functions: torch.func, forward mode, torch.compile; and torch.jit.trace, refused."""

import mpmath
import pytest
import torch
from torch.autograd import forward_ad
from torch.distributions import transform_to

from vmflearn.sphere import VonMisesFisher, log_normalizer
from vmflearn.sphere.constraints import unit_vector

KAPPA = torch.tensor([0.5, 20.0, 40.0, 900.0], dtype=torch.float64)
LOC = torch.nn.functional.normalize(torch.arange(12.0, dtype=torch.float64).reshape(4, 3) - 5, dim=-1)
VALUE = LOC.roll(1, 0)

FUNCTIONS = {
    "log_normalizer": lambda kappa, loc, value: log_normalizer(kappa, 3),
    "log_prob": lambda kappa, loc, value: VonMisesFisher(loc, kappa).log_prob(value),
    "entropy": lambda kappa, loc, value: VonMisesFisher(loc, kappa).entropy(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_vmap_and_second_derivatives(name: str) -> None:
    function = FUNCTIONS[name]
    one = lambda kappa: function(kappa, LOC, VALUE)  # noqa: E731
    torch.testing.assert_close(torch.vmap(function)(KAPPA, LOC, VALUE), one(KAPPA), rtol=1e-14, atol=0)
    assert torch.autograd.gradcheck(one, KAPPA.clone().requires_grad_(), check_forward_ad=True, atol=1e-6)
    backward = torch.func.jacrev(one)(KAPPA)
    torch.testing.assert_close(torch.func.jacfwd(one)(KAPPA), backward, rtol=1e-12, atol=1e-15)
    hessian = torch.func.hessian(lambda kappa: one(kappa).sum())(KAPPA).diagonal()
    for kappa, found in zip(KAPPA.tolist(), hessian.tolist(), strict=True):
        with mpmath.workdps(40):  # in three dimensions A = coth k - 1/k
            k = mpmath.mpf(kappa)
            slope, curvature = 1 / k**2 - 1 / mpmath.sinh(k) ** 2, -2 / k**3 + 2 * mpmath.coth(k) / mpmath.sinh(k) ** 2
            assert found == pytest.approx(float(-slope - k * curvature if name == "entropy" else -slope), rel=1e-9)


def seeded(function, *arguments):
    torch.manual_seed(0)
    return function(*arguments)


def total(loc: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
    return VonMisesFisher(loc, kappa).rsample((2,)).square()[..., 0].sum()


def test_samples_are_differentiated_alike_in_all_ways() -> None:
    loc, kappa = LOC.clone().requires_grad_(), KAPPA.clone().requires_grad_()
    gradients = torch.autograd.grad(seeded(total, loc, kappa), (loc, kappa))
    by_function = seeded(torch.func.grad(total, argnums=(0, 1)), LOC, KAPPA)
    torch.testing.assert_close(by_function, gradients, rtol=1e-13, atol=1e-15)
    changes = VALUE, KAPPA.sqrt()
    expected = sum((g * c).sum() for g, c in zip(gradients, changes, strict=True))
    torch.testing.assert_close(seeded(torch.func.jvp, total, (LOC, KAPPA), changes)[1], expected)
    with forward_ad.dual_level():
        duals = (forward_ad.make_dual(x, c) for x, c in zip((LOC, KAPPA), changes, strict=True))
        torch.testing.assert_close(forward_ad.unpack_dual(seeded(total, *duals)).tangent, expected)


def test_vmap_draws_for_each_of_its_batch() -> None:
    draw = lambda loc, kappa: VonMisesFisher(loc, kappa).rsample((4000,))  # noqa: E731
    samples = torch.vmap(draw, randomness="different")(LOC, KAPPA)
    assert samples.shape == (4, 4000, 3)
    lengths = 1 / torch.tanh(KAPPA) - 1 / KAPPA
    torch.testing.assert_close((samples.mean(1) * LOC).sum(-1), lengths, rtol=0, atol=0.04)
    with pytest.raises(RuntimeError, match="randomness='different'"):
        torch.vmap(draw)(LOC, KAPPA)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*FUNCTIONS, "rsample"])
def test_one_graph(name: str) -> None:
    function = (lambda k, loc, value: total(loc, k)) if name == "rsample" else FUNCTIONS[name]
    kappa = KAPPA.clone().requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    found, expected = (seeded(f, kappa, LOC, VALUE) for f in (compiled, function))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    gradients = (torch.autograd.grad(y.sum(), kappa)[0] for y in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore")
def test_tracing_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"use torch\.compile"):
        torch.jit.trace(lambda kappa: log_normalizer(kappa, 3), KAPPA)


def test_the_support_has_a_transform() -> None:
    free = torch.tensor([[3.0, 4.0], [1e-30, 0.0]], requires_grad=True)
    transform = transform_to(VonMisesFisher.support)
    unit = transform(free)
    assert bool(unit_vector.check(unit).all())
    torch.testing.assert_close(unit[0], torch.tensor([0.6, 0.8]))
    assert torch.equal(transform.inv(unit), unit)
