import mpmath
import numpy as np
import pytest
import torch
from scipy.special import ive

from vmflearn.sphere import VonMisesFisherMixture, log_normalizer
from vmflearn.ssl.prototypes import Prototypes

ALL = pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])


def unit(*shape, seed=0):
    y = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return y / y.norm(dim=-1, keepdim=True)


def prototypes(dim, magnitudes, normalization="vmf", seed=1):
    layer = Prototypes(dim, len(magnitudes), normalization).double()
    with torch.no_grad():
        layer.weight_v.copy_(3.0 * unit(len(magnitudes), dim, seed=seed))  # the length of v must not matter
        layer.weight_g.copy_(torch.tensor(magnitudes, dtype=torch.float64)[:, None])
    return layer


def mean_directions(layer):
    v = layer.weight_v.detach().numpy()
    return np.sign(layer.weight_g.detach().numpy()) * v / np.linalg.norm(v, axis=1, keepdims=True)


def test_none_is_the_inner_product_with_the_weight_normalised_vector():
    layer = prototypes(5, [0.5, 1.0, -2.0], "none")
    y = unit(4, 5)
    w = layer.weight_g * layer.weight_v / 3.0
    torch.testing.assert_close(layer(y, 0.07), y @ w.T / 0.07, rtol=1e-12, atol=1e-12)


def test_l2_is_the_cosine():
    layer = prototypes(5, [0.5, 1.0, 2.0], "l2")
    y = unit(4, 5)
    cosine = torch.nn.functional.cosine_similarity(y[:, None], layer.weight_v[None], dim=-1)
    torch.testing.assert_close(layer(y, 0.04), cosine / 0.04, rtol=1e-12, atol=1e-12)


def log_c(kappa, dim):
    """log C_p(kappa) in 40 digits, from the definition."""
    with mpmath.workdps(40):
        kappa, nu = mpmath.mpf(kappa), mpmath.mpf(dim) / 2 - 1
        return nu * mpmath.log(kappa) - (nu + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(mpmath.besseli(nu, kappa))


@pytest.mark.parametrize("dim", [2, 3, 16, 256])
def test_vmf_adds_the_log_normaliser(dim):
    tau, magnitudes = 0.1, [1e-3, 0.3, 1.0, 5.0, 20.0]  # kappa from 0.01 to 200
    layer = prototypes(dim, magnitudes)
    y = unit(3, dim)
    added = (layer(y, tau) - y @ layer.directions.T * layer.concentrations(tau)).detach().numpy()
    exact = [log_c(g / tau, dim) for g in magnitudes]
    expected = np.array([float(value - exact[1]) for value in exact])
    np.testing.assert_allclose(added - added[:, 1:2], np.tile(expected, (3, 1)), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_softmax_is_the_posterior_of_a_vmf_mixture(dim):
    """Densities from scipy's Bessel function: C_p(kappa) exp(kappa <mu, y>), equal weights, one mean turned round."""
    tau, magnitudes = 0.2, [0.05, 1.0, -1.5, 6.0]
    layer = prototypes(dim, magnitudes)
    y = unit(6, dim).numpy()
    kappa, nu = np.abs(magnitudes) / tau, dim / 2 - 1
    c = kappa**nu / ((2 * np.pi) ** (nu + 1) * ive(nu, kappa) * np.exp(kappa))
    density = c * np.exp(kappa * (y @ mean_directions(layer).T))
    posterior = density / density.sum(axis=1, keepdims=True)
    ours = torch.softmax(layer(torch.from_numpy(y), tau), dim=-1)
    np.testing.assert_allclose(ours.detach().numpy(), posterior, rtol=1e-10)


def test_gradient_of_the_magnitude_is_what_the_mean_resultant_length_lacks():
    """d logit / d g = (<mu, y> - A_p(kappa)) / tau: a magnitude grows only for images nearer than the average one."""
    dim, tau, magnitudes = 8, 0.1, [0.2, 1.0, 4.0]
    layer = prototypes(dim, magnitudes)
    y = unit(1, dim)
    layer(y, tau).sum().backward()
    kappa = np.array(magnitudes) / tau
    a = ive(dim / 2, kappa) / ive(dim / 2 - 1, kappa)
    expected = ((mean_directions(layer) @ y[0].numpy()) - a) / tau
    np.testing.assert_allclose(layer.weight_g.grad[:, 0].numpy(), expected, rtol=1e-10)


@ALL
def test_gradcheck(normalization):
    layer = prototypes(4, [0.4, -1.0, 2.0], normalization)

    def logits(y, v, g):
        return torch.func.functional_call(layer, {"weight_v": v, "weight_g": g}, (y, 0.3))

    y, v, g = unit(2, 4), layer.weight_v.detach().clone(), layer.weight_g.detach().clone()
    assert torch.autograd.gradcheck(logits, [x.requires_grad_() for x in (y, v, g)])


def test_magnitude_zero_is_the_uniform_density():
    layer = prototypes(6, [0.0, 1.0])
    logits = layer(unit(3, 6), 0.1)
    torch.testing.assert_close(logits[:, 0], torch.zeros(3, dtype=torch.float64))
    logits.sum().backward()
    assert layer.weight_g.grad.isfinite().all()
    assert layer.weight_v.grad.isfinite().all()


def test_properties():
    layer = prototypes(5, [0.5, -2.0, 1.0])
    np.testing.assert_allclose(layer.directions.detach().numpy(), mean_directions(layer), rtol=1e-12)
    np.testing.assert_allclose(layer.magnitudes.detach().numpy(), [0.5, 2.0, 1.0])
    np.testing.assert_allclose(layer.concentrations(0.1).detach().numpy(), [5.0, 20.0, 10.0])
    with torch.no_grad():
        layer.normalization = "l2"
        np.testing.assert_allclose(layer.magnitudes.numpy(), 1.0)
        np.testing.assert_allclose(layer.concentrations(0.04).numpy(), 25.0)
        np.testing.assert_allclose(layer.directions.numpy(), layer.weight_v.numpy() / 3.0, rtol=1e-12)


@ALL
def test_parameters_at_the_start(normalization):
    torch.manual_seed(3)
    layer = Prototypes(16, 40, normalization)
    torch.manual_seed(3)
    linear = torch.nn.Linear(16, 40, bias=False)
    torch.testing.assert_close(layer.weight_v, linear.weight)
    assert {name: tuple(x.shape) for name, x in layer.state_dict().items()} == {
        "weight_v": (40, 16),
        "weight_g": (40, 1),
    }
    assert torch.equal(layer.weight_g, torch.ones(40, 1))
    assert layer.weight_g.requires_grad == (normalization != "l2")
    assert not Prototypes(16, 40, normalization, learn_magnitudes=False).weight_g.requires_grad


@ALL
def test_autocast_keeps_float32(normalization):
    layer = prototypes(64, [0.5, 1.0, 30.0], normalization)
    y = unit(4, 64)
    exact = layer(y, 0.1)
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(y.float(), 0.1)
        assert layer(y.bfloat16(), 0.1).dtype == torch.float32
    assert logits.dtype == torch.float32
    assert exact.dtype == torch.float64
    torch.testing.assert_close(logits.double(), exact, rtol=1e-6, atol=1e-4)


@ALL
def test_leading_dimensions(normalization):
    layer = prototypes(5, [0.5, 1.0], normalization)
    y = unit(2, 3, 5)
    torch.testing.assert_close(layer(y, 0.1)[1, 2], layer(y[1, 2], 0.1))
    assert layer(y, 0.1).shape == (2, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 4, "cosine"), "normalization must be one of none, l2, vmf, got 'cosine'"),
        ((0, 4, "l2"), "bottleneck_dim must be at least 1 .*got 0"),
        ((1, 4, "vmf"), "bottleneck_dim must be at least 2 .*got 1"),
        ((8, 0, "none"), "out_dim.* must be at least 2, got 0"),
        ((8, 1, "vmf"), "out_dim.* must be at least 2, got 1"),
    ],
)
def test_bad_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prototypes(*arguments)


@ALL
@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
def test_bad_temperature_is_named(normalization, temperature):
    layer = Prototypes(8, 4, normalization)
    with pytest.raises(ValueError, match=f"temperature must be .*got {temperature}"):
        layer(torch.ones(2, 8), temperature)
    with pytest.raises(ValueError, match=f"temperature must be .*got {temperature}"):
        layer.concentrations(temperature)


def test_wrong_dimension_is_named():
    with pytest.raises(ValueError, match=r"y must have shape \(\.\.\., 8\), got \(2, 7\)"):
        Prototypes(8, 4)(torch.ones(2, 7), 0.1)


@ALL
def test_log_normalizers_are_what_forward_adds(normalization):
    layer = prototypes(6, [0.0, 0.5, -3.0], normalization)
    y = unit(4, 6)
    w = layer.directions * layer.magnitudes[:, None]
    torch.testing.assert_close(layer(y, 0.1), y @ w.T / 0.1 + layer.log_normalizers(0.1), rtol=1e-11, atol=1e-12)
    expected = torch.zeros(3, dtype=torch.float64)
    if normalization == "vmf":
        kappa = torch.tensor([0.0, 5.0, 30.0], dtype=torch.float64)
        expected = log_normalizer(kappa, 6) - log_normalizer(0 * kappa, 6)
    torch.testing.assert_close(layer.log_normalizers(0.1), expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="temperature must be"):
        layer.log_normalizers(0.0)


def mixture_posterior(layer, y, tau):
    """Responsibilities of Eq. 2 from the estimator, with equal proportions."""
    k = layer.out_dim
    mixture = VonMisesFisherMixture(k)
    mixture.weights_ = np.full(k, 1 / k)
    mixture.means_ = layer.directions.detach().numpy()
    mixture.concentrations_ = layer.concentrations(tau).detach().numpy()
    mixture.n_features_in_ = layer.bottleneck_dim
    return mixture.predict_proba(y.numpy())


@pytest.mark.parametrize("dim", [2, 3, 64, 256])
@pytest.mark.parametrize("tau", [0.04, 0.1, 1.0])
def test_probabilities_are_responsibilities_of_the_mixture_estimator(dim, tau):
    """Eq. 6 by the layer against Eq. 2 by the estimator."""
    layer = prototypes(dim, [0.3, 1.0, -1.1, 1.2, 2.0])
    y = torch.cat([unit(20, dim), layer.directions.detach()])
    ours = torch.softmax(layer(y, tau), dim=-1).detach().numpy()
    np.testing.assert_allclose(ours, mixture_posterior(layer, y, tau), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 64, 256])
@pytest.mark.parametrize("tau", [0.04, 0.1, 1.0])
def test_equal_magnitudes_make_vmf_and_l2_agree(dim, tau):
    y = unit(20, dim)
    vmf, l2 = (prototypes(dim, [1.0] * 6, normalization)(y, tau) for normalization in ("vmf", "l2"))
    torch.testing.assert_close(torch.softmax(vmf, dim=-1), torch.softmax(l2, dim=-1), rtol=1e-10, atol=1e-14)
