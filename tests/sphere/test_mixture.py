"""The estimator's verbs, and how it gets on with scikit-learn."""

import pickle

import numpy as np
import pandas
import pytest
import sklearn
import torch
from packaging.version import Version
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from vmflearn.data.household import load_household
from vmflearn.sphere import VonMisesFisherMixture


def test_aic_and_bic_count_the_same_parameters():
    X = load_household().X
    for concentration, n_free in (("free", 2 * 2 + 2 + 1), ("tied", 2 * 2 + 1 + 1)):
        mixture = VonMisesFisherMixture(2, concentration=concentration, random_state=0).fit(X)
        assert mixture.aic(X) == pytest.approx(-80 * mixture.score(X) + 2 * n_free)
        assert mixture.bic(X) - mixture.aic(X) == pytest.approx(n_free * (np.log(40) - 2))


def test_order_of_rows_does_not_change_the_fit(planted):
    X, _, _ = planted([0.4, 0.6], [[1, 0, 0], [0, 1, 1]], [20.0, 5.0], 60)
    shuffled = np.random.default_rng(0).permutation(60)
    one, two = (VonMisesFisherMixture(3, random_state=1).fit(rows) for rows in (X, X[shuffled]))
    np.testing.assert_allclose(one.means_, two.means_, rtol=1e-8)
    np.testing.assert_allclose(one.log_likelihoods_, two.log_likelihoods_, rtol=1e-10)


def test_length_of_rows_does_not_matter(planted):
    X, _, _ = planted([0.4, 0.6], [[1, 0, 0], [0, 1, 1]], [20.0, 5.0], 40)
    lengths = 10.0 ** np.linspace(-300, 300, 40)[:, None]
    one, two = (VonMisesFisherMixture(2, random_state=1).fit(rows) for rows in (X, X * lengths))
    np.testing.assert_allclose(one.means_, two.means_, rtol=1e-9)
    np.testing.assert_allclose(one.score_samples(X), one.score_samples(X * lengths), rtol=1e-9)


def test_rows_of_zeros_weigh_nothing():
    X = load_household().X
    with_zeros = np.insert(X, [3, 17], 0.0, axis=0)
    plain = VonMisesFisherMixture(2, random_state=0).fit(X)
    with pytest.warns(UserWarning, match=r"2 rows of zeros, first \[3, 18\]"):
        mixture = VonMisesFisherMixture(2, random_state=0).fit(with_zeros)
    np.testing.assert_allclose(mixture.means_, plain.means_, rtol=1e-9)
    np.testing.assert_allclose(mixture.predict_proba(with_zeros)[[3, 18]], [plain.weights_] * 2, rtol=1e-8)
    assert (mixture.score_samples(with_zeros)[[3, 18]] == 0).all()
    assert mixture.score(with_zeros) == pytest.approx(plain.score(X))
    assert mixture.bic(with_zeros) == pytest.approx(plain.bic(X))


def test_sample_follows_the_mixture(planted):
    X, _, _ = planted([0.3, 0.7], [[1, 0, 0], [0, 1, 1]], [40.0, 5.0], 500)
    mixture = VonMisesFisherMixture(2, random_state=0).fit(X)
    state = torch.get_rng_state()
    rows, labels = mixture.sample(4000)
    assert torch.equal(torch.get_rng_state(), state)
    assert rows.shape == (4000, 3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.bincount(labels) / 4000, mixture.weights_, atol=0.03)
    for k in range(2):
        kappa = mixture.concentrations_[k]
        np.testing.assert_allclose(
            rows[labels == k].mean(axis=0), mixture.means_[k] * (1 / np.tanh(kappa) - 1 / kappa), atol=0.03
        )
    np.testing.assert_array_equal(mixture.sample(5)[0], mixture.sample(5)[0])


def test_logarithms_of_responsibilities_do_not_end_at_rounding():
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [0.0, 0.0]])
    with pytest.warns(UserWarning, match="1 rows of zeros"):
        mixture = VonMisesFisherMixture(2, concentration="tied", random_state=0).fit(rows * 3)
    mixture.concentrations_[:] = 5000.0
    found = mixture.predict_log_proba(rows)
    longhand = (
        np.log(mixture.weights_) + 5000 * (rows @ mixture.means_.T)[:2] / np.linalg.norm(rows[:2], axis=1)[:, None]
    )
    np.testing.assert_allclose(found[:2], longhand - longhand.max(axis=1, keepdims=True), rtol=1e-10, atol=1e-10)
    assert found.min() < -1000
    np.testing.assert_allclose(found[4], np.log(mixture.weights_))


def test_score_with_weights_counts_rows_again():
    X = load_household().X
    mixture = VonMisesFisherMixture(2, random_state=0).fit(X)
    weights = np.arange(40) % 3
    assert mixture.score(X, sample_weight=weights) == pytest.approx(mixture.score(np.repeat(X, weights, axis=0)))
    assert mixture.score(X, sample_weight=np.full(40, 1e-320)) == pytest.approx(mixture.score(X))
    with pytest.raises(ValueError, match=r"sample_weight is negative in rows \[0, 1"):
        mixture.score(X, sample_weight=-np.ones(40))


def test_criteria_with_weights_count_rows_again():
    X, weights = load_household().X, np.arange(40) % 3
    mixture = VonMisesFisherMixture(2, random_state=0).fit(X)
    repeated = np.repeat(X, weights, axis=0)
    assert mixture.bic(X, sample_weight=weights) == pytest.approx(mixture.bic(repeated))
    assert mixture.aic(X, sample_weight=weights) == pytest.approx(mixture.aic(repeated))


def test_weights_reach_fit_and_score_through_a_grid_search(planted):
    """scikit-learn's metadata routing, against the same folds by hand."""
    X, _, _ = planted([0.5, 0.5], [[1, 0, 0], [0, 1, 1]], [30.0, 30.0], 90)
    weights = np.random.default_rng(0).integers(0, 4, size=90)
    with config_context(enable_metadata_routing=True):
        mixture = VonMisesFisherMixture(random_state=0, tol=1e-4)
        mixture.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        searched, name = mixture, "n_components"
        if Version(sklearn.__version__) >= Version("1.8"):  # before, a search lets no weights through a pipeline
            searched, name = make_pipeline(FunctionTransformer(), mixture), f"vonmisesfishermixture__{name}"
        search = GridSearchCV(searched, {name: [1, 2]}, cv=3)
        search.fit(X, sample_weight=weights)
        for n_components, found in zip((1, 2), search.cv_results_["mean_test_score"], strict=True):
            by_hand = []
            for fold in np.split(np.arange(90), 3):
                rest = np.setdiff1d(np.arange(90), fold)
                one = VonMisesFisherMixture(n_components, random_state=0, tol=1e-4)
                one.fit(X[rest], sample_weight=weights[rest])
                by_hand.append(one.score(np.repeat(X[fold], weights[fold], axis=0)))
            assert found == pytest.approx(np.mean(by_hand))
        assert search.score(X, sample_weight=weights) == pytest.approx(search.score(np.repeat(X, weights, axis=0)))


def test_the_mixture_as_a_distribution_of_torch():
    X = load_household().X
    mixture = VonMisesFisherMixture(3, random_state=0).fit(X)
    distribution = mixture.to_distribution()
    rows = torch.from_numpy(X / np.linalg.norm(X, axis=1, keepdims=True))
    np.testing.assert_allclose(distribution.log_prob(rows), mixture.score_samples(X), rtol=1e-10)
    torch.testing.assert_close(
        distribution.mean,
        torch.from_numpy(mixture.to_distribution().sample((9999,)).mean(0).numpy()),
        rtol=0,
        atol=0.02,
    )


def test_clone_and_pickle():
    mixture = VonMisesFisherMixture(2, concentration="tied", random_state=0)
    assert clone(mixture).get_params() == mixture.get_params()
    X = load_household().X
    again = pickle.loads(pickle.dumps(mixture.fit(X)))
    np.testing.assert_array_equal(again.predict_proba(X), mixture.predict_proba(X))
    assert (mixture.fit_predict(X) == mixture.predict(X)).all()


def test_pipeline_and_grid_search(planted):
    X, _, _ = planted([0.5, 0.5], [[1, 0, 0], [0, 1, 1]], [30.0, 30.0], 300)
    pipeline = make_pipeline(StandardScaler(with_mean=False), VonMisesFisherMixture(random_state=0, tol=1e-4))
    search = GridSearchCV(pipeline, {"vonmisesfishermixture__n_components": [1, 2]}, cv=3).fit(X)
    assert search.best_params_ == {"vonmisesfishermixture__n_components": 2}
    assert search.predict(X).shape == (300,)
    assert search.best_estimator_.score(X) == pytest.approx(search.best_estimator_[-1].score(X / X.std(axis=0)))


def test_named_columns_from_a_transformer_with_set_output():
    frame = pandas.DataFrame(load_household().X, columns=["housing", "food", "service"])
    scaler = StandardScaler(with_mean=False).set_output(transform="pandas")
    pipeline = make_pipeline(scaler, VonMisesFisherMixture(2, random_state=0)).fit(frame)
    assert list(pipeline[-1].feature_names_in_) == ["housing", "food", "service"]
    assert pipeline.predict(frame).shape == (40,)


# A subset in which every two values of the three settings meet; the rest is slow.
COMBINATIONS = [
    pytest.param(concentration, assignment, init, marks=() if fast else pytest.mark.slow)
    for concentration, assignment, init, fast in (
        ("free", "soft", "merge", True),
        ("free", "soft", "k-means++", False),
        ("free", "soft", "random", False),
        ("free", "hard", "merge", False),
        ("free", "hard", "k-means++", True),
        ("free", "hard", "random", True),
        ("tied", "soft", "merge", False),
        ("tied", "soft", "k-means++", True),
        ("tied", "soft", "random", True),
        ("tied", "hard", "merge", True),
        ("tied", "hard", "k-means++", False),
        ("tied", "hard", "random", False),
    )
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("concentration", "assignment", "init"), COMBINATIONS)
def test_scikit_learn_estimator_checks(concentration, assignment, init):
    """With 2 components and, in some, 4: the numbers of columns that its sparse checks expect of predict_proba."""
    n_components = 4 if init == "k-means++" else 2
    mixture = VonMisesFisherMixture(
        n_components,
        concentration=concentration,
        assignment=assignment,
        init=init,
        tol=1e-2,
        warm_start=init == "random",
    )
    results = check_estimator(mixture, on_skip=None, on_fail=None)
    failed = [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] not in ("passed", "skipped")]
    assert failed == []
    assert sum(r["status"] == "passed" for r in results) >= 40
