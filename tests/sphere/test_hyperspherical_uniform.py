import math

import pytest
import torch

from vmflearn.sphere import HypersphericalUniform, VonMisesFisher


def test_density_is_one_over_the_area() -> None:
    x = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(
        HypersphericalUniform(3).log_prob(x), torch.full((3,), -math.log(4 * math.pi), dtype=torch.float64)
    )
    circle = HypersphericalUniform(2, dtype=torch.float64)
    assert circle.entropy().item() == pytest.approx(math.log(2 * math.pi), rel=1e-15, abs=0)
    vmf = VonMisesFisher(x[0], 0.0)
    torch.testing.assert_close(HypersphericalUniform(3).log_prob(x), vmf.log_prob(x))


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 0)])
@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 1)])
def test_shapes(batch_shape, sample_shape) -> None:
    uniform = HypersphericalUniform(4, batch_shape)
    assert uniform.dim == 4
    assert uniform.batch_shape == batch_shape
    assert uniform.event_shape == (4,)
    for x in (uniform.sample(sample_shape), uniform.rsample(sample_shape)):
        assert x.shape == (*sample_shape, *batch_shape, 4)
        assert uniform.log_prob(x).shape == (*sample_shape, *batch_shape)
        assert uniform.support.check(x).all()
    assert uniform.entropy().shape == batch_shape
    assert uniform.mean.shape == uniform.variance.shape == uniform.stddev.shape == (*batch_shape, 4)
    bigger = uniform.expand((6, *((3,) if batch_shape == () else batch_shape)))
    assert type(bigger) is HypersphericalUniform
    assert bigger.sample().shape == (*bigger.batch_shape, 4)
    assert torch.equal(bigger.entropy()[0].flatten()[0], uniform.entropy().flatten()[0])


@pytest.mark.parametrize("dim", [2, 3, 17, 400])
def test_sample_moments(dim: int) -> None:
    torch.manual_seed(dim)
    uniform = HypersphericalUniform(dim, dtype=torch.float64)
    x = uniform.sample((4000,))
    first = x[:, 0]
    assert abs(first.mean()) < 4.5 * math.sqrt(uniform.variance[0] / 4000)
    # E x_1^2 = 1/p, E x_1^4 = 3/(p(p + 2))
    error = math.sqrt((3 / (dim * (dim + 2)) - 1 / dim**2) / 4000)
    assert abs((first**2).mean() - 1 / dim) < 4.5 * error
    assert uniform.variance[0].item() == pytest.approx(1 / dim)
    assert not uniform.mean.any()
    assert abs((x[:, 0] * x[:, 1]).mean()) < 4.5 * math.sqrt(1 / (dim * (dim + 2)) / 4000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    uniform = HypersphericalUniform(5, (2,), dtype=dtype)
    for tensor in (uniform.sample(), uniform.mean, uniform.variance, uniform.entropy()):
        assert tensor.dtype == dtype
    assert uniform.log_prob(uniform.sample()).dtype == dtype


def test_declarations() -> None:
    assert HypersphericalUniform.has_rsample
    assert HypersphericalUniform.arg_constraints == {}
    assert repr(HypersphericalUniform(3, (2,))) == "HypersphericalUniform(dim: 3, batch_shape: (2,))"
    independent = torch.distributions.Independent(HypersphericalUniform(3, (2,)), 1)
    assert independent.log_prob(independent.sample((4,))).shape == (4,)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="dim must be at least 2"):
        HypersphericalUniform(1)
    with pytest.raises(ValueError, match=r"dim must be an integer, got 2\.5"):
        HypersphericalUniform(2.5)
    with pytest.raises(ValueError, match=r"dtype must be a floating-point dtype, got torch.int64"):
        HypersphericalUniform(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"value must be of unit length, got a vector of length 2\.0"):
        HypersphericalUniform(3).log_prob(2 * torch.eye(3)[0])
    with pytest.raises(ValueError, match=r"value must be a tensor of shape \(..., 3\), got \(4,\)"):
        HypersphericalUniform(3).log_prob(torch.eye(4)[0])
    assert HypersphericalUniform(3, validate_args=False).log_prob(2 * torch.eye(3)[0]).isfinite()
    with pytest.raises(RuntimeError, match="expand"):
        HypersphericalUniform(3, (2,)).expand((3,))
