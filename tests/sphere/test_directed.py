"""What distributions around a direction share: second moments, devices and types, parts of a batch, generators."""

import math

import mpmath
import pytest
import torch

from vmflearn.sphere import HypersphericalUniform, PowerSpherical, VonMisesFisher
from vmflearn.sphere.directed import DirectedDistribution


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


# --- covariances ---


@pytest.mark.parametrize("dim", [2, 3, 16, 300])
@pytest.mark.parametrize("kappa", [1e-9, 0.3, 20.0, 1500.0])
def test_covariance_matrix_to_rounding(dim: int, kappa: float) -> None:
    """A' = 1 - A^2 - (p - 1) A / kappa along the mean, A / kappa across, in 60 digits."""
    loc = unit(dim)
    found = VonMisesFisher(loc, kappa).covariance_matrix
    with mpmath.workdps(60):
        k, half = mpmath.mpf(kappa), mpmath.mpf(dim) / 2
        length = k / dim * mpmath.hyp0f1(half + 1, k**2 / 4) / mpmath.hyp0f1(half, k**2 / 4)
        along, across = float(1 - length**2 - (dim - 1) * length / k), float(length / k)
    outer = torch.outer(loc, loc)
    expected = along * outer + across * (torch.eye(dim, dtype=torch.float64) - outer)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=4e-16 * across)
    assert (loc @ found @ loc).item() == pytest.approx(along, rel=1e-11, abs=1e-14 * across)
    torch.testing.assert_close(found, found.T, rtol=0, atol=0)
    torch.testing.assert_close(found.diagonal(), VonMisesFisher(loc, kappa).variance, rtol=0, atol=0)


def test_covariance_matrix_by_sampling() -> None:
    torch.manual_seed(0)
    vmf = VonMisesFisher(unit(4), torch.tensor([0.0, 2.0, 30.0], dtype=torch.float64))
    x = vmf.sample((20_000,)) - vmf.mean
    products = x.unsqueeze(-1) * x.unsqueeze(-2)
    error = (products.mean(0) - vmf.covariance_matrix).abs()
    assert (error < 5 * products.std(0) / math.sqrt(20_000)).all()


def test_covariance_matrix_at_the_ends() -> None:
    vmf = VonMisesFisher(unit(5), torch.tensor([0.0, 1e-300, 1e200, math.inf], dtype=torch.float64))
    identity = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(vmf.covariance_matrix[:2], (identity / 5).expand(2, 5, 5))
    assert torch.equal(vmf.covariance_matrix[3], torch.zeros(5, 5, dtype=torch.float64))
    across = identity - torch.outer(vmf.loc[0], vmf.loc[0])
    torch.testing.assert_close(vmf.covariance_matrix[2] * 1e200, across, rtol=1e-12, atol=1e-15)
    uniform = HypersphericalUniform(5, (2,), dtype=torch.float64)
    torch.testing.assert_close(uniform.covariance_matrix, (identity / 5).expand(2, 5, 5))
    kappa = torch.tensor([0.2, 3.0, 40.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: VonMisesFisher(unit(3), k).covariance_matrix, (kappa,))


# --- other types and devices ---


def test_to_another_dtype_and_back() -> None:
    vmf = VonMisesFisher(unit(7, 300), torch.arange(7.0, dtype=torch.float64), validate_args=False)
    single = vmf.to(dtype=torch.float32)
    assert (single.dtype, single.sample().dtype, single._validate_args) == (torch.float32, torch.float32, False)
    torch.testing.assert_close(single.entropy(), vmf.entropy().float())
    double = single.to(dtype=torch.float64)
    VonMisesFisher(double.loc, double.concentration)  # a length of one in float32 alone would be refused
    torch.testing.assert_close(double.loc, vmf.loc, rtol=0, atol=1e-7)
    same = vmf.to("cpu", torch.float64)
    assert same.loc.data_ptr() == vmf.loc.data_ptr()
    assert vmf.to("meta").device == torch.device("meta")
    uniform = HypersphericalUniform(3, (2,), dtype=torch.float64, validate_args=False).to(dtype=torch.float16)
    assert (uniform.sample().dtype, uniform.batch_shape, uniform._validate_args) == (torch.float16, (2,), False)
    assert uniform.to("meta").device == torch.device("meta")


def test_a_dtype_may_come_first_as_in_tensors_to() -> None:
    for large in (VonMisesFisher(unit(4), 1e6), PowerSpherical(unit(4), 1e6)):
        assert torch.equal(large.to(torch.float32).loc, large.to(dtype=torch.float32).loc)
        with pytest.raises(ValueError, match=r"concentration 1000000.0 has no finite value in torch.float16"):
            large.to(torch.float16)
        with pytest.raises(ValueError, match="to is given two dtypes"):
            large.to(torch.float32, torch.float64)
    narrow = VonMisesFisher(unit(4).float(), 2.0)
    assert torch.equal(narrow.to(torch.float64).loc, narrow.to(dtype=torch.float64).loc)  # of unit length again
    assert HypersphericalUniform(3).to(torch.float64).dtype == torch.float64


@pytest.mark.parametrize("kind", [VonMisesFisher, PowerSpherical, lambda loc, kappa: HypersphericalUniform(len(loc))])
def test_the_density_of_integers_is_refused_in_one_line(kind) -> None:
    with pytest.raises(ValueError, match=r"value must have a floating-point dtype, got torch.int64; convert it"):
        kind(unit(4), 2.0).log_prob(torch.tensor([0, 1, 0, 0]))


def test_gradients_pass_through_to() -> None:
    kappa = torch.tensor(3.0, requires_grad=True)
    VonMisesFisher(unit(4).float(), kappa).to(dtype=torch.float64).entropy().backward()
    assert kappa.grad < 0


def test_a_dtype_that_cannot_hold_the_concentration_is_refused() -> None:
    vmf = VonMisesFisher(unit(2, 4), torch.tensor([1.0, 1e6], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"concentration 1000000.0 has no finite value in torch.float16"):
        vmf.to(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"dtype must be a floating-point dtype, got torch.int32"):
        vmf.to(dtype=torch.int32)
    assert VonMisesFisher(unit(4), math.inf).to(dtype=torch.float16).entropy() == -math.inf


# --- parts of a batch ---

INDICES = [
    0,
    -1,
    slice(1, 3),
    (2, 1),
    (slice(None), 1),
    ...,
    (..., 1),
    (0, ...),
    None,
    (None, slice(None), 0),
    torch.tensor([0, 2, 0]),
    (torch.tensor([0, 2]), torch.tensor([1, 0])),
    (..., torch.tensor([1, 1, 0])),
    torch.tensor([True, False, True]),
    torch.eye(3, 2).bool(),
    [2, 0],
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_parts_of_a_batch_are_those_of_tensors(index) -> None:
    vmf = VonMisesFisher(unit(3, 2, 4), torch.arange(6.0, dtype=torch.float64).reshape(3, 2), validate_args=False)
    part = vmf[index]
    places = torch.arange(6).reshape(3, 2)[index]
    assert part.batch_shape == places.shape
    assert part.loc.shape == (*places.shape, 4)
    assert torch.equal(part.loc.reshape(-1, 4), vmf.loc.reshape(6, 4)[places.flatten()])
    assert torch.equal(part.concentration, vmf.concentration.flatten()[places])
    assert part._validate_args is False
    uniform = HypersphericalUniform(4, (3, 2), dtype=torch.float64, validate_args=False)[index]
    assert (uniform.batch_shape, uniform.dim, uniform._validate_args) == (places.shape, 4, False)


def test_the_axis_of_coordinates_is_no_batch() -> None:
    for distribution in (VonMisesFisher(unit(3, 4), 1.0), HypersphericalUniform(4, (3,))):
        for index in ((0, 0), (..., 0, 0), 3):
            with pytest.raises(IndexError):
                distribution[index]
        assert len(list(distribution)) == 3  # by index, until there is no more
    for one in (VonMisesFisher(unit(4), 1.0), HypersphericalUniform(4)):
        with pytest.raises(TypeError, match="has no batch to index"):
            list(one)


# --- generators ---


@pytest.mark.parametrize("method", ["sample", "rsample"])
@pytest.mark.parametrize(
    "distribution",
    [
        HypersphericalUniform(5, (2,)),
        VonMisesFisher(unit(2, 5).float(), torch.tensor([1.0, 30.0])),
        VonMisesFisher(unit(3), torch.tensor([1.0, 30.0], dtype=torch.float64, requires_grad=True)),
    ],
    ids=["uniform", "float32", "tracked"],
)
def test_a_generator_gives_what_the_global_one_does_and_leaves_that_alone(distribution, method) -> None:
    draw = getattr(distribution, method)
    torch.manual_seed(3)
    expected = [draw((4,)) for _ in range(2)]
    torch.manual_seed(8)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    for wanted in expected:
        assert torch.equal(draw((4,), generator=generator), wanted)
    assert torch.equal(torch.get_rng_state(), state)
    assert draw(generator=generator).shape == (2, distribution.dim)
    with pytest.raises(RuntimeError):
        draw((-1,), generator=generator)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_of_a_gpu() -> None:
    vmf = VonMisesFisher(unit(5), 3.0).to("cuda")
    torch.cuda.manual_seed(3)
    expected = vmf.sample((4,))
    torch.cuda.manual_seed(4)
    state = torch.cuda.get_rng_state()
    assert torch.equal(vmf.sample((4,), generator=torch.Generator("cuda").manual_seed(3)), expected)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    with pytest.raises(ValueError, match="generator is on cpu and the samples are on cuda"):
        vmf.sample(generator=torch.Generator())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_code_draws_from_a_generator_outside_its_graph() -> None:
    vmf = VonMisesFisher(unit(3), 1.0)
    draw = lambda generator: 2 * vmf.sample((2,), generator=generator)  # noqa: E731
    torch.compiler.reset()
    found = torch.compile(draw, backend="eager")(torch.Generator().manual_seed(1))
    assert torch.equal(found, draw(torch.Generator().manual_seed(1)))


def test_a_family_without_second_moments_cannot_be_made():
    family = type("Family", (DirectedDistribution,), {})
    with pytest.raises(TypeError, match="_variances"):
        family(torch.tensor([1.0, 0.0]), 1.0)
