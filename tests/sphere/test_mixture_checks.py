import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from vmflearn.sphere import VonMisesFisherMixture

ROWS = np.random.default_rng(0).normal(size=(6, 3))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "n_components must be an integer >= 1, got 0"),
        ({"n_components": 2.5}, "n_components must be an integer >= 1, got 2.5"),
        ({"n_components": True}, "n_components"),
        ({"n_init": 0}, "n_init must be an integer >= 1, got 0"),
        ({"max_iter": -1}, "max_iter must be an integer >= 0, got -1"),
        ({"max_iter": 2.0}, "max_iter must be an integer >= 0, got 2.0"),
        ({"chunk_size": -4}, "chunk_size must be an integer >= 1, got -4"),
        ({"tol": -1e-3}, "tol must be a finite number >= 0, got -0.001"),
        ({"tol": float("nan")}, "tol"),
        ({"shrinkage": -1.0}, "shrinkage must be a finite number >= 0, got -1.0"),
        ({"shrinkage": np.inf}, "shrinkage must be a finite number >= 0, got inf"),
        ({"learning_offset": -1}, "learning_offset must be a finite number >= 0, got -1"),
        ({"learning_decay": 0.5}, r"learning_decay must be a number in \(0.5, 1\], got 0.5"),
        ({"learning_decay": 1.1}, "learning_decay"),
        ({"empty": "drop"}, "empty must be one of .* got 'drop'"),
        ({"normalize": "no"}, "normalize must be one of .* got 'no'"),
        ({"warm_start": "yes"}, "warm_start must be one of .* got 'yes'"),
        ({"device": "abacus"}, "device='abacus' cannot be used here"),
        ({"device": "meta:99x"}, "device='meta:99x' cannot be used here"),
        ({"concentration": "diag"}, "concentration must be one of .* got 'diag'"),
        ({"assignment": "firm"}, "assignment must be one of .* got 'firm'"),
        ({"init": "kmeans"}, "init must be .* got 'kmeans'"),
        ({"init": np.eye(3), "n_components": 2}, r"init has shape \(3, 3\): .* \(2, 3\)"),
        ({"init": [[1, 0, np.nan]], "n_components": 1}, r"init contains NaN or infinity in 1 rows, first \[0\]"),
        ({"init": [[0, 0, 0]], "n_components": 1}, r"init has zeros only in rows \[0\]"),
        ({"weights_init": [1, 2, 3]}, r"weights_init has shape \(3,\): .* \(2,\)"),
        ({"weights_init": [1, -0.5]}, "weights_init is -0.5 for component 1: weights must be finite and >= 0"),
        ({"weights_init": [np.nan, 1]}, "weights_init is nan for component 0"),
        ({"weights_init": [0, 0]}, "weights_init has zeros only"),
        ({"concentrations_init": [1, 2, 3]}, r"concentrations_init has shape \(3,\): .* \(2,\)"),
        ({"concentrations_init": -1}, "concentrations_init is -1 for component 0: .* >= 0 and at most 6.71089e"),
        ({"concentrations_init": [1, 1e9]}, r"concentrations_init is 1e\+09 for component 1"),
        ({"concentrations_init": [1, np.nan]}, "concentrations_init is nan for component 1"),
        ({"concentrations_init": [1, 2], "concentration": "tied"}, r"concentrations_init=\[1.0, 2.0\] differ"),
        ({"n_components": 7}, "n_samples=6 rows .* n_components=7"),
    ],
)
def test_bad_parameters(parameters, message):
    for verb in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=message):
            getattr(VonMisesFisherMixture(**parameters), verb)(ROWS)


def test_bad_rows():
    mixture = VonMisesFisherMixture(2, random_state=0, tol=0.1)
    for value in (np.nan, np.inf, -np.inf):
        X = ROWS.copy()
        X[[1, 4], 2] = value
        for verb in (mixture.fit, clone(mixture).fit(ROWS).predict_proba):
            with pytest.raises(ValueError, match=r"X contains NaN or infinity in 2 rows, first \[1, 4\]"):
                verb(X)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        mixture.fit(ROWS[:, :1])
    with pytest.raises(ValueError, match="2 features, but VonMisesFisherMixture is expecting 3"):
        mixture.fit(ROWS).predict(ROWS[:, :2])
    with (
        pytest.raises(ValueError, match=r"n_samples=1 rows .* n_components=2"),
        pytest.warns(UserWarning, match="zeros"),
    ):
        mixture.fit(ROWS[:2] * [[1], [0]])
    with pytest.raises(NotFittedError):
        VonMisesFisherMixture(1).predict(ROWS)
    with pytest.raises(ValueError, match="n_samples must be an integer >= 1, got 0"):
        mixture.fit(ROWS).sample(0)


def test_bad_sample_weight():
    mixture = VonMisesFisherMixture(2)
    with pytest.raises(ValueError, match=r"sample_weight is negative in rows \[2\]"):
        mixture.fit(ROWS, sample_weight=[1, 1, -1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"n_samples=1 rows .* n_components=2"):
        mixture.fit(ROWS, sample_weight=[0, 0, 3, 0, 0, 0])
    with pytest.raises(ValueError, match="shape"):
        mixture.fit(ROWS, sample_weight=[1, 1])


def test_bad_kinds_of_rows():
    mixture = VonMisesFisherMixture(1)
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        mixture.fit(torch.ones(4))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        mixture.fit(torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"layout torch\.sparse_coo"):
        mixture.fit(torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="Complex data not supported"):
        mixture.fit(np.eye(3) + 1j)
    with pytest.raises(ValueError, match=r"dtype torch\.complex64"):
        mixture.fit(torch.eye(3) + 1j)
    with pytest.raises(ValueError, match="3 features, but VonMisesFisherMixture is expecting 2"):
        mixture.fit(ROWS[:, :2]).predict(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"X contains NaN or infinity in 1 rows, first \[2\]"):
        mixture.fit(torch.tensor([[1.0, 0], [0, 1], [torch.nan, 0]]))
