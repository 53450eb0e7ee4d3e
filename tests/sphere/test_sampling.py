import math

import numpy as np
import pytest
import torch
from scipy import stats

from vmflearn.sphere import VonMisesFisher, sampling
from vmflearn.sphere.bessel import mean_resultant_length_complement, mean_resultant_length_derivative
from vmflearn.sphere.sampling import double_device, draw, sample_complement


def basis(dim: int, index: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.eye(dim, dtype=dtype)[index]


def direction(dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64, generator=generator), dim=-1)


# --- moments and distribution ---


@pytest.mark.parametrize("kappa", [0.0, 0.1, 10.0, 1e4, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 5, 64, 1000, 4096])
def test_moments(dim: int, kappa: float) -> None:
    """E[1 - w] = 1 - A and Var w = A', within 4.5 standard errors; seeds are fixed."""
    n = 400 if dim >= 1000 else 4000
    torch.manual_seed(100 + dim)
    loc = direction(dim)
    x = VonMisesFisher(loc, kappa).sample((n,))
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(n, dtype=torch.float64), rtol=1e-14, atol=0)
    y = ((x - loc) ** 2).sum(-1) / 2
    mean = mean_resultant_length_complement(kappa, dim)
    variance = mean_resultant_length_derivative(kappa, dim)
    assert abs((y.mean() - mean) / torch.sqrt(variance / n)) < 4.5
    squares = (y - mean) ** 2
    assert abs((squares.mean() - variance) / (squares.std() / math.sqrt(n))) < 4.5
    # Across the mean direction: no preferred direction, |w_perp|^2 = 2y - y^2 shared equally.
    across = x @ torch.nn.functional.normalize(basis(dim) - loc[0] * loc, dim=-1)
    spread = torch.sqrt((2 * mean - variance - mean**2) / (dim - 1))
    assert abs(across.mean() / (spread / math.sqrt(n))) < 4.5
    assert (across.square().mean() / spread**2).item() == pytest.approx(1, abs=4.5 * math.sqrt(2 / n))


@pytest.mark.parametrize(("dim", "kappa"), [(2, 3.0), (16, 30.0), (256, 200.0)])
def test_moments_in_float32(dim: int, kappa: float) -> None:
    torch.manual_seed(dim)
    n = 4000
    loc = direction(dim).float()
    y = ((VonMisesFisher(loc, kappa).sample((n,)).double() - loc.double()) ** 2).sum(-1) / 2
    mean, variance = mean_resultant_length_complement(kappa, dim), mean_resultant_length_derivative(kappa, dim)
    assert abs((y.mean() - mean) / torch.sqrt(variance / n)) < 4.5


@pytest.mark.parametrize(("dim", "kappa"), [(2, 3.0), (64, 30.0)])
def test_moments_with_torchs_generator_alone(dim: int, kappa: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(sampling, "fast_generator", lambda device: None)
    test_moments(dim, kappa)


def heights(kappa: torch.Tensor, dim: int, *shape: int) -> torch.Tensor:
    cpu = torch.device("cpu")
    number = kappa if kappa.dim() else kappa.item()
    return sample_complement(number, dim, torch.Size(shape), sampling.fast_generator(cpu), cpu)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 0.5), (2, 20.0), (5, 3.0), (100, 80.0)])
def test_mean_height_of_many(dim: int, kappa: float) -> None:
    """Enough draws to see a hundredth of a standard deviation: a small mistake in the acceptance would show."""
    torch.manual_seed(dim)
    n = 200_000
    y = heights(torch.tensor(kappa, dtype=torch.float64), dim, n)
    mean, variance = mean_resultant_length_complement(kappa, dim), mean_resultant_length_derivative(kappa, dim)
    assert abs((y.mean() - mean) / torch.sqrt(variance / n)) < 4.5


@pytest.mark.parametrize("dim", [2, 4, 50])
def test_concentrations_drawn_together_have_their_own_heights(dim: int) -> None:
    torch.manual_seed(dim)
    kappa = torch.tensor([0.0, 2.0, 30.0, 1e5], dtype=torch.float64)
    y = heights(kappa, dim, 20_000, 4)
    mean, variance = mean_resultant_length_complement(kappa, dim), mean_resultant_length_derivative(kappa, dim)
    assert ((y.mean(0) - mean) / torch.sqrt(variance / 20_000)).abs().max() < 4


@pytest.mark.parametrize("dim", [4, 6])
def test_heights_at_concentration_zero_are_a_beta_variable(dim: int) -> None:
    """There every proposal is accepted: y/2 has the law of the proposals, Beta(d/2, d/2)."""
    torch.manual_seed(dim)
    y = heights(torch.tensor(0.0, dtype=torch.float64), dim, 20_000)
    assert stats.kstest(y.numpy() / 2, stats.beta((dim - 1) / 2, (dim - 1) / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_heights_follow_the_density(dim: int) -> None:
    """Kolmogorov-Smirnov against the distribution function of w, integrated numerically."""
    torch.manual_seed(dim)
    kappa = 2.5
    w = VonMisesFisher(basis(dim, 1), kappa).sample((3000,))[:, 1].numpy()
    theta = np.linspace(0, np.pi, 20001)
    weight = np.exp(kappa * np.cos(theta)) * np.sin(theta) ** (dim - 2)
    cdf = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    result = stats.kstest(np.arccos(np.clip(w, -1, 1)), lambda t: np.interp(t, theta, cdf / cdf[-1]))
    assert result.pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [3, 4, 20])
def test_directions_are_uniform_across_the_mean(dim: int, dtype: torch.dtype) -> None:
    """A coordinate of a uniform direction in d dimensions has (1 + t)/2 of law Beta((d-1)/2, (d-1)/2); d = dim - 1."""
    torch.manual_seed(dim)
    mu = direction(dim).to(dtype)
    v = torch.empty(4000, dim, dtype=dtype)
    draw(mu, torch.tensor(5.0), torch.Size([4000]), v)
    probe = torch.nn.functional.normalize(basis(dim).to(dtype) - mu[0] * mu, dim=-1)
    half = (dim - 2) / 2
    assert stats.kstest(((v @ probe).double().numpy() + 1) / 2, stats.beta(half, half).cdf).pvalue > 1e-3


def test_several_means_in_three_dimensions() -> None:
    """Each sample lies around its own mean, the poles among them, at an angle that is uniform."""
    torch.manual_seed(0)
    poles = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, -1e-9]], dtype=torch.float64)
    loc = torch.cat([poles, direction(3)[None], -direction(3)[None]])
    v = torch.empty(2000, 5, 3, dtype=torch.float64)
    x, y = draw(loc, torch.tensor([0.0, 1e-20, 1.0, 30.0, 1e9]).double(), torch.Size([2000]), v)
    one = torch.ones(2000, 5, dtype=torch.float64)
    torch.testing.assert_close(((x - loc) ** 2).sum(-1) / 2, y, rtol=1e-6, atol=1e-15)
    torch.testing.assert_close(x.norm(dim=-1), one, rtol=1e-15, atol=0)
    torch.testing.assert_close(v.norm(dim=-1), one, rtol=1e-15, atol=0)
    for mu, around in zip(loc, v.unbind(1), strict=True):
        side = torch.nn.functional.normalize(torch.linalg.cross(mu, direction(3, 1)), dim=0)
        angle = torch.atan2(around @ side, around @ torch.linalg.cross(mu, side)).numpy()
        assert stats.kstest(angle / (2 * math.pi) + 0.5, "uniform").pvalue > 1e-3


# --- the parts ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [2, 3, 15, 16, 300])
def test_a_sample_is_made_of_its_parts(dim: int, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    torch.manual_seed(0)
    mu = torch.stack([direction(dim, seed) for seed in range(3)]).to(dtype)
    kappa = torch.tensor([1.0, 50.0, 1e4], dtype=torch.float64)
    v = torch.empty(40, 3, dim, dtype=dtype)
    x, y = draw(mu, kappa, torch.Size([40]), v)
    assert x.dtype == v.dtype == dtype
    assert y.dtype == torch.float64
    mu, x, v = mu.double(), x.double(), v.double()
    one = torch.ones(40, 3, dtype=torch.float64)
    torch.testing.assert_close(v.norm(dim=-1), one, rtol=4 * eps, atol=0)
    assert (v * mu).sum(-1).abs().max() < 8 * eps
    expected = (1 - y).unsqueeze(-1) * mu + torch.sqrt(y * (2 - y)).unsqueeze(-1) * v
    torch.testing.assert_close(x, expected, rtol=0, atol=4 * eps)
    torch.manual_seed(0)
    assert torch.equal(draw(mu.to(dtype), kappa, torch.Size([40]))[0].double(), x)


@pytest.mark.parametrize("dim", [2, 3, 5, 15])
def test_few_dimensions_are_computed_in_double(dim: int) -> None:
    """Coordinates rounded once leave a length off by 2^-24 at most; computed in float32 it is three times that."""
    torch.manual_seed(0)
    kappa = torch.tensor([0.0, 3.0, 100.0, 1e4])
    x = VonMisesFisher(direction(dim).float(), kappa).sample((4000,))
    assert x.dtype == torch.float32
    assert (x.double().norm(dim=-1) - 1).abs().max() < 2.0**-24


@pytest.mark.parametrize("block", [1, 64, 1000])
def test_blocks_of_rows_keep_their_own_mean(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", block)
    loc = torch.stack([direction(20, seed) for seed in range(6)]).reshape(2, 3, 20)
    kappa = torch.tensor([1e12, 4e12, 1e20], dtype=torch.float64)
    x = VonMisesFisher(loc, kappa).sample((7,))
    assert x.shape == (7, 2, 3, 20)
    torch.testing.assert_close(x, loc.expand(7, 2, 3, 20), rtol=0, atol=2e-5)
    assert len({round(value, 12) for value in (x[:, 0, 0] @ direction(20, 9)).tolist()}) == 7


def test_one_mean_direction_for_many_concentrations() -> None:
    """An expanded loc is one vector: same samples as from loc itself."""
    kappa = torch.linspace(1, 50, 30, dtype=torch.float64)
    torch.manual_seed(0)
    first = VonMisesFisher(direction(24), kappa).sample((2,))
    torch.manual_seed(0)
    second = VonMisesFisher(direction(24).expand(30, 24), kappa).sample((2,))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    repeated = VonMisesFisher(direction(24).repeat(30, 1), kappa).sample((2,))
    torch.testing.assert_close(first, repeated, rtol=1e-12, atol=1e-14)


def test_memory_layout_does_not_matter() -> None:
    storage = torch.stack([direction(18, seed) for seed in range(5)], dim=-1)
    torch.manual_seed(0)
    first = VonMisesFisher(storage.mT, 20.0).sample((3,))
    torch.manual_seed(0)
    assert torch.equal(first, VonMisesFisher(storage.mT.contiguous(), 20.0).sample((3,)))


# --- edges ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_basis_vectors_and_extreme_concentrations(dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kappa = torch.tensor([0.0, 1e-300, 1e-20, 1.0, 1e8, 1e30, 1e307], dtype=torch.float64)
    for index in (0, dim - 1):
        for sign in (1, -1):
            loc = sign * basis(dim, index, dtype)
            x = VonMisesFisher(loc, kappa).sample((50,))
            assert x.shape == (50, 7, dim)
            assert x.dtype == dtype
            assert torch.isfinite(x).all()
            torch.testing.assert_close(x[:, -1], loc.expand(50, dim))


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_no_samples_and_no_distributions(dim: int) -> None:
    assert VonMisesFisher(basis(dim), 2.0).sample().shape == (dim,)
    assert VonMisesFisher(basis(dim), 2.0).sample((0,)).shape == (0, dim)
    assert VonMisesFisher(basis(dim), 2.0).rsample((3, 0)).shape == (3, 0, dim)
    empty = VonMisesFisher(torch.empty(0, dim), torch.empty(0))
    assert empty.sample((4,)).shape == (4, 0, dim)
    assert VonMisesFisher(basis(dim), torch.empty(0)).sample((4,)).shape == (4, 0, dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_a_point_mass_is_drawn_to_the_last_bit(dim: int, dtype: torch.dtype) -> None:
    loc = torch.stack([direction(dim, seed) for seed in range(20)]).to(dtype) * (1 + 4 * torch.finfo(dtype).eps)
    kappa = torch.full((20,), 3.0, dtype=dtype)
    kappa[::2] = math.inf
    x = VonMisesFisher(loc, kappa).sample((2,))
    assert torch.equal(x[:, ::2], loc[::2].expand(2, 10, dim))
    assert (x[:, 1::2] != loc[1::2]).any(-1).all()
    _, gap = draw(loc, kappa, torch.Size([2]))
    assert torch.equal(gap == 0, torch.isinf(kappa).expand(2, 20))


def test_reproducible_from_torchs_seed() -> None:
    for dim, dtype in ((4, torch.float32), (40, torch.float32), (40, torch.float64)):
        vmf = VonMisesFisher(basis(dim, dtype=dtype), torch.tensor(3.0, dtype=dtype, requires_grad=True))
        torch.manual_seed(1)
        first, then = vmf.sample((3, 2)), vmf.sample((3, 2))
        torch.manual_seed(1)
        assert torch.equal(first, vmf.sample((3, 2)))
        assert not torch.equal(first, then)
        assert not first.requires_grad


def test_an_unchecked_nan_is_seen() -> None:
    x = VonMisesFisher(basis(5), torch.tensor([math.nan, 1.0]), validate_args=False).sample((2,))
    assert torch.isnan(x[:, 0]).all()
    assert torch.isfinite(x[:, 1]).all()


def test_float64_work_leaves_a_device_that_has_none() -> None:
    assert double_device(torch.device("mps")) == torch.device("cpu")
    assert double_device(torch.device("cuda:1")) == torch.device("cuda:1")
