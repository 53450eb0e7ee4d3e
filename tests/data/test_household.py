import numpy as np
import pytest

from vmflearn.data.household import load_household


def test_shapes_types_and_unit_rows():
    X, gender, feature_names = load_household()
    assert X.shape == (40, 3)
    assert X.dtype == np.float64
    assert feature_names == ("housing", "food", "service")
    assert gender.dtype == np.int64
    assert gender.tolist() == [0] * 20 + [1] * 20
    np.testing.assert_allclose((X**2).sum(axis=1), 1.0, rtol=1e-15)


def test_rows_and_columns_of_the_published_table():
    X, _, _ = load_household()
    np.testing.assert_allclose(X[0] / X[0, 0], [1, 114 / 820, 154 / 820], rtol=1e-14)
    np.testing.assert_allclose(X[-1] / X[-1, 0], [1, 964 / 1524, 1410 / 1524], rtol=1e-14)


def test_log_likelihood_of_one_vmf_is_the_published_one():
    """movMF (Hornik & Grün 2014): BIC -169.4291 for one component, which any wrong digit of the table would move.

    On the sphere log H = log(sinh kappa / kappa), and the likelihood equation is coth kappa - 1 / kappa = mean length.
    """
    X, _, _ = load_household()
    length = np.linalg.norm(X.mean(axis=0))
    low, high = 1.0, 100.0
    for _ in range(100):
        kappa = (low + high) / 2
        low, high = (kappa, high) if 1 / np.tanh(kappa) - 1 / kappa < length else (low, kappa)
    log_likelihood = 40 * (kappa * length - np.log(np.sinh(kappa) / kappa))
    assert kappa == pytest.approx(12.9753, abs=5e-5)
    assert -2 * log_likelihood + 3 * np.log(40) == pytest.approx(-169.4291, abs=5e-5)


def test_women_spend_a_larger_share_on_housing():
    X, gender, _ = load_household()
    assert X[gender == 0, 0].mean() > X[gender == 1, 0].mean() + 0.2


def test_each_call_returns_its_own_arrays():
    load_household().X[:] = 0
    assert load_household().X.min() > 0
