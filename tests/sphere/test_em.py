"""E- and M-steps against longhand, published fits and planted parameters."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import gamma, ive, logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from vmflearn.data.household import load_household
from vmflearn.sphere import VonMisesFisherMixture
from vmflearn.sphere.bessel import log_hypergeometric
from vmflearn.sphere.em import exponentials_, labels_of
from vmflearn.sphere.rows import DenseChunk
from vmflearn.sphere.sparse_rows import SparseChunk

# ---- longhand: numpy and scipy only ----


def log_c(kappa, dim):
    nu = dim / 2 - 1
    return nu * np.log(kappa) - dim / 2 * np.log(2 * np.pi) - np.log(ive(nu, kappa)) - kappa


def inverse_ratio(length, dim):
    return brentq(lambda k: ive(dim / 2, k) / ive(dim / 2 - 1, k) - length, 1e-9, 1e6, xtol=1e-13, rtol=1e-15)


def longhand_start(X, directions):
    kappa = max(1.0, inverse_ratio(np.mean(np.max(X @ directions.T, axis=1)), X.shape[1]))
    n_components = len(directions)
    return np.full(n_components, 1 / n_components), directions, np.full(n_components, kappa)


def longhand_log_joint(X, weights, means, kappas):
    joint = np.empty((len(X), len(weights)))
    for i, x in enumerate(X):
        for k in range(len(weights)):
            joint[i, k] = np.log(weights[k]) + log_c(kappas[k], X.shape[1]) + kappas[k] * (means[k] @ x)
    return joint


def longhand_maximise(X, r, concentration, shrinkage=0.0):
    mass, resultant = r.sum(axis=0), r.T @ X
    length = np.linalg.norm(resultant, axis=1)
    if concentration == "tied":
        kappas = np.full(len(mass), inverse_ratio(length.sum() / (mass + shrinkage).sum(), X.shape[1]))
    else:
        kappas = np.array([inverse_ratio(rbar, X.shape[1]) for rbar in length / (mass + shrinkage)])
    return mass / mass.sum(), resultant / length[:, None], kappas


@pytest.mark.parametrize("dim", [2, 3, 5, 16])
@pytest.mark.parametrize("concentration", ["free", "tied"])
@pytest.mark.parametrize("shrinkage", [0.0, 2.5])
def test_one_step_equals_longhand(dim, concentration, shrinkage):
    rng = np.random.default_rng(dim)
    X = rng.normal(size=(30, dim)) + 2 * rng.integers(0, 2, size=(30, 1))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    sample_weight = rng.integers(1, 4, size=30)
    repeated = np.repeat(X, sample_weight, axis=0)

    start = longhand_start(repeated, X[:3])
    joint = longhand_log_joint(repeated, *start)
    r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    weights, means, kappas = longhand_maximise(repeated, r, concentration, shrinkage)
    after = longhand_log_joint(X, weights, means, kappas)

    mixture = VonMisesFisherMixture(
        3, concentration=concentration, init=X[:3] * 7, max_iter=1, tol=0, shrinkage=shrinkage
    )
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        mixture.fit(X, sample_weight=sample_weight)
    np.testing.assert_allclose(mixture.weights_, weights, rtol=1e-11)
    np.testing.assert_allclose(mixture.means_, means, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mixture.concentrations_, kappas, rtol=1e-9)
    final = logsumexp(after, axis=1)
    uniform = np.log(gamma(dim / 2) / 2 / np.pi ** (dim / 2))
    objectives = [
        log_likelihood - shrinkage * sum(uniform - log_c(kappa, dim) for kappa in concentrations)
        for log_likelihood, concentrations in (
            (logsumexp(joint, axis=1).sum(), start[2]),
            (final @ sample_weight, kappas),
        )
    ]
    np.testing.assert_allclose(mixture.log_likelihoods_, objectives, rtol=1e-9)
    np.testing.assert_allclose(mixture.score_samples(X), final, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(mixture.predict_proba(X), np.exp(after - final[:, None]), rtol=1e-8, atol=1e-12)
    assert mixture.n_iter_ == 1
    assert not mixture.converged_


@pytest.mark.parametrize("concentration", ["free", "tied"])
def test_hard_assignment_equals_longhand_argmax(planted, concentration):
    X, _, _ = planted([0.3, 0.3, 0.4], [[1, 0, 0], [0, 1, 0], [-1, -1, 1]], [12, 6, 3], 200)
    directions = X[:3]
    parameters = longhand_start(X, directions)
    history = []
    for _ in range(5):
        joint = longhand_log_joint(X, *parameters)
        history.append(joint.max(axis=1).sum())
        parameters = longhand_maximise(X, np.eye(3)[joint.argmax(axis=1)], concentration)
    mixture = VonMisesFisherMixture(
        3, concentration=concentration, assignment="hard", init=directions, max_iter=5, tol=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(X)
    assert mixture.n_iter_ == 5
    np.testing.assert_allclose(mixture.log_likelihoods_[:5], history, rtol=1e-10)
    assert min(np.diff(mixture.log_likelihoods_)) > -1e-10
    assert mixture.log_likelihoods_[-1] > history[0] + 1
    np.testing.assert_allclose(mixture.weights_, parameters[0], rtol=1e-12)
    np.testing.assert_allclose(mixture.means_, parameters[1], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(mixture.concentrations_, parameters[2], rtol=1e-9)


# ---- known answers: movMF on the household data (Hornik & Grün 2014) ----


def household_fit(n_components, concentration="free"):
    X = load_household().X
    mixture = VonMisesFisherMixture(
        n_components, concentration=concentration, n_init=4, tol=1e-11, max_iter=2000, random_state=0
    ).fit(X)
    log_uniform = 40 * -np.log(4 * np.pi)  # movMF's density is with respect to the uniform distribution
    order = np.argsort(-mixture.weights_)
    return (
        mixture.weights_[order],
        mixture.means_[order],
        mixture.concentrations_[order],
        mixture.score(X) * 40 - log_uniform,
        mixture.bic(X) + 2 * log_uniform,
    )


@pytest.mark.parametrize(
    ("n_components", "weights", "means", "concentrations", "log_likelihood", "bic"),
    [
        (1, [1.0], None, [12.9753], 90.247852, -169.4291),
        (
            2,
            [0.5342, 0.4658],
            [[0.6689, 0.6289, 0.3963], [0.9545, 0.1255, 0.2704]],
            [17.9587, 114.7195],
            113.079268,
            -200.3364,
        ),
        (
            3,
            [0.5246, 0.3504, 0.1250],
            [[0.9504, 0.1461, 0.2745], [0.5883, 0.7570, 0.2842], [0.6652, 0.3091, 0.6796]],
            [83.2556, 62.9093, 181.208],
            126.063335,
            -211.5490,
        ),
    ],
)
def test_household_agrees_with_movmf(n_components, weights, means, concentrations, log_likelihood, bic):
    found_weights, found_means, found_concentrations, found_log_likelihood, found_bic = household_fit(n_components)
    np.testing.assert_allclose(found_weights, weights, atol=6e-5)
    np.testing.assert_allclose(found_concentrations, concentrations, rtol=2e-5)
    assert found_log_likelihood == pytest.approx(log_likelihood, abs=1e-6)
    assert found_bic == pytest.approx(bic, abs=6e-5)
    if means is not None:
        np.testing.assert_allclose(found_means, means, atol=6e-5)


@pytest.mark.parametrize(
    ("n_components", "log_likelihood", "kappa"), [(2, 107.733716, 37.1731), (3, 124.557322, 79.5727)]
)
def test_household_with_tied_concentration(n_components, log_likelihood, kappa):
    _, _, concentrations, found, bic = household_fit(n_components, "tied")
    assert found == pytest.approx(log_likelihood, abs=1e-6)
    np.testing.assert_allclose(concentrations, kappa, rtol=1e-5)
    n_free = 2 * n_components + 1 + n_components - 1
    assert bic == pytest.approx(-2 * log_likelihood + n_free * np.log(40), abs=1e-5)


# ---- planted parameters ----


@pytest.mark.parametrize(
    ("means", "concentrations", "angle"),
    [
        ([[1.0, 0.2], [-0.5, 1.0]], [20.0, 6.0], 0.05),
        ([[1.0, 0, 0], [0, 1, 0], [0, 0.3, -1]], [30.0, 10.0, 60.0], 0.05),
        (np.random.default_rng(1).normal(size=(4, 64)), [60.0, 100.0, 200.0, 400.0], 0.15),
    ],
    ids=["circle", "sphere", "dim64"],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_planted_parameters_are_recovered(planted, means, concentrations, angle, dtype):
    weights = np.arange(2, 2 + len(means)) / np.arange(2, 2 + len(means)).sum()
    X, labels, means = planted(weights, means, concentrations, 3000)
    mixture = VonMisesFisherMixture(len(means), n_init=2, random_state=0).fit(X.astype(dtype))
    match = (mixture.means_ @ means.T).argmax(axis=0)
    assert sorted(match) == list(range(len(means)))
    assert np.arccos(np.clip((mixture.means_[match] * means).sum(axis=1), -1, 1)).max() < angle
    np.testing.assert_allclose(mixture.weights_[match], weights, atol=0.03)
    np.testing.assert_allclose(mixture.concentrations_[match], concentrations, rtol=0.12)
    assert adjusted_rand_score(labels, mixture.predict(X)) > 0.85
    assert mixture.converged_


def test_tied_concentration_is_shared_and_recovered(planted):
    X, _, _ = planted([0.5, 0.5], [[1, 0, 0], [0, 1, 0]], [15.0, 15.0], 4000)
    mixture = VonMisesFisherMixture(2, concentration="tied", random_state=0).fit(X)
    assert np.ptp(mixture.concentrations_) == 0
    assert mixture.concentrations_[0] == pytest.approx(15.0, rel=0.05)


# ---- properties ----


@st.composite
def problems(draw):
    seed = draw(st.integers(0, 2**31 - 1))
    rng = np.random.default_rng(seed)
    dim, n_components = draw(st.integers(2, 7)), draw(st.integers(1, 5))
    n = draw(st.integers(max(n_components, 1), 40))
    spread = 10.0 ** draw(st.integers(-6, 1))
    X = rng.normal(size=(4, dim))[rng.integers(0, 4, size=n)] + spread * rng.normal(size=(n, dim))
    if draw(st.booleans()):
        X = X[rng.integers(0, n, size=n)]  # duplicates
    sample_weight = rng.exponential(size=n) if draw(st.booleans()) else None
    return X, n_components, sample_weight, seed


@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("concentration", ["free", "tied"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
@given(problem=problems(), shrinkage=st.sampled_from([0.0, 0.01, 1.0, 30.0]))
@settings(deadline=None, derandomize=True, max_examples=8)
def test_objective_never_decreases(assignment, concentration, init, problem, shrinkage):
    X, n_components, sample_weight, seed = problem
    mixture = VonMisesFisherMixture(
        n_components,
        concentration=concentration,
        assignment=assignment,
        init=init,
        max_iter=15,
        tol=0,
        shrinkage=shrinkage,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(X, sample_weight=sample_weight)
    history = np.array(mixture.log_likelihoods_)
    assert np.isfinite(history).all()
    total_weight = len(X) if sample_weight is None else sample_weight.sum()
    assert np.diff(history).min() >= -1e-9 * (np.abs(history).max() + total_weight)
    assert np.isfinite(mixture.means_).all()
    assert np.isfinite(mixture.concentrations_).all()
    assert mixture.weights_.sum() == pytest.approx(1.0)
    proba = mixture.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    assert (mixture.predict(X) == proba.argmax(axis=1)).all()
    if assignment == "soft":
        total = mixture.score_samples(X) @ (np.ones(len(X)) if sample_weight is None else sample_weight)
        penalty = shrinkage * sum(float(log_hypergeometric(kappa, X.shape[1])) for kappa in mixture.concentrations_)
        assert total - penalty == pytest.approx(history[-1], rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("assignment", ["soft", "hard"])
def test_chunk_size_does_not_change_results(planted, init, assignment):
    X, _, _ = planted([0.5, 0.5], [[1, 0, 0], [0, 1, 1]], [20.0, 5.0], 101)
    parameters = {"init": init, "assignment": assignment, "random_state": 3, "max_iter": 12, "tol": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [VonMisesFisherMixture(2, chunk_size=size, **parameters).fit(X) for size in (1, 7, 100, 4096)]
    for other in fits[:-1]:
        np.testing.assert_allclose(other.means_, fits[-1].means_, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(other.concentrations_, fits[-1].concentrations_, rtol=1e-6)
        np.testing.assert_allclose(other.predict_proba(X), fits[-1].predict_proba(X), atol=1e-6)
        np.testing.assert_allclose(other.score_samples(X), fits[-1].score_samples(X), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("concentration", ["free", "tied"])
def test_shrinkage_of_one_row_in_closed_form(concentration):
    """One row and m pseudo-observations at dim 3: coth(kappa) - 1/kappa = 1 / (1 + m)."""
    for m in (0.1, 1.0, 9.0):
        mixture = VonMisesFisherMixture(1, shrinkage=m, concentration=concentration).fit(np.array([[0.0, 3.0, 0.0]]))
        kappa = mixture.concentrations_[0]
        assert 1 / np.tanh(kappa) - 1 / kappa == pytest.approx(1 / (1 + m), rel=1e-12)
        objective = np.log(kappa / (4 * np.pi * np.sinh(kappa))) + kappa - m * np.log(np.sinh(kappa) / kappa)
        assert mixture.log_likelihoods_[-1] == pytest.approx(objective, rel=1e-12)


def test_tied_shrinkage_counts_every_component():
    """Two rows in two components, far apart: A(kappa) = 2 / (2 + 2 m), as for each of them alone."""
    X = np.array([[1.0, 0, 0], [-1, 0, 0]])
    mixture = VonMisesFisherMixture(2, concentration="tied", assignment="hard", shrinkage=0.25, init=X).fit(X)
    kappa = mixture.concentrations_
    np.testing.assert_allclose(1 / np.tanh(kappa) - 1 / kappa, 0.8, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_over_a_wide_range(dtype):
    """Logits in bits, up to thousands apart, against logsumexp; what is left of no weight is exactly zero."""
    rng = np.random.default_rng(0)
    bits = torch.from_numpy(rng.uniform(-3000, 3000, size=(6, 40))).to(dtype)
    bits[0, :20] = -torch.inf
    nats = bits.double().numpy() * np.log(2)
    work = bits.clone()
    total, log_likelihood = exponentials_(work)
    rounding = torch.finfo(dtype).eps
    expected = logsumexp(nats, axis=0)
    np.testing.assert_allclose(log_likelihood, expected, rtol=8 * rounding, atol=8 * rounding)
    # bits are exact in the type, so that differences between them lose no more than rounding of the difference
    np.testing.assert_allclose(work / total, np.exp(nats - expected), rtol=6000 * rounding, atol=2.0**-80)
    assert (work[0, :20] == 0).all()
    assert not ((work > 0) & (work < torch.finfo(dtype).tiny)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_over_a_wide_range(dtype):
    """The largest of logits in bits, the first of equal ones, and no product of it but the change to nats."""
    bits = torch.from_numpy(np.random.default_rng(0).uniform(-3000, 3000, size=(40, 6))).to(dtype)
    bits[:20, 0] = -torch.inf
    bits[3] = bits[3].max()
    labels, log_likelihood = labels_of(bits.clone().T)
    assert labels.tolist() == bits.argmax(dim=1).tolist()
    assert labels[3] == 0
    largest = bits.double().amax(dim=1) * np.log(2)
    np.testing.assert_allclose(log_likelihood, largest, rtol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_by_label_are_those_of_float64_rows(dtype, is_sparse, weighted):
    """Each row as it is stored, times its weight, in float64: no float32 sum of 5,000 rows of one label."""
    rng = np.random.default_rng(1)
    X = np.abs(rng.normal(size=(5000, 3))) + np.array([3, 0, 0])
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(dtype)
    labels = np.where(np.arange(5000) % 10 == 0, 2, 0)
    weights = rng.random(5000) if weighted else np.ones(5000)
    chunk = SparseChunk(sparse.csr_array(X)) if is_sparse else DenseChunk(torch.from_numpy(X))
    sums = torch.ones(4, 3, dtype=torch.float64)
    chunk.add_to(sums, torch.from_numpy(labels), torch.from_numpy(weights))
    for k in range(4):
        rows = X[labels == k].astype(np.float64) * weights[labels == k, None]
        longhand = [1 + math.fsum(column) for column in rows.T]
        np.testing.assert_allclose(sums[k], longhand, rtol=1e-13)


# ---- row weights have no scale ----

POWERS = [-1074, -1000, -160, 130, 1000]  # into the denormal numbers, those of float32 too, and near the largest


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "chosen", [{"init": "random", "assignment": "soft"}, {"assignment": "hard", "concentration": "tied"}]
)
def test_only_ratios_of_row_weights_matter(planted, dtype, power, chosen):
    """To the last bit, for powers of two; shrinkage is a weight, and goes along."""
    X = planted([0.5, 0.5], [[1, 0, 0], [0, 1, 1]], [20.0, 5.0], 60)[0].astype(dtype)
    weight, unit = np.random.default_rng(0).integers(1, 9, size=60).astype(float), 2.0**power
    settings = {"random_state": 3, "tol": 1e-4, "empty": "reseed", "max_iter": 500, **chosen}
    for shrinkage in (0.0, 4.0):
        one = VonMisesFisherMixture(2, shrinkage=shrinkage, **settings).fit(X, sample_weight=weight)
        two = VonMisesFisherMixture(2, shrinkage=shrinkage * unit, **settings).fit(X, sample_weight=weight * unit)
        assert (one.concentrations_ > 1).all()
        for name in ("weights_", "means_", "concentrations_"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert two.log_likelihoods_ == [objective * unit for objective in one.log_likelihoods_]
        assert (one.converged_, one.n_iter_) == (two.converged_, two.n_iter_)


@pytest.mark.parametrize("largest", [1e-300, 1e-45, 1e38, 1e155, 1e308])
def test_equal_weights_of_any_size_are_no_weights(largest):
    X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    plain = VonMisesFisherMixture(2, random_state=0, tol=1e-4).fit(X)
    found = VonMisesFisherMixture(2, random_state=0, tol=1e-4).fit(X, sample_weight=np.full(40, largest))
    np.testing.assert_allclose(found.concentrations_, plain.concentrations_, rtol=1e-4)
    np.testing.assert_allclose(found.means_, plain.means_, atol=1e-5)


def test_shrinkage_beside_next_to_no_weight_is_all_there_is():
    X = np.random.default_rng(0).normal(size=(40, 3)) + 1
    mixture = VonMisesFisherMixture(1, shrinkage=1.0).fit(X, sample_weight=np.full(40, 1e-320))
    assert 0 <= mixture.concentrations_[0] < 1e-150
    assert np.isfinite(mixture.log_likelihoods_).all()


# ---- the edge of the data ----


@pytest.mark.parametrize(("dtype", "complement"), [(np.float64, 2.0**-26), (np.float32, 2.0**-11.5)])
@pytest.mark.parametrize("dim", [2, 3, 50])
def test_one_row_gives_the_largest_concentration(dtype, complement, dim):
    x = np.random.default_rng(dim).normal(size=(1, dim)).astype(dtype)
    mixture = VonMisesFisherMixture(1).fit(x)
    np.testing.assert_allclose(mixture.means_, x / np.linalg.norm(x), rtol=1e-6)
    expected = (dim - 1) / 2 / complement  # 1 - A_p(kappa) = (p - 1) / (2 kappa) to leading order
    assert mixture.concentrations_[0] == pytest.approx(expected, rel=(dim + 1) * complement)
    assert np.isfinite(mixture.score(x))


@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("concentration", ["free", "tied"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_fewer_distinct_rows_than_components(assignment, concentration, init):
    X = np.repeat(np.eye(3)[:2], 5, axis=0)
    mixture = VonMisesFisherMixture(
        4, assignment=assignment, concentration=concentration, init=init, random_state=0, max_iter=1000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(X)
    for fitted in (mixture.weights_, mixture.means_, mixture.concentrations_, mixture.score_samples(X)):
        assert np.isfinite(fitted).all()
    np.testing.assert_allclose(np.linalg.norm(mixture.means_, axis=1), 1.0)
    if init == "k-means++":
        assert (mixture.predict(X[:5]) != mixture.predict(X[5:])).all()


def test_component_without_rows_keeps_its_direction_with_weight_zero():
    X = np.array([[1, 0.1], [1, -0.1], [0.1, 1], [-0.1, 1]])
    init = np.array([[1.0, 0], [0, 1], [-1, -1]])
    mixture = VonMisesFisherMixture(3, init=init, assignment="hard", concentration="tied")
    with pytest.warns(ConvergenceWarning, match="1 of 3 components"):
        mixture.fit(X)
    np.testing.assert_allclose(mixture.weights_, [0.5, 0.5, 0])
    np.testing.assert_allclose(mixture.means_, [[1, 0], [0, 1], [-(0.5**0.5)] * 2], atol=1e-15)
    assert (mixture.predict_proba(X)[:, 2] == 0).all()
    assert np.isfinite(mixture.score_samples(X)).all()
    free = VonMisesFisherMixture(3, init=init, assignment="hard")
    with pytest.warns(ConvergenceWarning, match="1 of 3 components"):
        free.fit(X)
    assert free.concentrations_[2] == 0
    assert (free.concentrations_[:2] > 1).all()


def test_opposite_rows_have_no_mean_direction():
    mixture = VonMisesFisherMixture(1).fit(np.array([[1.0, 0, 0], [-1, 0, 0]]))
    assert mixture.concentrations_[0] == pytest.approx(0.0, abs=1e-12)
    assert mixture.score(np.eye(3)) == pytest.approx(-np.log(4 * np.pi))
