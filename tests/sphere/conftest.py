import numpy as np
import pytest
from scipy.stats import vonmises_fisher


def _planted(weights, means, concentrations, n, seed=0):
    rng = np.random.default_rng(seed)
    means = np.asarray(means) / np.linalg.norm(means, axis=1, keepdims=True)
    labels = rng.choice(len(weights), size=n, p=weights)
    X = np.empty((n, means.shape[1]))
    for k, (mean, kappa) in enumerate(zip(means, concentrations, strict=True)):
        rows = labels == k
        X[rows] = vonmises_fisher(mean, kappa).rvs(int(rows.sum()), random_state=rng).reshape(-1, means.shape[1])
    return X, labels, means


@pytest.fixture(scope="session")
def planted():
    """Rows of a known mixture, by scipy's sampler: (weights, means, concentrations, n) -> X, labels, unit means."""
    return _planted
