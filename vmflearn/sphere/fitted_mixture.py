"""What a fitted mixture says of rows: responsibilities, densities, criteria; new rows; itself, as a distribution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from vmflearn.sphere.arguments import as_tensor
from vmflearn.sphere.bessel import log_normalizer_at_zero
from vmflearn.sphere.em import Parameters, exponentials_, logits_in_chunks
from vmflearn.sphere.mixture_checks import check_count, row_weights, rows_of

if TYPE_CHECKING:
    from torch.distributions import MixtureSameFamily


class FittedMixture:
    """The verbs of a mixture that need its parameters and no data to fit; see `VonMisesFisherMixture`."""

    weights_: np.ndarray
    means_: np.ndarray
    concentrations_: np.ndarray
    concentration: str
    chunk_size: int
    random_state: Any

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Most probable component of each row, (n,) int64."""
        return self.predict_proba(X).argmax(axis=1)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Responsibilities (Eq. 2), (n, K) in the type of the products; `weights_` for rows of zeros."""
        check_is_fitted(self)
        rows, is_zero = rows_of(self, X, reset=False)
        result = torch.empty(len(rows), len(self.weights_), dtype=rows.dtype)
        for where, _, logits in logits_in_chunks(rows, self._parameters(), int(self.chunk_size)):
            total, _ = exponentials_(logits)
            result[where] = logits.div_(total).T.cpu()
        proba = result.numpy()
        proba[is_zero] = self.weights_
        return proba

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithms of `predict_proba`, (n, K), finite where that is zero by rounding."""
        check_is_fitted(self)
        rows, is_zero = rows_of(self, X, reset=False)
        result = torch.empty(len(rows), len(self.weights_), dtype=rows.dtype)
        for where, _, logits in logits_in_chunks(rows, self._parameters(), int(self.chunk_size)):
            result[where] = torch.log_softmax(logits.mul_(math.log(2)), dim=0).T.cpu()
        log_proba = result.numpy()
        if is_zero.any():
            with np.errstate(divide="ignore"):
                log_proba[is_zero] = np.log(self.weights_)
        return log_proba

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Log-density log f(x_i), (n,) float64, with respect to surface measure; zero for rows of zeros."""
        return self._row_log_likelihoods(X)[0]

    def score(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean of `score_samples` over the rows that are not zero, with weights (n,) if they are given."""
        log_likelihoods, is_zero = self._row_log_likelihoods(X)
        weights = row_weights(is_zero, sample_weight, warn=False)
        weights /= weights.max(initial=0.0) or 1.0
        return float(log_likelihoods @ weights) / (float(weights.sum()) or 1.0)

    def total_log_likelihood(self, X: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, float]:
        """Sum of `score_samples`, and the number of rows that are not zero, both counted with weights (n,) if given."""
        log_likelihoods, is_zero = self._row_log_likelihoods(X)
        weights = row_weights(is_zero, sample_weight, warn=False)
        return float((log_likelihoods * weights).sum()), float(weights.sum())

    def to_distribution(self) -> MixtureSameFamily:
        """The fitted mixture as a ``torch.distributions.MixtureSameFamily`` in float64 on the CPU."""
        from torch.distributions import Categorical, MixtureSameFamily

        from vmflearn.sphere.distribution import VonMisesFisher

        check_is_fitted(self)
        weights, means, concentrations = (p.clone() for p in self._parameters())
        return MixtureSameFamily(Categorical(weights), VonMisesFisher(means, concentrations))

    def bic(self, X: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Bayesian information criterion, -2 log f(X) + df log n (the smaller the better).

        df = K (p - 1) directions + K - 1 weights + K concentrations (one if tied). Weights (n,) count rows again: n is
        their sum, so that their scale matters.
        """
        return self._bic(*self.total_log_likelihood(X, sample_weight))

    def aic(self, X: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Akaike information criterion, -2 log f(X) + 2 df, df and weights as in `bic` (the smaller the better)."""
        return self._aic(*self.total_log_likelihood(X, sample_weight))

    def _bic(self, total: float, n_rows: float) -> float:
        return -2.0 * total + self._n_free_parameters() * math.log(n_rows or 1.0)

    def _aic(self, total: float, n_rows: float) -> float:
        return -2.0 * total + 2.0 * self._n_free_parameters()

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows, at least one.

        Returns
        -------
        X : ndarray (n_samples, dim)
            Unit rows, sorted by component.
        labels : ndarray (n_samples,)
            Component of each row.
        """
        from vmflearn.sphere.distribution import VonMisesFisher

        check_is_fitted(self)
        check_count("n_samples", n_samples)
        random = check_random_state(self.random_state)
        labels = np.repeat(np.arange(len(self.weights_)), random.multinomial(n_samples, self.weights_))
        _, means, concentrations = self._parameters()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.randint(2**31)))
            rows = VonMisesFisher(means[labels], concentrations[labels]).sample()
        return rows.numpy(), labels

    def _parameters(self) -> Parameters:
        return Parameters(*(as_tensor(p) for p in (self.weights_, self.means_, self.concentrations_)))

    def _row_log_likelihoods(self, X: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Log-density of each row, (n,), zero for rows of zeros, and which rows those are."""
        check_is_fitted(self)
        rows, is_zero = rows_of(self, X, reset=False)
        result = np.empty(len(rows))
        for where, _, logits in logits_in_chunks(rows, self._parameters(), int(self.chunk_size)):
            result[where] = exponentials_(logits)[1].cpu().numpy()
        result += log_normalizer_at_zero(rows.dim)
        result[is_zero] = 0.0
        return result, is_zero

    def _n_free_parameters(self) -> int:
        n_components, dim = self.means_.shape
        n_concentrations = n_components if self.concentration == "free" else 1
        return n_components * (dim - 1) + n_concentrations + n_components - 1
