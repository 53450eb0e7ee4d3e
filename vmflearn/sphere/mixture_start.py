"""What a mixture starts from: what its user gives, the fit before (``warm_start``), and draws for the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vmflearn.sphere.arguments import as_real_tensor, as_tensor
from vmflearn.sphere.bessel import concentration_from_length
from vmflearn.sphere.em import Data, Model, Parameters
from vmflearn.sphere.initialization import first_parameters
from vmflearn.sphere.rows import dense_rows


class Start(NamedTuple):
    """Directions or how to draw them, and the parameters that are given beside them."""

    init: str | Tensor  # a name, or directions (K, dim)
    weights: Tensor | None = None  # (K,)
    concentrations: Tensor | None = None  # (K,)

    def parameters(
        self, data: Data, n_components: int, model: Model, chunk_size: int, random: np.random.RandomState
    ) -> Parameters:
        """Parameters to start from; what is not given is drawn or follows from the directions and the rows."""
        if isinstance(self.init, Tensor) and self.weights is not None and self.concentrations is not None:
            return Parameters(self.weights, self.init, self.concentrations)
        drawn = first_parameters(data, self.init, n_components, model, chunk_size, random)
        return Parameters(
            drawn.weights if self.weights is None else self.weights,
            drawn.means,
            drawn.concentrations if self.concentrations is None else self.concentrations,
        )


def goes_on(estimator: Any) -> bool:
    """Whether `fit` starts from the mixture as it is."""
    return bool(estimator.warm_start) and hasattr(estimator, "weights_")


def start_of(estimator: Any, dim: int, model: Model) -> Start:
    """The start that the settings ask for."""
    largest = concentration_from_length(1 - model.floor, dim, complement=model.floor)
    if goes_on(estimator):
        return _start_from_fit(estimator, model, largest)
    return Start(_directions(estimator, dim), _weights(estimator), _concentrations(estimator, float(largest)))


def refuse_another_number(estimator: Any) -> None:
    """Refuse to go on with another number of components than the mixture has."""
    if len(estimator.weights_) != estimator.n_components:
        raise ValueError(
            f"n_components={estimator.n_components}, but the mixture has {len(estimator.weights_)} components: fit "
            "anew (warm_start=False), or leave n_components as it was"
        )


def _start_from_fit(estimator: Any, model: Model, largest: Tensor) -> Start:
    """The fitted parameters; concentrations above the bound of the new rows' type are lowered to it."""
    refuse_another_number(estimator)
    weights, means, kappa = (
        as_tensor(p).clone() for p in (estimator.weights_, estimator.means_, estimator.concentrations_)
    )
    if model.concentration == "tied" and bool((kappa != kappa[0]).any()):
        raise ValueError(
            "warm_start=True, but the mixture has a concentration for each component and concentration='tied': fit "
            "anew (warm_start=False), or set concentration='free'"
        )
    return Start(means, weights, torch.minimum(kappa, largest))


def _directions(estimator: Any, dim: int) -> str | Tensor:
    """``init`` as it is where it is a name, and as unit rows (K, dim), float64, where it is an array."""
    if isinstance(estimator.init, str):
        return estimator.init
    array = float64_array("init", estimator.init)
    if array.shape != (estimator.n_components, dim):
        raise ValueError(
            f"init has shape {array.shape}: give one direction per component, ({estimator.n_components}, {dim})"
        )
    rows, is_zero = dense_rows(as_tensor(array), torch.device("cpu"), int(estimator.chunk_size), name="init")
    if is_zero.any():
        raise ValueError(f"init has zeros only in rows {np.flatnonzero(is_zero)[:5].tolist()}: give directions")
    return rows.dense().clone()


def _weights(estimator: Any) -> Tensor | None:
    """``weights_init``, scaled to sum one."""
    if estimator.weights_init is None:
        return None
    array = float64_array("weights_init", estimator.weights_init)
    if array.shape != (estimator.n_components,):
        raise ValueError(
            f"weights_init has shape {array.shape}: give one weight per component, ({estimator.n_components},)"
        )
    _refuse(array, ~(np.isfinite(array) & (array >= 0)), "weights_init", "weights must be finite and >= 0")
    if not array.any():
        raise ValueError("weights_init has zeros only: give weights, of which only the ratios matter")
    array = array / array.max()
    return torch.from_numpy(array / array.sum())


def _concentrations(estimator: Any, largest: float) -> Tensor | None:
    """``concentrations_init``, one number or one for each component."""
    if estimator.concentrations_init is None:
        return None
    array = float64_array("concentrations_init", estimator.concentrations_init)
    if array.shape not in ((), (estimator.n_components,)):
        raise ValueError(
            f"concentrations_init has shape {array.shape}: give one number, or one per component, "
            f"({estimator.n_components},)"
        )
    array = np.broadcast_to(array, (estimator.n_components,))
    bad = ~((array >= 0) & (array <= largest))
    _refuse(array, bad, "concentrations_init", f"concentrations must be >= 0 and at most {largest:.6g} for these rows")
    if estimator.concentration == "tied" and (array != array[0]).any():
        raise ValueError(
            f"concentrations_init={array.tolist()} differ, but concentration='tied' has one for all: give one number"
        )
    return torch.from_numpy(array.copy())


def float64_array(name: str, value: Any) -> np.ndarray:
    """A copy in float64 of an array, a tensor anywhere, a number or a list; ValueError for all else."""
    if isinstance(value, Tensor) and not value.is_complex():
        value = value.detach().cpu().double()
    array: np.ndarray = as_real_tensor(value, name).numpy()
    return array.copy()


def _refuse(array: np.ndarray, bad: np.ndarray, name: str, rule: str) -> None:
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name} is {array[place]:g} for component {place}: {rule}")
