"""Arrays of every kind are taken as the numbers in them, by every public function that takes arrays."""

import math
import warnings

import numpy as np
import pytest
import torch

from vmflearn.sphere import (
    VonMisesFisher,
    VonMisesFisherMixture,
    concentration_from_length,
    log_iv,
    log_normalizer,
    mean_resultant_length,
)

RNG = np.random.default_rng(0)
LENGTHS = np.linspace(0.1, 0.9, 5)
X = RNG.normal(size=(6, 3))
X /= np.linalg.norm(X, axis=1, keepdims=True)

PUBLIC = {
    "log_normalizer": (lambda a: log_normalizer(a, 5), LENGTHS),
    "mean_resultant_length": (lambda a: mean_resultant_length(a, 5), LENGTHS),
    "log_iv": (lambda a: log_iv(1.5, a), LENGTHS),
    "length": (lambda a: concentration_from_length(a, 5), LENGTHS),
    "complement": (lambda a: concentration_from_length(np.array(1 - a), 5, a), LENGTHS),
    "loc": (lambda a: VonMisesFisher(a, 3.0).log_prob(torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)), X),
    "concentration": (lambda a: VonMisesFisher(X[0], a).entropy(), LENGTHS),
    "natural": (lambda a: VonMisesFisher.from_natural(a).entropy(), X),
    "X": (lambda a: VonMisesFisher.fit(a).concentration, X),
    "weights": (lambda a: VonMisesFisher.fit(X[:5], a).concentration, LENGTHS),
    "rows of a mixture": (lambda a: fitted(a).means_, X),
    "sample_weight": (lambda a: fitted(X[:5], a).means_, LENGTHS),
    "init": (lambda a: fitted(X, init=a[:2]).means_, X),
}


def fitted(rows, weights=None, init=X[:2]):
    return VonMisesFisherMixture(2, init=init, tol=1e-2).fit(rows, sample_weight=weights)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("layout", ["reversed", "strided", "Fortran", "read-only", "big-endian"])
def test_layouts(name: str, layout: str) -> None:
    function, values = PUBLIC[name]
    base = values.copy()
    base.setflags(write=layout != "read-only")
    given = {
        "reversed": lambda: np.ascontiguousarray(base[..., ::-1])[..., ::-1],
        "strided": lambda: np.repeat(base, 2, axis=0)[::2],
        "Fortran": lambda: np.asfortranarray(base),
        "read-only": lambda: base,
        "big-endian": lambda: base.astype(">f8"),
    }[layout]()
    # not to the last bit: in which order a product of matrices adds up depends on how they lie in memory
    np.testing.assert_allclose(np.asarray(function(given)), np.asarray(function(values)), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(given, values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_unit_length_is_judged_by_the_precision_of_the_array(dtype) -> None:
    """Normalised in its own type, as the same tensor is; the result is that of the tensor."""
    x = RNG.normal(size=(50, 40)).astype(dtype)
    x /= np.linalg.norm(x.astype(np.float32), axis=1, keepdims=True).astype(dtype)
    assert np.abs(np.linalg.norm(x.astype(float), axis=1) - 1).max() > 1e-9
    for given, tensor in ((x, torch.from_numpy(x)), (x[::-1], torch.from_numpy(x[::-1].copy()))):
        one, two = VonMisesFisher.fit(given), VonMisesFisher.fit(tensor)
        assert one.concentration.dtype == torch.float32
        assert torch.equal(one.loc, two.loc)
        assert torch.equal(one.concentration, two.concentration)
        assert torch.equal(VonMisesFisher(given, 2.0).mean, VonMisesFisher(tensor, 2.0).mean)
    for refused in (2 * x, x.astype(float)):  # a double has no excuse
        with pytest.raises(ValueError, match="must be of unit length"):
            VonMisesFisher.fit(refused)
        with pytest.raises(ValueError, match="must be of unit length"):
            VonMisesFisher(refused, 1.0)


def test_a_fitted_mixture_of_read_only_arrays_predicts() -> None:
    """As joblib hands them to its workers."""
    mixture = fitted(X)
    expected = mixture.predict_proba(X), mixture.sample(3)[0].shape
    for name in ("weights_", "means_", "concentrations_"):
        getattr(mixture, name).setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(mixture.predict_proba(X), expected[0])
        assert mixture.sample(3)[0].shape == expected[1]


@pytest.mark.parametrize("value", [np.array([1j]), np.array(["a"]), [[1.0], [1.0, 2.0]], {}, object()])
def test_what_is_no_array_of_real_numbers(value) -> None:
    with pytest.raises(ValueError, match="kappa must be a real number, an array or a tensor"):
        log_normalizer(value, 3)


def test_integers_and_numbers_are_doubles() -> None:
    for value in (2, 2.0, np.int32(2), np.float32(2), [2], np.array(2, dtype=np.uint8), np.array([2.0], np.longdouble)):
        assert log_normalizer(value, 3).dtype == torch.float64
        assert float(log_normalizer(value, 3)) == pytest.approx(math.log(2 / (4 * math.pi * math.sinh(2))), rel=1e-15)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "complement"])  # made here by arithmetic
def test_masked_numbers_are_not_taken_as_if_they_were_there(name) -> None:
    work, array = PUBLIC[name]
    masked = np.ma.masked_array(array.copy())
    expected = work(masked)  # nothing is masked yet
    assert np.isfinite(np.asarray(expected)).all()
    masked[0] = np.ma.masked
    with pytest.raises(ValueError, match=r"is masked in [13] places: fill them"):
        work(masked)


@pytest.mark.parametrize(("name", "shape"), [("init", (2, 3)), ("weights_init", (2,)), ("concentrations_init", (2,))])
def test_starts_of_every_kind(name, shape) -> None:
    """Tensors of any real type and lists are the numbers in them; what is none is refused by its name."""
    numbers = np.arange(1, 1 + math.prod(shape)).reshape(shape)[..., ::-1]

    def start(value):
        mixture = VonMisesFisherMixture(2, **{"init": X[:2], name: value}, max_iter=0).fit(X)
        return mixture.weights_, mixture.means_, mixture.concentrations_

    expected = start(numbers)
    tensor = torch.from_numpy(numbers.copy())
    for value in (tensor, tensor.bfloat16(), tensor.double().requires_grad_(), numbers.tolist(), numbers.astype("O")):
        for one, two in zip(start(value), expected, strict=True):
            np.testing.assert_array_equal(one, two)
    for value in (tensor + 0j, numbers + 0j, "a" if name != "init" else [["a"]], lambda: 0, [[1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match=f"^{name} must "):
            start(value)
