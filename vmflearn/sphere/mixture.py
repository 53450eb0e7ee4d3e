"""Mixtures of von Mises-Fisher components as a scikit-learn estimator.

The mathematics is in `vmflearn.sphere.em` (paper, section 3.2 and Eq. 2); here are the estimator's checks and verbs.
"""

import math
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from tqdm.std import tqdm

from vmflearn.sphere.bessel import log_normalizer_at_zero
from vmflearn.sphere.em import Parameters, complement_floor, e_step, logits_in_chunks, m_step, responsibilities_
from vmflearn.sphere.initialization import parameters_from_directions, plus_plus_seeds, random_statistics
from vmflearn.sphere.rows import unit_rows


class VonMisesFisherMixture(DensityMixin, BaseEstimator):
    r"""Mixture of von Mises-Fisher components, fitted by expectation-maximisation.

    f(x) = sum_k pi_k C_p(kappa_k) exp(kappa_k <mu_k, x>)   on the unit sphere in R^p,  p >= 2

    with responsibilities as in Eq. 2 of the paper. All log-likelihoods are with respect to surface measure: they
    contain log C_p(0), the density of the uniform distribution.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    concentration : {"free", "tied"}, default="free"
        Each component its own concentration, or one for all.
    assignment : {"soft", "hard"}, default="soft"
        Responsibilities of Eq. 2, or all of a row to its most probable component (classification EM; with tied
        concentration and equal weights this would be spherical k-means).
    init : {"k-means++", "random"} or array of shape (n_components, n_features), default="k-means++"
        Directions drawn by spherical k-means++, random responsibilities, or given directions (scaled to unit length).
    n_init : int, default=1
        Number of starts; the fit of highest likelihood is kept. With given directions all starts would be the same,
        so that one is made.
    max_iter : int, default=300
        Largest number of EM steps in each start.
    tol : float, default=1e-6
        A start has converged when a step raises the objective by no more than ``tol`` nats a row: the difference of
        the totals in `log_likelihoods_`, divided by the total weight of the rows. It is an absolute difference.
    chunk_size : int, default=4096
        Rows worked on at once: memory beyond the rows is O(chunk_size x K).
    random_state : int, RandomState instance or None, default=None
        Source of the starts and of `sample`.
    verbose : int, default=0
        With 1, a progress bar for each start.

    Attributes
    ----------
    weights_ : ndarray (K,)
        Mixture proportions pi_k.
    means_ : ndarray (K, n_features)
        Mean directions mu_k, unit rows.
    concentrations_ : ndarray (K,)
        Concentrations kappa_k (with "tied", K times the same).
    n_iter_ : int
        EM steps of the kept start.
    converged_ : bool
        Whether the kept start converged within ``max_iter``.
    log_likelihoods_ : list of float
        Total objective before each M-step of the kept start, and last that of the fitted parameters (n_iter_ + 1
        values): the weighted sum of log f(x_i), or of max_k log(pi_k f_k(x_i)) with hard assignment. It never
        decreases, but for rounding.
    n_features_in_ : int
        Number of features p.

    Notes
    -----
    Rows are scaled to unit length, in `fit` and everywhere else. A row of zeros has no direction: it weighs nothing
    in `fit` (with a warning), has `weights_` as responsibilities, and log-likelihood zero, as an observation that was
    not made; `score` and `bic` do not count it.

    float32 rows are multiplied in float32, with sums and parameters in float64; all else is float64. Concentrations
    are bounded at 1 - A_p(kappa) = sqrt(eps) of the type of the rows in `fit` (see `vmflearn.sphere.em`), so that one
    row alone or copies of one row give a finite maximum. A component that loses all its rows gets weight and
    concentration zero and keeps its direction, with a ConvergenceWarning.

    Hornik and Grün, Journal of Statistical Software 58(10), 2014, describe the same model in R (movMF).

    Examples
    --------
    >>> import numpy as np
    >>> from vmflearn.sphere import VonMisesFisherMixture
    >>> X = np.array([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]])
    >>> mixture = VonMisesFisherMixture(2, concentration="tied", random_state=0).fit(X)
    >>> mixture.predict(X)[0] == mixture.predict(X)[1]
    np.True_
    """

    weights_: np.ndarray
    means_: np.ndarray
    concentrations_: np.ndarray
    n_iter_: int
    converged_: bool
    log_likelihoods_: list[float]
    n_features_in_: int

    def __init__(
        self,
        n_components: int = 1,
        *,
        concentration: str = "free",
        assignment: str = "soft",
        init: str | ArrayLike = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-6,
        chunk_size: int = 4096,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.n_components = n_components
        self.concentration = concentration
        self.assignment = assignment
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.chunk_size = chunk_size
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> "VonMisesFisherMixture":
        """Fit by expectation-maximisation.

        Parameters
        ----------
        X : array or tensor (n, dim)
            Rows, scaled to unit length here.
        y : None
            Ignored.
        sample_weight : array (n,), optional
            Weights of the rows, not negative; weight 2 is the same as the row twice.

        Returns
        -------
        VonMisesFisherMixture
            Itself.

        Raises
        ------
        ValueError
            A parameter out of range; NaN or infinity in X; fewer than two features; fewer rows that have a direction
            and positive weight than components; negative weights.
        """
        self._check_parameters()
        array = self._validated(X, reset=True)
        rows, is_zero = unit_rows(array, int(self.chunk_size))
        row_weights = torch.from_numpy(self._row_weights(array, is_zero, sample_weight))
        directions = self._initial_directions(array.shape[1])

        random = check_random_state(self.random_state)
        floor = complement_floor(rows.dtype)
        best: tuple[Parameters, list[float], bool] | None = None
        for start in range(1 if directions is not None else int(self.n_init)):
            parameters = self._start(rows, row_weights, directions, random, floor)
            result = self._iterate(rows, row_weights, parameters, floor, start)
            if best is None or result[1][-1] > best[1][-1]:
                best = result
        assert best is not None
        parameters, self.log_likelihoods_, self.converged_ = best
        self.weights_, self.means_, self.concentrations_ = (p.numpy() for p in parameters)
        self.n_iter_ = len(self.log_likelihoods_) - 1
        self._warn_about_result()
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Most probable component of each row, (n,) int64."""
        return self.predict_proba(X).argmax(axis=1)

    def fit_predict(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> np.ndarray:
        """Fit, then the most probable component of each row, (n,) int64."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Responsibilities (Eq. 2), (n, K) in the type of X; `weights_` for rows of zeros."""
        rows, is_zero = self._fitted_rows(X)
        result = rows.new_empty(len(rows), len(self.weights_))
        for chunk, logits in logits_in_chunks(rows, self._parameters(), int(self.chunk_size)):
            responsibilities_(logits, "soft")
            result[chunk] = logits.T
        proba = result.numpy()
        proba[is_zero] = self.weights_
        return proba

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Log-density log f(x_i), (n,) float64, with respect to surface measure; zero for rows of zeros."""
        return self._row_log_likelihoods(X)[0]

    def score(self, X: ArrayLike, y: None = None) -> float:
        """Mean of `score_samples` over the rows that are not zero."""
        log_likelihoods, n_rows = self._row_log_likelihoods(X)
        return float(log_likelihoods.sum()) / max(n_rows, 1)

    def bic(self, X: ArrayLike) -> float:
        """Bayesian information criterion, -2 log f(X) + df log n (the smaller the better).

        df = K (p - 1) directions + K - 1 weights + K concentrations (one if tied).
        """
        log_likelihoods, n_rows = self._row_log_likelihoods(X)
        return -2.0 * float(log_likelihoods.sum()) + self._n_free_parameters() * math.log(max(n_rows, 1))

    def aic(self, X: ArrayLike) -> float:
        """Akaike information criterion, -2 log f(X) + 2 df, df as in `bic` (the smaller the better)."""
        return -2.0 * float(self.score_samples(X).sum()) + 2.0 * self._n_free_parameters()

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
        _check_integer("n_samples", n_samples)
        random = check_random_state(self.random_state)
        labels = np.repeat(np.arange(len(self.weights_)), random.multinomial(n_samples, self.weights_))
        means, concentrations = torch.from_numpy(self.means_), torch.from_numpy(self.concentrations_)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.randint(2**31)))
            rows = VonMisesFisher(means[labels], concentrations[labels]).sample()
        return rows.numpy(), labels

    # ---- one start ----

    def _start(
        self,
        rows: Tensor,
        row_weights: Tensor,
        directions: Tensor | None,
        random: np.random.RandomState,
        floor: float,
    ) -> Parameters:
        """First parameters of one start."""
        n_components, chunk_size = int(self.n_components), int(self.chunk_size)
        if directions is None and self.init == "random":
            statistics = random_statistics(rows, row_weights, n_components, chunk_size, random)
            basis = torch.eye(rows.shape[1], dtype=torch.float64)[:1].expand(n_components, -1)
            return m_step(statistics, basis, self.concentration, floor)
        if directions is None:
            directions = plus_plus_seeds(rows, row_weights, n_components, random)
        return parameters_from_directions(rows, row_weights, directions, floor, chunk_size)

    def _iterate(
        self, rows: Tensor, row_weights: Tensor, parameters: Parameters, floor: float, start: int
    ) -> tuple[Parameters, list[float], bool]:
        """Run EM from ``parameters``: return the last ones, the objective before each M-step and last, converged."""
        chunk_size, total_weight = int(self.chunk_size), float(row_weights.sum())
        statistics, objective = e_step(rows, row_weights, parameters, self.assignment, chunk_size)
        history, converged = [objective], False
        with tqdm(total=int(self.max_iter), desc=f"EM, start {start + 1}", disable=not self.verbose) as bar:
            while not converged and len(history) <= self.max_iter:
                parameters = m_step(statistics, parameters.means, self.concentration, floor)
                statistics, objective = e_step(rows, row_weights, parameters, self.assignment, chunk_size)
                converged = objective - history[-1] <= self.tol * total_weight
                history.append(objective)
                bar.set_postfix(log_likelihood=f"{objective / total_weight:.6f}", refresh=False)
                bar.update()
        return parameters, history, converged

    def _warn_about_result(self) -> None:
        if not self.converged_:
            warnings.warn(
                f"EM did not converge in max_iter={self.max_iter} steps: the last step still raised the objective by "
                f"more than tol={self.tol} nats a row. Raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )
        n_empty = int((self.weights_ == 0).sum())
        if n_empty:
            warnings.warn(
                f"{n_empty} of {self.n_components} components lost all their rows and have weight zero. "
                "Lower n_components, or raise n_init.",
                ConvergenceWarning,
                stacklevel=3,
            )

    # ---- checks ----

    def _check_parameters(self) -> None:
        for name in ("n_components", "n_init", "max_iter", "chunk_size"):
            _check_integer(name, getattr(self, name))
        for name, choices in (("concentration", ("free", "tied")), ("assignment", ("soft", "hard"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if not isinstance(self.tol, Real) or isinstance(self.tol, bool) or not 0 <= self.tol < math.inf:
            raise ValueError(f"tol must be a finite number >= 0, got {self.tol!r}")
        if isinstance(self.init, str) and self.init not in ("k-means++", "random"):
            raise ValueError(f"init must be 'k-means++', 'random' or an array of directions, got {self.init!r}")

    def _initial_directions(self, dim: int) -> Tensor | None:
        """Unit rows of ``init`` where it is an array."""
        if isinstance(self.init, str):
            return None
        array = np.asarray(self.init, dtype=np.float64)
        if array.shape != (self.n_components, dim):
            raise ValueError(
                f"init has shape {array.shape}: give one direction per component, ({self.n_components}, {dim})"
            )
        directions, is_zero = unit_rows(array, int(self.chunk_size), name="init")
        if is_zero.any():
            raise ValueError(f"init has zeros only in rows {np.flatnonzero(is_zero)[:5].tolist()}: give directions")
        return directions

    def _row_weights(self, array: np.ndarray, is_zero: np.ndarray, sample_weight: ArrayLike | None) -> np.ndarray:
        """Weights (n,) float64, zero for rows of zeros."""
        row_weights = _check_sample_weight(sample_weight, array, dtype=np.float64, copy=True)
        if (row_weights < 0).any():
            first = np.flatnonzero(row_weights < 0)[:5].tolist()
            raise ValueError(f"sample_weight is negative in rows {first}: weights must be >= 0")
        if is_zero.any():
            warnings.warn(
                f"X has {int(is_zero.sum())} rows of zeros, first {np.flatnonzero(is_zero)[:5].tolist()}: they have no "
                "direction and weigh nothing in the fit",
                UserWarning,
                stacklevel=3,
            )
            row_weights[is_zero] = 0.0
        n_rows = int((row_weights > 0).sum())
        if n_rows < self.n_components:
            raise ValueError(
                f"n_samples={n_rows} rows with a direction and positive weight for n_components={self.n_components}: "
                "give more rows or lower n_components"
            )
        return row_weights

    def _validated(self, X: ArrayLike, reset: bool) -> np.ndarray:
        """X as a float32 or float64 array (n, dim >= 2); unit_rows refuses NaN and infinity, with their rows."""
        if isinstance(X, Tensor):
            tensor = X.detach().cpu()
            X = (tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor).numpy()
        array: np.ndarray = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_features=2 if reset else 1,  # later the number of features has to be that of fit anyway
        )
        return array

    # ---- the fitted mixture ----

    def _fitted_rows(self, X: ArrayLike) -> tuple[Tensor, np.ndarray]:
        check_is_fitted(self)
        return unit_rows(self._validated(X, reset=False), int(self.chunk_size))

    def _parameters(self) -> Parameters:
        return Parameters(*(torch.from_numpy(p) for p in (self.weights_, self.means_, self.concentrations_)))

    def _row_log_likelihoods(self, X: ArrayLike) -> tuple[np.ndarray, int]:
        """Log-density of each row, (n,), zero for rows of zeros, and the number of the other rows."""
        rows, is_zero = self._fitted_rows(X)
        result = np.empty(len(rows))
        for chunk, logits in logits_in_chunks(rows, self._parameters(), int(self.chunk_size)):
            result[chunk] = responsibilities_(logits, "soft").numpy()
        result += log_normalizer_at_zero(rows.shape[1])
        result[is_zero] = 0.0
        return result, int((~is_zero).sum())

    def _n_free_parameters(self) -> int:
        n_components, dim = self.means_.shape
        n_concentrations = n_components if self.concentration == "free" else 1
        return n_components * (dim - 1) + n_concentrations + n_components - 1


def _check_integer(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
