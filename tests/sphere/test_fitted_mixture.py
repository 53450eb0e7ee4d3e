"""What the verbs of the mixture leave alone, and what they pass on."""

import numpy as np
import torch

from vmflearn.sphere import VonMisesFisherMixture


def rows(n=60):
    random = np.random.default_rng(0)
    return np.eye(3)[np.arange(n) % 3] + 0.3 * random.normal(size=(n, 3))


def test_sampling_and_fitting_leave_the_global_random_numbers_alone():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    wanted = torch.rand(1), np.random.random_sample()  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    mixture = VonMisesFisherMixture(3, random_state=0, n_init=2).fit(rows())
    mixture.sample(50)
    assert (torch.rand(1), np.random.random_sample()) == wanted  # noqa: NPY002


def test_fit_predict_minds_the_weights_of_rows():
    """Without weight, the rows around the third axis do not draw a component to themselves."""
    X = rows()
    weight = np.where(np.arange(len(X)) % 3 == 2, 0.0, 1.0)
    start = {"init": X[:2], "concentration": "tied"}
    labels = VonMisesFisherMixture(2, **start).fit_predict(X, sample_weight=weight)
    other = VonMisesFisherMixture(2, **start).fit(X, sample_weight=weight)
    np.testing.assert_array_equal(labels, other.predict(X))
    assert not np.array_equal(labels, VonMisesFisherMixture(2, **start).fit_predict(X))
