"""What a fitted mixture warns about: no convergence, components without rows, components of one row."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sklearn.exceptions import ConvergenceWarning

from vmflearn.distributed import gather_rows
from vmflearn.sphere.bessel import concentration_from_length
from vmflearn.sphere.em import Data, Model

if TYPE_CHECKING:
    from vmflearn.sphere.mixture import VonMisesFisherMixture

# Frames between the user's call of fit and the warning: _warn, the function here, fit.
_STACKLEVEL = 4


def warn_about_convergence(mixture: VonMisesFisherMixture) -> None:
    """Warn if the kept start ended at max_iter."""
    if not mixture.converged_:
        _warn(
            f"EM did not converge in max_iter={mixture.max_iter} steps: the last step still raised the objective by "
            f"more than tol={mixture.tol} nats a row. Raise max_iter or tol."
        )


def warn_about_components(mixture: VonMisesFisherMixture, data: Data, model: Model) -> None:
    """Warn of components without rows, and of components of one row at the largest concentration."""
    n_empty = int((mixture.weights_ == 0).sum())
    if n_empty:
        _warn(
            f"{n_empty} of {mixture.n_components} components lost all their rows and have weight zero. "
            "Lower n_components, raise n_init, or set empty='reseed'."
        )
    heaviest = float(gather_rows(data.weights.max().reshape(1)).max()) / data.total_weight
    bound = float(concentration_from_length(1 - model.floor, data.rows.dim, complement=model.floor))
    has_one_row = (mixture.weights_ > 0) & (mixture.weights_ <= 1.001 * heaviest)
    n_single = int((has_one_row & (mixture.concentrations_ >= 0.999 * bound)).sum())
    if n_single and data.n_rows > 1:
        _warn(
            f"{n_single} of {mixture.n_components} components hold one row each at the largest concentration, "
            f"{bound:.3g}: without that bound the likelihood would be infinite there. Set shrinkage=1, raise n_init, "
            "or lower n_components."
        )


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=_STACKLEVEL)
