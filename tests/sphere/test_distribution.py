import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from vmflearn.sphere import HypersphericalUniform, VonMisesFisher


def basis(dim: int, index: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.eye(dim, dtype=dtype)[index]


def tilted(dim: int, cosine: float) -> torch.Tensor:
    """The unit vector at this cosine from the first basis vector, in the plane of the first two."""
    return cosine * basis(dim, 0) + math.sqrt(1 - cosine**2) * basis(dim, 1)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


@pytest.mark.parametrize(
    ("dim", "kappa", "cosine", "expected"),
    [
        (3, 1e-4, 1.0, -2.5309242486359573),
        (3, 1e-4, 0.0, -2.5310242486359575),
        (3, 100.0, 1.0, 2.767293119578746),
        (3, 100.0, 0.0, -97.23270688042125),
        (3, 2000.0, 1.0, 5.763025393132737),
        (3, 2000.0, math.sqrt(0.98), -14.337987284534103),
        (5, 2000.0, 1.0, 11.526550911307156),
        (5, 2000.0, math.sqrt(0.98), -8.574461766359684),
        (5, 2000.0, math.sqrt(0.8), -199.61906708886113),
    ],
)
def test_log_prob_known_answers(dim: int, kappa: float, cosine: float, expected: float) -> None:
    """The reference values of scipy's own tests, from mpmath with 50 digits."""
    got = VonMisesFisher(basis(dim), kappa).log_prob(tilted(dim, cosine))
    assert got.item() == pytest.approx(expected, rel=1e-13, abs=0)


@pytest.mark.parametrize(
    ("dim", "kappa", "cosine", "expected"),
    [
        (3, 1e-4, 1.0, 0.0795854295583605),
        (3, 1e-4, 0.0, 0.07957747141331854),
        (3, 100.0, 1.0, 15.915494309189533),
        (3, 100.0, 0.0, 5.920684802611232e-43),
        (3, 2000.0, 1.0, 318.3098861837907),
        (5, 2000.0, 1.0, 101371.86957712633),
        (5, 2000.0, math.sqrt(0.8), 2.0255393314603194e-87),
    ],
)
def test_density_known_answers(dim: int, kappa: float, cosine: float, expected: float) -> None:
    """The densities of the same tests; a logarithm of -200 has that many more roundings in its exponential."""
    got = VonMisesFisher(basis(dim), kappa).log_prob(tilted(dim, cosine)).exp()
    assert got.item() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("dim", "kappa", "expected"),
    [
        (3, 1e-4, 2.531024245302624),
        (3, 100.0, -1.7672931195787458),
        (5, 5000.0, -11.359032310024453),
        (8, 1.0, 3.4189526482545527),
    ],
)
def test_entropy_known_answers(dim: int, kappa: float, expected: float) -> None:
    assert VonMisesFisher(basis(dim), kappa).entropy().item() == pytest.approx(expected, rel=1e-13, abs=0)


@pytest.mark.parametrize("dim", [3, 6, 20])
def test_log_prob_against_scipy(dim: int) -> None:
    rng = np.random.default_rng(dim)
    loc, *x = [v / np.linalg.norm(v) for v in rng.standard_normal((9, dim))]
    x = np.stack(x)
    for kappa in (0.3, 8.0, 120.0):
        expected = stats.vonmises_fisher(loc, kappa).logpdf(x)
        got = VonMisesFisher(torch.from_numpy(loc), kappa).log_prob(torch.from_numpy(x))
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 12.0])
def test_density_integrates_to_one_on_the_circle(kappa: float) -> None:
    angle = torch.arange(200, dtype=torch.float64) * (2 * math.pi / 200)
    x = torch.stack([angle.cos(), angle.sin()], dim=-1)
    density = VonMisesFisher(tilted(2, 0.6), kappa).log_prob(x).exp()
    assert (density.mean() * 2 * math.pi).item() == pytest.approx(1, rel=1e-13, abs=0)
    mean = (density.unsqueeze(-1) * x).mean(0) * 2 * math.pi
    torch.testing.assert_close(mean, VonMisesFisher(tilted(2, 0.6), kappa).mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 12.0])
def test_density_integrates_to_one_on_the_sphere(kappa: float) -> None:
    """Gauss-Legendre in the height times equal steps in the azimuth; the mean and the variances too."""
    height, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
    azimuth = torch.arange(120, dtype=torch.float64) * (2 * math.pi / 120)
    radius = torch.sqrt(1 - height**2).unsqueeze(-1)
    x = torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), height.unsqueeze(-1).expand(60, 120)], dim=-1)
    vmf = VonMisesFisher(torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64), kappa)
    mass = (vmf.log_prob(x).exp() * weight.unsqueeze(-1) * (2 * math.pi / 120)).unsqueeze(-1)
    assert mass.sum().item() == pytest.approx(1, rel=1e-12, abs=0)
    mean = (mass * x).sum((0, 1))
    torch.testing.assert_close(mean, vmf.mean, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close((mass * (x - mean) ** 2).sum((0, 1)), vmf.variance, rtol=1e-11, atol=0)


def test_no_cancellation_near_the_mode_in_float32() -> None:
    dim, kappa = 64, 1e6
    x = torch.nn.functional.normalize(basis(dim) + 1e-3 * basis(dim, 1), dim=-1)
    exact = VonMisesFisher(basis(dim), kappa).log_prob(x.float().double() / x.float().double().norm())
    single = VonMisesFisher(basis(dim, dtype=torch.float32), kappa).log_prob(x.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact.item(), rel=5e-7, abs=0)


def test_gradient_of_log_prob() -> None:
    kappa = torch.tensor([0.0, 0.5, 40.0], dtype=torch.float64, requires_grad=True)
    x = tilted(5, 0.3)
    VonMisesFisher(basis(5), kappa).log_prob(x).sum().backward()
    # d log f / d kappa = mu . x - A
    torch.testing.assert_close(kappa.grad, 0.3 - VonMisesFisher(basis(5), kappa.detach()).mean[:, 0])


# --- properties that torch's own distributions are tested for ---


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize(
    ("loc_shape", "kappa_shape", "batch_shape"),
    [((), (), ()), ((4,), (), (4,)), ((), (3,), (3,)), ((4, 1), (3,), (4, 3)), ((0,), (0,), (0,))],
)
def test_shapes(loc_shape, kappa_shape, batch_shape, sample_shape) -> None:
    vmf = VonMisesFisher(unit(*loc_shape, 6), torch.full(kappa_shape, 2.0, dtype=torch.float64))
    assert vmf.batch_shape == batch_shape
    assert vmf.event_shape == (6,)
    assert vmf.dim == 6
    for x in (vmf.sample(sample_shape), vmf.rsample(sample_shape)):
        assert x.shape == (*sample_shape, *batch_shape, 6)
        assert vmf.log_prob(x).shape == (*sample_shape, *batch_shape)
        assert vmf.support.check(x).all()
        assert vmf.support.check(x).shape == (*sample_shape, *batch_shape)
    assert vmf.entropy().shape == batch_shape
    for vector in (vmf.mean, vmf.mode, vmf.variance, vmf.stddev, vmf.natural):
        assert vector.shape == (*batch_shape, 6)


def test_values_broadcast_against_the_batch() -> None:
    vmf = VonMisesFisher(unit(4, 1, 6), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    x = unit(5, 1, 1, 6)
    assert vmf.log_prob(x).shape == (5, 4, 3)
    one = VonMisesFisher(vmf.loc[2, 0], vmf.concentration[2, 1]).log_prob(x[3, 0, 0])
    torch.testing.assert_close(vmf.log_prob(x)[3, 2, 1], one)


def test_expand() -> None:
    vmf = VonMisesFisher(unit(4, 1, 6), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), validate_args=False)
    bigger = vmf.expand((2, 4, 3))
    assert type(bigger) is VonMisesFisher
    assert bigger.batch_shape == (2, 4, 3)
    assert bigger.event_shape == vmf.event_shape
    assert bigger.loc.data_ptr() == vmf.loc.data_ptr()
    assert bigger.concentration.data_ptr() == vmf.concentration.data_ptr()
    assert bigger._validate_args == vmf._validate_args
    x = bigger.sample()
    assert x.shape == (2, 4, 3, 6)
    assert torch.equal(bigger.log_prob(x)[1], vmf.log_prob(x[1]))
    assert torch.equal(bigger.entropy()[0], vmf.entropy())
    assert torch.equal(bigger.mean[1], vmf.mean)
    assert torch.equal(kl_divergence(bigger, vmf)[1], kl_divergence(vmf, vmf))
    with pytest.raises(RuntimeError, match="expand"):
        vmf.expand((4, 2))


@pytest.mark.parametrize(("dim", "kappa"), [(4, 3.0), (6, 1.0), (20, 10.0)])
def test_density_integrates_to_one_by_importance(dim: int, kappa: float) -> None:
    """Samples of a wider von Mises-Fisher distribution around another direction, weighted by the ratio."""
    torch.manual_seed(dim)
    target, wide = VonMisesFisher(basis(dim), kappa), VonMisesFisher(tilted(dim, 0.9), kappa / 2)
    x = wide.sample((20_000,))
    ratio = (target.log_prob(x) - wide.log_prob(x)).exp()
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / math.sqrt(20_000)
    assert ratio.std() / math.sqrt(20_000) < 0.02


def test_arguments_and_support_are_declared() -> None:
    vmf = VonMisesFisher(unit(3, 5), 2.0)
    assert VonMisesFisher.has_rsample
    assert set(vmf.arg_constraints) == {"loc", "concentration"}
    for name, constraint in vmf.arg_constraints.items():
        assert constraint.check(getattr(vmf, name)).all()
    assert vmf.support.event_dim == 1
    assert not vmf.support.is_discrete
    assert not vmf.support.check(2 * vmf.loc).any()
    assert repr(VonMisesFisher(basis(3).float(), 2.0)) == "VonMisesFisher(loc: torch.Size([3]), concentration: 2.0)"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
@pytest.mark.parametrize("original", [VonMisesFisher(basis(3), 2.0), HypersphericalUniform(3, (2,))])
def test_copies_and_pickles(original, duplicate) -> None:
    other = duplicate(original)
    x = original.sample()
    assert torch.equal(other.log_prob(x), original.log_prob(x))
    assert other.batch_shape == original.batch_shape


def test_composition_with_other_distributions() -> None:
    torch.manual_seed(0)
    vmf = VonMisesFisher(unit(4, 6), torch.tensor([1.0, 5.0, 20.0, 0.0], dtype=torch.float64))
    x = vmf.sample((7,))
    independent = torch.distributions.Independent(vmf, 1)
    torch.testing.assert_close(independent.log_prob(x), vmf.log_prob(x).sum(-1))
    torch.testing.assert_close(independent.entropy(), vmf.entropy().sum())
    mirrored = torch.distributions.TransformedDistribution(
        vmf, [torch.distributions.AffineTransform(0.0, -1.0, event_dim=1)], validate_args=False
    )
    opposite = VonMisesFisher(-vmf.loc, vmf.concentration)
    torch.testing.assert_close(mirrored.log_prob(x), opposite.log_prob(x))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), vmf)
    expected = torch.logsumexp(vmf.log_prob(x[:, :1]) + weights.log(), dim=-1)
    torch.testing.assert_close(mixture.log_prob(x[:, 0]), expected)
    assert mixture.sample((3,)).shape == (3, 6)


def test_log_prob_gradcheck() -> None:
    """In the parameters, through a normalised loc, to second order."""

    def log_prob(raw: torch.Tensor, kappa: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        loc = torch.nn.functional.normalize(raw, dim=-1)
        return VonMisesFisher(loc, kappa, validate_args=False).log_prob(value)

    raw = (unit(3, 4) * 2).requires_grad_()
    kappa = torch.tensor([0.3, 5.0, 60.0], dtype=torch.float64, requires_grad=True)
    value = unit(3, 4, seed=1)
    assert torch.autograd.gradcheck(log_prob, (raw, kappa, value))
    assert torch.autograd.gradgradcheck(log_prob, (raw, kappa, value))


def test_entropy_gradcheck() -> None:
    kappa = torch.tensor([0.2, 3.0, 80.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: VonMisesFisher(basis(5), k).entropy(), (kappa,))


@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.0), (16, 20.0), (256, 400.0)])
def test_entropy_is_minus_the_mean_log_prob(dim: int, kappa: float) -> None:
    torch.manual_seed(3)
    vmf = VonMisesFisher(basis(dim), kappa)
    values = -vmf.log_prob(vmf.sample((4000,)))
    assert abs(values.mean() - vmf.entropy()) < 4.5 * values.std() / math.sqrt(4000)


def test_entropy_at_zero_is_the_logarithm_of_the_area() -> None:
    assert VonMisesFisher(basis(3), 0.0).entropy().item() == pytest.approx(math.log(4 * math.pi), rel=1e-15, abs=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """A log-density is a small difference of large numbers: it is rounded to the half type once, at the end."""
    loc, x = basis(64, 5, dtype), basis(64, 6, dtype)
    vmf = VonMisesFisher(loc, torch.tensor(200.0, dtype=dtype))
    exact = VonMisesFisher(loc.double(), 200.0)
    eps = torch.finfo(dtype).eps
    for got, expected in (
        (vmf.log_prob(x), exact.log_prob(x.double())),
        (vmf.entropy(), exact.entropy()),
        (vmf.mean, exact.mean),
        (vmf.variance, exact.variance),
        (vmf.sample((3,)).norm(dim=-1), torch.ones(3)),
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected.double(), rtol=2 * eps, atol=1e-7)
    assert VonMisesFisher(loc, 1e6).concentration == 1e6  # a number is not squeezed into float16
    gap = (exact.log_prob(loc.double()) / 200).item()  # where the log-density is near zero and its terms are not
    x = ((1 - gap) * basis(64, 5) + math.sqrt(gap * (2 - gap)) * basis(64, 6)).to(dtype)
    expected = exact.log_prob(loc.double()) - 100 * ((x.double() - loc.double()) ** 2).sum()
    assert vmf.log_prob(x).item() == pytest.approx(expected.item(), rel=2 * eps, abs=1e-3)


# --- natural parameters ---


def test_from_natural() -> None:
    natural = torch.tensor(
        [[3.0, 0.0, -4.0], [0.0, 0.0, 0.0], [1e-300, 0.0, 0.0], [1e300, 1e300, 0.0]], dtype=torch.float64
    )
    vmf = VonMisesFisher.from_natural(natural)
    expected = torch.tensor([5.0, 0.0, 1e-300, math.sqrt(2) * 1e300], dtype=torch.float64)
    torch.testing.assert_close(vmf.concentration, expected, rtol=1e-15, atol=0)
    assert torch.equal(vmf.loc[0], torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64))
    assert torch.equal(vmf.loc[1], basis(3))
    torch.testing.assert_close(vmf.natural, natural, rtol=4e-16, atol=0)


def test_gradient_of_natural_parameters() -> None:
    """d log f / d eta = x - E x, and nothing where there is no direction."""
    natural = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    x = unit(4, seed=3)
    vmf = VonMisesFisher.from_natural(natural)
    vmf.log_prob(x).sum().backward()
    torch.testing.assert_close(natural.grad[0], x - vmf.mean[0].detach())
    assert torch.equal(natural.grad[1], torch.zeros(4, dtype=torch.float64))


# --- point masses ---


def test_point_mass() -> None:
    """In a batch with others, which it leaves as they are."""
    kappa = torch.tensor([2.0, math.inf, 0.0], dtype=torch.float64, requires_grad=True)
    loc = tilted(4, 0.6)
    vmf = VonMisesFisher(loc, kappa)
    plain = VonMisesFisher(loc, torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    log_prob = torch.stack([vmf.log_prob(loc), vmf.log_prob(basis(4))])
    assert log_prob[:, 1].tolist() == [math.inf, -math.inf]
    assert torch.equal(log_prob[1, ::2], plain.log_prob(basis(4))[::2])
    assert vmf.entropy()[1] == -math.inf
    assert torch.equal(vmf.entropy()[::2], plain.entropy()[::2])
    assert torch.equal(vmf.mean[1], loc)
    assert torch.equal(vmf.mode[1], loc)
    assert torch.equal(vmf.variance[1], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(vmf.variance[::2], plain.variance[::2])
    (log_prob[1, ::2].sum() + vmf.mean.sum() + vmf.entropy()[::2].sum()).backward()
    assert torch.isfinite(kappa.grad).all()
    with pytest.raises(ValueError, match="natural is not defined for concentration inf"):
        _ = vmf.natural


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_point_mass_is_as_wide_as_rounding(dtype: torch.dtype) -> None:
    loc = unit(30).to(dtype)
    mass = VonMisesFisher(loc, math.inf)
    near = torch.nn.functional.normalize(loc.double() + 2 * torch.finfo(dtype).eps * unit(30, seed=1), dim=-1)
    assert mass.log_prob(near.to(dtype)) == math.inf
    far = torch.nn.functional.normalize(loc.double() + 0.1 * unit(30, seed=1), dim=-1)
    assert mass.log_prob(far.to(dtype)) == -math.inf


# --- bad input ---


@pytest.mark.parametrize(
    ("loc", "kappa", "message"),
    [
        ([3.0, 4.0], 1.0, r"loc must be of unit length, got a vector of length 5.0"),
        ([1.0 + 1e-9, 0.0], 1.0, r"loc must be of unit length"),
        ([math.nan, 0.0], 1.0, r"loc must be of unit length, got a vector of length nan"),
        ([1.0], 1.0, r"loc must have shape \(..., dim\) with dim at least 2, got shape \(1,\)"),
        (1.0, 1.0, r"loc must have shape"),
        ([1.0, 0.0], -1.0, r"concentration must not be negative or NaN, got -1.0"),
        ([1.0, 0.0], math.nan, r"concentration must not be negative or NaN, got nan"),
        ([1.0, 0.0], torch.tensor(1), r"concentration must have a floating-point dtype, got torch.int64"),
        (torch.tensor([1, 0]), 1.0, r"loc must have a floating-point dtype, got torch.int64"),
        ([1.0, 0.0], "narrow", r"concentration must be a real number, an array or a tensor, got 'narrow'"),
        ([1.0, 0.0], torch.ones((), device="meta"), r"loc is on cpu and concentration on meta"),
        ([[1.0, 0.0]] * 2, [1.0] * 3, r"concentration of shape \(3,\) does not broadcast"),
    ],
)
def test_bad_parameters(loc, kappa, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VonMisesFisher(loc, kappa)


def test_checks_do_not_depend_on_the_global_default() -> None:
    default = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with pytest.raises(ValueError, match="concentration must not be"):
            VonMisesFisher(basis(3), -1.0)
    finally:
        torch.distributions.Distribution.set_default_validate_args(default)


def test_rounded_float32_directions_are_accepted() -> None:
    loc = torch.nn.functional.normalize(torch.randn(100, 256, generator=torch.Generator().manual_seed(0)), dim=-1)
    VonMisesFisher(loc, 1.0).log_prob(loc)


def test_bad_values() -> None:
    vmf = VonMisesFisher(basis(3), 1.0)
    with pytest.raises(ValueError, match=r"value must be of unit length, got a vector of length 2.0"):
        vmf.log_prob(2 * basis(3))
    with pytest.raises(ValueError, match=r"value must be a tensor of shape \(..., 3\), got \(4,\)"):
        vmf.log_prob(basis(4))
    unchecked = VonMisesFisher(2 * basis(3), math.nan, validate_args=False)
    assert torch.isnan(unchecked.log_prob(basis(3)))


@pytest.mark.parametrize(
    ("natural", "message"),
    [
        ([math.inf, 0.0], r"natural must be finite, got inf"),
        ([1.0], r"natural must have shape \(..., dim\) with dim at least 2, got \(1,\)"),
    ],
)
def test_bad_natural_parameters(natural, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VonMisesFisher.from_natural(natural)
