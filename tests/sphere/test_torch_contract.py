"""What torch.distributions.Distribution documents, asked of each of the distributions on the sphere."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.distributions import Distribution, Independent, constraints, kl_divergence

from vmflearn.sphere import HypersphericalUniform, PowerSpherical, VonMisesFisher

DIRECTED = [VonMisesFisher, PowerSpherical]
KINDS = [*DIRECTED, HypersphericalUniform]
BATCHES = [(), (3,), (2, 1), (0,)]
VECTORS = ["mean", "variance", "stddev"]


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def make(kind: type, batch=(), dim: int = 4, **settings) -> Distribution:
    if kind is HypersphericalUniform:
        return HypersphericalUniform(dim, batch, dtype=torch.float64, **settings)
    concentration = 3 * torch.rand(batch, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return kind(unit(*batch, dim), concentration, **settings)


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3), (0,), [2]], ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, batch, sample_shape) -> None:
    """A sample has sample_shape + batch_shape + event_shape, a log-density the first two."""
    distribution = make(kind, batch)
    assert (distribution.batch_shape, distribution.event_shape) == (torch.Size(batch), torch.Size([4]))
    for x in (distribution.sample(sample_shape), distribution.rsample(sample_shape)):
        assert x.shape == (*sample_shape, *batch, 4)
        assert x.dtype == torch.float64
        assert distribution.log_prob(x).shape == (*sample_shape, *batch)
    assert distribution.entropy().shape == batch
    for name in VECTORS:
        assert getattr(distribution, name).shape == (*batch, 4)
    assert distribution.covariance_matrix.shape == (*batch, 4, 4)
    torch.testing.assert_close(distribution.stddev**2, distribution.variance)
    torch.testing.assert_close(distribution.perplexity(), distribution.entropy().exp())


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_broadcasts_its_argument(kind) -> None:
    distribution = make(kind, (2, 3))
    for shape, expected in (((4,), (2, 3)), ((3, 4), (2, 3)), ((5, 1, 1, 4), (5, 2, 3)), ((2, 1, 4), (2, 3))):
        x = unit(*shape, seed=2)
        found = distribution.log_prob(x)
        assert found.shape == expected
        each = distribution.log_prob(x.expand(*expected, 4))
        torch.testing.assert_close(found, each, rtol=0, atol=0)
    with pytest.raises(RuntimeError):
        distribution.log_prob(unit(2, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_support_and_arguments_are_declared(kind) -> None:
    distribution = make(kind, (3,))
    assert kind.has_rsample
    assert not kind.has_enumerate_support
    assert isinstance(kind.support, constraints.Constraint)
    assert (kind.support.event_dim, kind.support.is_discrete) == (1, False)
    x = distribution.sample((50,))
    assert distribution.support.check(x).shape == (50, 3)
    assert distribution.support.check(x).all()
    assert not distribution.support.check(1.1 * x).any()
    for name, constraint in distribution.arg_constraints.items():
        assert constraint.check(getattr(distribution, name)).all()
    assert torch.isfinite(distribution.log_prob(x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_expand(kind) -> None:
    """Without copying, with the settings of the original; what does not fit is refused."""
    distribution = make(kind, (3, 1), validate_args=False)
    bigger = distribution.expand((2, 3, 5))
    assert type(bigger) is kind
    assert (bigger.batch_shape, bigger.event_shape) == ((2, 3, 5), (4,))
    assert bigger._validate_args is False
    x = distribution.sample()
    assert torch.equal(bigger.log_prob(x), distribution.log_prob(x).expand(2, 3, 5))
    assert torch.equal(bigger.entropy(), distribution.entropy().expand(2, 3, 5))
    assert bigger.rsample((2,)).shape == (2, 2, 3, 5, 4)
    for name in distribution.arg_constraints:
        assert getattr(bigger, name).data_ptr() == getattr(distribution, name).data_ptr()
    assert torch.equal(bigger.expand((1, 2, 3, 5)).mean[0], bigger.mean)
    with pytest.raises(RuntimeError):
        distribution.expand((4, 1))

    class Heir(kind):
        def __init__(self) -> None:
            self.__dict__.update(distribution.__dict__)

    with pytest.raises(NotImplementedError, match="custom __init__"):  # torch's rule for heirs
        Heir().expand((3, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_independent_takes_batch_axes_into_the_event(kind) -> None:
    distribution = make(kind, (3,))
    joint = Independent(distribution, 1)
    x = joint.sample((5,))
    assert (joint.batch_shape, joint.event_shape, x.shape) == ((), (3, 4), (5, 3, 4))
    torch.testing.assert_close(joint.log_prob(x), distribution.log_prob(x).sum(-1))
    torch.testing.assert_close(joint.entropy(), distribution.entropy().sum())


def saved(distribution):
    file = io.BytesIO()
    torch.save(distribution, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d)), saved])
@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind, duplicate) -> None:
    distribution = make(kind, (3,), validate_args=False)
    other = duplicate(distribution)
    x = distribution.sample((2,))
    assert type(other) is kind
    assert torch.equal(other.log_prob(x), distribution.log_prob(x))
    assert (other.batch_shape, other._validate_args) == ((3,), False)


@pytest.mark.parametrize("kind", KINDS)
def test_repr_names_the_parameters(kind) -> None:
    if kind is HypersphericalUniform:
        assert repr(make(kind, (2,))) == "HypersphericalUniform(dim: 4, batch_shape: (2,))"
    else:
        assert repr(make(kind, (2,))) == f"{kind.__name__}(loc: torch.Size([2, 4]), concentration: torch.Size([2]))"


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_are_validated_unless_that_is_turned_off(kind) -> None:
    with pytest.raises(ValueError, match="value must be of unit length"):
        make(kind).log_prob(2 * unit(4))
    with pytest.raises(ValueError, match=r"value must be a tensor of shape \(..., 4\)"):
        make(kind).log_prob(unit(5))
    assert make(kind, validate_args=False).log_prob(1.5 * unit(4)).shape == ()
    if kind in DIRECTED:
        for loc, concentration, message in (
            (2 * unit(4), 1.0, "loc must be of unit length"),
            (unit(4), -1.0, "concentration must not be negative"),
            (unit(4), float("nan"), "concentration must not be negative or NaN"),
            (unit(2, 4), torch.ones(3), "does not broadcast"),
        ):
            with pytest.raises(ValueError, match=message):
                kind(loc, concentration)
        assert kind(2 * unit(4), -1.0, validate_args=False).batch_shape == ()


def log_prob_of(kind):
    def log_prob(raw: torch.Tensor, kappa: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        loc, value = (torch.nn.functional.normalize(x, dim=-1) for x in (raw, value))
        return kind(loc, kappa, validate_args=False).log_prob(value)

    return log_prob


@pytest.mark.parametrize("kind", DIRECTED)
def test_derivatives_of_the_log_density_to_second_order_and_forwards(kind) -> None:
    """In the parameters and the value; near the mode, far from it, and beyond the equator."""
    kappa = torch.tensor([0.3, 5.0, 60.0], dtype=torch.float64, requires_grad=True)
    raw = (2 * unit(3, 4)).requires_grad_()
    value = torch.stack([unit(4, seed=3), raw[1].detach() + 0.1, 0.2 - raw[2].detach()]).requires_grad_()
    inputs = (raw, kappa, value)
    assert torch.autograd.gradcheck(log_prob_of(kind), inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(log_prob_of(kind), inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["entropy", "mean", "covariance_matrix", "to uniform", "from uniform"])
@pytest.mark.parametrize("kind", DIRECTED)
def test_derivatives_of_what_has_no_draw(kind, name) -> None:
    """To second order; the slope of A' is differentiated by autograd."""
    uniform = HypersphericalUniform(3, dtype=torch.float64)

    def function(kappa: torch.Tensor) -> torch.Tensor:
        distribution = kind(unit(3), kappa)
        if "uniform" in name:
            pair = (distribution, uniform) if name == "to uniform" else (uniform, distribution)
            return kl_divergence(*pair)
        value = getattr(distribution, name)
        return value() if callable(value) else value

    kappa = torch.tensor([0.4, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (kappa,))
    assert torch.autograd.gradgradcheck(function, (kappa,), fast_mode=True)


@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("kind", DIRECTED)
def test_samples_move_with_their_distribution_function(kind, dim) -> None:
    """gradcheck cannot redraw. But if <mu, x> moves by dt/dkappa, its distribution function at x stays where it is:

    F(t; kappa) by the trapezoidal rule over the angle, at (t + dt, kappa + dkappa) and at the sample.
    """
    kappa = torch.tensor([0.6, 4.0, 25.0], dtype=torch.float64, requires_grad=True)
    loc = unit(dim)
    torch.manual_seed(5)
    t = kind(loc, kappa).rsample() @ loc
    slope = torch.stack([torch.autograd.grad(one, kappa, retain_graph=True)[0][i] for i, one in enumerate(t)])

    def below(angle: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Probability of a smaller angle; Gauss-Legendre on each part."""
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))

        def mass(start, end):
            phi = start + (end - start) * (nodes + 1) / 2
            cosine = torch.cos(phi)
            log = k * cosine if kind is VonMisesFisher else 2 * k * torch.cos(phi / 2).clamp(min=1e-300).log()
            return (
                (end - start) / 2 * ((log - k * (kind is VonMisesFisher)).exp() * torch.sin(phi) ** (dim - 2)) @ weights
            )

        first, rest = mass(torch.zeros(()), angle), mass(angle, torch.tensor(torch.pi))
        return first / (first + rest)

    step = 1e-5
    for one, k, d in zip(t.detach(), kappa.detach(), slope, strict=True):
        moved = below(torch.acos(one + step * d), k + step) - below(torch.acos(one - step * d), k - step)
        still = below(torch.acos(one), k + step) - below(torch.acos(one), k - step)
        assert moved.abs() < 1e-4 * still.abs()


@pytest.mark.parametrize("kind", DIRECTED)
def test_samples_are_differentiated_alike_backwards_and_forwards(kind) -> None:
    loc, kappa = unit(3, 4), torch.tensor([0.3, 5.0, 60.0], dtype=torch.float64)
    changes = unit(3, 4, seed=7), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)

    def total(loc: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return kind(loc, kappa, validate_args=False).rsample((2,)).square()[..., 0].sum()

    tracked = loc.clone().requires_grad_(), kappa.clone().requires_grad_()
    gradients = torch.autograd.grad(total(*tracked), tracked)
    torch.testing.assert_close(torch.func.grad(total, argnums=(0, 1))(loc, kappa), gradients)
    expected = sum((g * c).sum() for g, c in zip(gradients, changes, strict=True))
    with forward_ad.dual_level():
        duals = (forward_ad.make_dual(x, c) for x, c in zip((loc, kappa), changes, strict=True))
        torch.testing.assert_close(forward_ad.unpack_dual(total(*duals)).tangent, expected)
    assert (gradients[0] * loc).sum(-1).abs().max() < 1e-12  # tangent to the sphere


@pytest.mark.parametrize("kind", KINDS)
def test_sample_and_rsample_draw_the_same_and_sample_is_detached(kind) -> None:
    distribution = make(kind, (3,))
    for name in distribution.arg_constraints:
        getattr(distribution, name).requires_grad_()
    torch.manual_seed(2)
    x = distribution.sample((5,))
    torch.manual_seed(2)
    y = distribution.rsample((5,))
    assert torch.equal(x, y)
    assert not x.requires_grad
    assert y.requires_grad == (kind in DIRECTED)
    assert not torch.equal(distribution.sample((5,)), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_result_has_the_dtype_of_the_parameters(kind, dtype) -> None:
    """Half precision is computed with in float32 and rounded once."""
    distribution, exact = make(kind, (3,)).to(dtype=dtype), make(kind, (3,))
    x = distribution.sample()
    results = [distribution.log_prob(x), distribution.entropy(), distribution.covariance_matrix]
    results += [distribution.rsample(), *(getattr(distribution, name) for name in VECTORS)]
    assert {each.dtype for each in [x, *results]} == {dtype}
    torch.testing.assert_close(
        distribution.entropy().double(), exact.entropy(), rtol=4 * torch.finfo(dtype).eps, atol=0
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["log_prob", "entropy", "rsample"])
def test_one_graph(name) -> None:
    """As `test_transforms.py` asks of the von Mises-Fisher distribution."""
    loc, kappa, x = (
        unit(3, 4),
        torch.tensor([0.3, 5.0, 60.0], dtype=torch.float64, requires_grad=True),
        unit(3, 4, seed=1),
    )

    def function(kappa: torch.Tensor) -> torch.Tensor:
        distribution = PowerSpherical(loc, kappa)
        return {"log_prob": lambda: distribution.log_prob(x), "entropy": distribution.entropy}.get(
            name, lambda: distribution.rsample().square()
        )()

    torch.compiler.reset()
    torch.manual_seed(0)
    found = torch.compile(function, backend="aot_eager", fullgraph=True)(kappa)
    torch.manual_seed(0)
    expected = function(kappa)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), kappa)[0] for y in (found, expected)))
