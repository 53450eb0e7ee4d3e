"""Mixtures of von Mises-Fisher components as a scikit-learn estimator.

The mathematics is in `vmflearn.sphere.em` (paper, section 3.2 and Eq. 2), one start in `vmflearn.sphere.fitting`, the
stream in `vmflearn.sphere.online`, what it starts from in `vmflearn.sphere.mixture_start`, checks in
`vmflearn.sphere.mixture_checks`, what a fitted mixture says in `vmflearn.sphere.fitted_mixture`; here it is fitted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import ClassifierTags, check_random_state
from tqdm.std import tqdm

from vmflearn.distributed import rank
from vmflearn.sphere.em import (
    Data,
    Model,
    Parameters,
    Statistics,
    complement_floor,
    e_step,
    m_step,
    shrinkage_per_unit,
)
from vmflearn.sphere.fitted_mixture import FittedMixture
from vmflearn.sphere.fitting import Fit, reseed, run_em
from vmflearn.sphere.mixture_checks import data_of
from vmflearn.sphere.mixture_start import goes_on, refuse_another_number, start_of
from vmflearn.sphere.mixture_warnings import warn_about_components, warn_about_convergence
from vmflearn.sphere.online import blend, per_unit_weight, step_size


class VonMisesFisherMixture(FittedMixture, DensityMixin, BaseEstimator):
    r"""Mixture of von Mises-Fisher components, fitted by expectation-maximisation.

        f(x) = sum_k pi_k C_p(kappa_k) exp(kappa_k <mu_k, x>)

    on the unit sphere in R^p, p >= 2, with responsibilities as in Eq. 2 of the paper. All log-likelihoods are with
    respect to surface measure: they contain log C_p(0), the density of the uniform distribution.

    Parameters
    ----------
    n_components : int, default=2
        Number of components K.
    concentration : {"free", "tied"}, default="free"
        Each component its own concentration, or one for all.
    assignment : {"soft", "hard"}, default="soft"
        Responsibilities of Eq. 2, or all of a row to its most probable component (classification EM; with tied
        concentration and equal weights this would be spherical k-means).
    init : {"merge", "k-means++", "random"} or array of shape (n_components, n_features), default="merge"
        Directions of 3 K groups of rows, merged two at a time until K are left; rows drawn by spherical k-means++;
        random responsibilities; or given directions (scaled to unit length). The first two look at no more than 65,536
        rows, a sample by weight (12 or 4 K rows, if that is more). `vmflearn.sphere.initialization` says why.
    weights_init : array (n_components,), default=None
        Mixture proportions to start from, of which only the ratios matter; None: equal ones (with random
        responsibilities, what follows from them).
    concentrations_init : float or array (n_components,), default=None
        Concentrations to start from, no larger than the bound below; None: the common one that suits the directions.
    n_init : int, default=1
        Number of starts; the fit of highest objective is kept. After a first start from merged groups the others are
        drawn by k-means++: merged groups differ little from one draw to the next. With given directions all starts
        would be the same, so that one is made.
    max_iter : int, default=300
        Largest number of steps in each start; a stride counts as one, whether it is kept or not. With 0 the start is
        the model: `init`, `weights_init` and `concentrations_init` are taken as they are, without a warning.
    tol : float, default=1e-6
        A start has converged when a step of EM (not a stride) raises the objective by no more than ``tol`` nats a
        row: the difference of the totals in `log_likelihoods_`, divided by the total weight of the rows. It is an
        absolute difference.
    shrinkage : float, default=0.0
        Pseudo-observations m of zero resultant for each component: kappa_k = A_p^-1(|R_k| / (W_k + m)), the maximum a
        posteriori estimate under a prior proportional to C_p(kappa_k)^m. Above zero, a component of one row has the
        finite concentration A_p^-1(1 / (1 + m)). 0.01 is a mild choice; 1 is a whole observation that contradicts the
        component, which a tight one of few rows cannot bear. Zero is maximum likelihood.
    empty : {"keep", "reseed"}, default="keep"
        A component that loses all its rows keeps its direction with weight zero, or moves to the row that the mixture
        explains worst (`vmflearn.sphere.fitting` has the rule).
    accelerated : bool, default=True
        Whether soft assignment tries, after each step of EM, a stride that extrapolates the last two
        (`vmflearn.sphere.acceleration`): to the same precision it needs a fraction of the steps where components
        overlap. False: the steps of EM alone.
    warm_start : bool, default=False
        Whether `fit` of a fitted mixture starts from its parameters, once, instead of anew. It takes fewer rows than
        components, and rows of another type.
    normalize : bool, default=True
        Scale rows to unit length, here and in all other verbs. False: refuse rows whose length differs from one by
        more than rounding, 8 sqrt(n_features) eps of their type (rows of zeros too).
    learning_decay, learning_offset : float, default=0.7 and 10.0
        Steps of `partial_fit`: (t + learning_offset)^-learning_decay for t = 2, 3, ..., with the decay in (0.5, 1].
    chunk_size : int, default=4096
        Rows worked on at once: memory beyond the rows is O(chunk_size x K).
    device : torch device, str or None, default=None
        Where the products are made. None: on the device of a tensor, on the CPU for all else. Results are arrays.
    random_state : int, RandomState instance or None, default=None
        Source of the starts and of `sample`.
    verbose : int, default=0
        With 1, a progress bar with the start, the objective per row and its change (first process only).

    Attributes
    ----------
    weights_ : ndarray (K,)
        Mixture proportions pi_k.
    means_ : ndarray (K, n_features)
        Mean directions mu_k, unit rows.
    concentrations_ : ndarray (K,)
        Concentrations kappa_k (with "tied", K times the same).
    n_iter_ : int
        Steps of the kept start, strides included (`fit` only).
    converged_ : bool
        Whether the kept start converged within ``max_iter`` (`fit` only).
    log_likelihoods_ : list of float
        Total objective before each step of the kept start, and last that of the fitted parameters (n_iter_ + 1
        values; `fit` only): the weighted sum of log f(x_i), or of max_k log(pi_k f_k(x_i)) with hard assignment, less
        ``shrinkage`` x sum_k [log C_p(0) - log C_p(kappa_k)]. It never decreases, but for rounding and for steps in
        which a component is reseeded.
    n_steps_ : int
        Steps of online EM so far; `fit` counts as the first.
    n_features_in_ : int
        Number of features p.

    Notes
    -----
    **Rows** may be an array or memory map (both read chunk by chunk, never copied), a tensor, a data frame, or a sparse
    matrix or a frame of sparse columns only (which stay sparse). float32 and half-precision rows are multiplied in
    float32, with sums and parameters in float64; all else is float64. A row of zeros has no direction: it weighs
    nothing in `fit` (with a warning), has `weights_` as responsibilities, and log-likelihood zero, as an observation
    that was not made; `score` and `bic` do not count it.

    **Several processes.** When ``torch.distributed`` is initialised, each process passes its own rows to `fit` or
    `partial_fit`, at least one row, and all of them call it; the result is that of one process with all rows, and
    the same everywhere. Bad input on one process raises on all. All other verbs are local: they see the rows of their
    own process only, and need not be called by the others.

    Without ``shrinkage``, concentrations are bounded at 1 - A_p(kappa) = sqrt(eps) of the type of the rows (see
    `vmflearn.sphere.em`), so that one row alone or copies of one row give a finite maximum; a component of one row
    there is reported by a ConvergenceWarning, as are components without rows.

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
    n_steps_: int
    n_features_in_: int
    _statistics: Statistics  # per unit of weight, those that gave the parameters
    _weight_seen: float

    def __init__(
        self,
        n_components: int = 2,
        *,
        concentration: str = "free",
        assignment: str = "soft",
        init: str | ArrayLike = "merge",
        weights_init: ArrayLike | None = None,
        concentrations_init: ArrayLike | None = None,
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-6,
        shrinkage: float = 0.0,
        empty: str = "keep",
        accelerated: bool = True,
        warm_start: bool = False,
        normalize: bool = True,
        learning_decay: float = 0.7,
        learning_offset: float = 10.0,
        chunk_size: int = 4096,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.n_components = n_components
        self.concentration = concentration
        self.assignment = assignment
        self.init = init
        self.weights_init = weights_init
        self.concentrations_init = concentrations_init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.shrinkage = shrinkage
        self.empty = empty
        self.accelerated = accelerated
        self.warm_start = warm_start
        self.normalize = normalize
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.chunk_size = chunk_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that sparse rows are accepted (its check of that reads a classifier's tags as well)."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags = ClassifierTags(multi_class=self.n_components != 2)
        return tags

    def fit(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> VonMisesFisherMixture:
        """Fit by expectation-maximisation.

        Parameters
        ----------
        X : array, tensor, memory map or sparse matrix (n, dim)
            Rows, scaled to unit length here; with several processes, those of this process.
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
            and positive weight than components; negative weights; with ``normalize=False``, rows not of unit length;
            with ``warm_start``, another number of components or features than before.
        """
        anew = not goes_on(self)
        data = data_of(self, X, sample_weight, first=anew, reset=anew)
        model, chunk_size = self._model(data), int(self.chunk_size)
        first = start_of(self, data.rows.dim, model)  # on all processes alike: see check_agreement
        random = check_random_state(self.random_state)
        n_starts = int(self.n_init) if isinstance(first.init, str) else 1
        rule: dict[str, Any] = {
            "max_iter": int(self.max_iter),
            "tol": float(self.tol),
            "reseeding": self.empty == "reseed",
            "accelerated": bool(self.accelerated),
        }
        best: Fit | None = None
        with tqdm(total=rule["max_iter"], disable=not self.verbose or rank() != 0) as bar:

            def report(objective: float, change: float) -> None:
                bar.set_postfix(log_likelihood=f"{objective:.6f}", change=f"{change:.1e}", refresh=False)
                bar.update()

            for start in range(n_starts):
                bar.reset()
                bar.set_description(f"EM, start {start + 1} of {n_starts}")
                # Merged groups differ little from one draw to the next: another start is to come from elsewhere.
                own = first._replace(init="k-means++") if start and self.init == "merge" else first
                parameters = own.parameters(data, int(self.n_components), model, chunk_size, random)
                fit = run_em(data, parameters, model, chunk_size=chunk_size, report=report, **rule)
                if best is None or fit.objectives[-1] > best.objectives[-1]:
                    best = fit
        assert best is not None
        self._keep(best.parameters, per_unit_weight(best.statistics, data.total_weight))
        self.log_likelihoods_ = [objective * data.scale for objective in best.objectives]
        self.converged_ = best.converged
        self.n_iter_ = len(self.log_likelihoods_) - 1
        self.n_steps_, self._weight_seen = 1, data.total_weight * data.scale
        if self.max_iter:  # otherwise nothing was fitted
            warn_about_convergence(self)
            warn_about_components(self, data, model)
        return self

    def partial_fit(
        self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None
    ) -> VonMisesFisherMixture:
        """One step of online expectation-maximisation on a batch of a stream (`vmflearn.sphere.online`).

        The first call starts from its batch as ``init`` and its companions say; after `fit`, the fit was the first
        step. All batches count alike, whatever their numbers of rows; ``shrinkage`` is set against the weight of all
        rows seen.

        Parameters
        ----------
        X : array, tensor, memory map or sparse matrix (n, dim)
            The batch, scaled to unit length here; with several processes, the part of this process.
        y : None
            Ignored.
        sample_weight : array (n,), optional
            Weights of the rows within the batch, not negative.

        Returns
        -------
        VonMisesFisherMixture
            Itself.

        Raises
        ------
        ValueError
            As in `fit` (as many rows as components are needed in the first batch only), and another
            ``n_components`` than before.
        """
        first = not hasattr(self, "n_steps_")
        data = data_of(self, X, sample_weight, first=first, reset=first)
        model = self._model(data)
        if first:
            start = start_of(self, data.rows.dim, model)
            random = check_random_state(self.random_state)
            parameters = start.parameters(data, int(self.n_components), model, int(self.chunk_size), random)
        else:
            refuse_another_number(self)
            parameters = self._parameters()
        batch = per_unit_weight(e_step(data, parameters, model, int(self.chunk_size))[0], data.total_weight)
        step = 1 if first else self.n_steps_ + 1
        gamma = step_size(step, self.learning_decay, self.learning_offset)
        statistics = batch if first else blend(self._statistics, batch, gamma)
        if self.empty == "reseed":
            statistics, _ = reseed(data, statistics, parameters, model, int(self.chunk_size))
        self._weight_seen = data.total_weight * data.scale + (0.0 if first else self._weight_seen)
        shrunk = model._replace(shrinkage=shrinkage_per_unit(self.shrinkage, self._weight_seen))
        self._keep(m_step(statistics, parameters.means, shrunk), statistics)
        self.n_steps_ = step
        return self

    def fit_predict(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> np.ndarray:
        """Fit, then the most probable component of each row, (n,) int64."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def _model(self, data: Data) -> Model:
        floor = complement_floor(data.rows.dtype)
        return Model(self.concentration, self.assignment, shrinkage_per_unit(self.shrinkage, data.scale), floor)

    def _keep(self, parameters: Parameters, statistics: Statistics) -> None:
        self.weights_, self.means_, self.concentrations_ = (p.numpy() for p in parameters)
        self._statistics = statistics
