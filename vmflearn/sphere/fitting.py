"""One start of expectation-maximisation: steps until the objective rests, and what becomes of components without rows.

**Reseeding** (``empty="reseed"``). Before an M-step, a component whose mass is below 1e-8 rows is moved to the row that
the mixture explains worst (lowest log f(x_i), positive weight): its statistics become those of an average component
there, blurred like the rest of the mixture,

    W_k = W / K,   R_k = W_k rbar x_worst,   rbar = sum_j |R_j| / W,   W = sum_j W_j,

and all are scaled back to the total W, so that the M-step gives it the weight 1 / (K + 1), the worst row's direction
and the pooled concentration. (A component of one row's weight would win no row under hard assignment.) One component
moves in a step (the next one finds the next-worst row), and at most K in a start: with fewer distinct rows than
components there would be no end. The objective may fall in such a step, and convergence is not declared in it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vmflearn.distributed import gather_rows
from vmflearn.sphere.acceleration import Strides
from vmflearn.sphere.em import (
    Data,
    Model,
    Parameters,
    Statistics,
    e_step,
    exponentials_,
    labels_of,
    logits_in_chunks,
    m_step,
)

# A component with less than this many rows' weight has lost its rows.
LOST_ROWS = 1e-8


class Fit(NamedTuple):
    """Where a start ended."""

    parameters: Parameters
    statistics: Statistics  # those that gave the parameters
    objectives: list[float]  # before each step, and last that of the parameters
    converged: bool


def run_em(
    data: Data,
    parameters: Parameters,
    model: Model,
    *,
    max_iter: int,
    tol: float,
    reseeding: bool,
    accelerated: bool,
    chunk_size: int,
    report: Callable[[float, float], None],
) -> Fit:
    """Repeat E- and M-steps until one raises the objective by no more than ``tol`` per unit of weight.

    With ``accelerated``, after each step of EM a stride is tried (`vmflearn.sphere.acceleration`), which counts as a
    step. A stride that fails leaves the objective where it was; the last step is never a stride.

    Parameters
    ----------
    data, parameters, model
        Rows, start and what is maximised.
    max_iter : int
        Largest number of steps.
    tol : float
        Nats a row.
    reseeding : bool
        Whether components that lost their rows move, see above.
    accelerated : bool
        Whether to try strides; hard assignment, whose steps do not grow short, has none.
    chunk_size : int
        Rows per chunk.
    report : callable
        Called after each step with the objective and its change, both per unit of weight.
    """
    strides = Strides(model, data.rows.dim) if accelerated and model.assignment == "soft" else None
    following, objective = e_step(data, parameters, model, chunk_size)
    objectives, converged, moves_left = [objective], False, len(parameters.weights) if reseeding else 0
    statistics = following

    def note(objective: float) -> float:
        change = (objective - objectives[-1]) / data.total_weight
        objectives.append(objective)
        report(objective / data.total_weight, change)
        return change

    while not converged and len(objectives) <= max_iter:
        before, statistics, moved = parameters, following, False
        if moves_left:
            statistics, moved = reseed(data, statistics, parameters, model, chunk_size)
            moves_left -= moved
        parameters = m_step(statistics, parameters.means, model)
        following, objective = e_step(data, parameters, model, chunk_size)
        converged = note(objective) <= tol and not moved
        if strides is None or converged or moved or len(objectives) >= max_iter:
            continue
        beyond = strides.propose(before, parameters, m_step(following, parameters.means, model))
        if beyond is not None:
            there, objective = e_step(data, beyond, model, chunk_size)
            kept = objective >= objectives[-1]
            strides.learn(kept)
            if kept:
                parameters, following = beyond, there
            note(objective if kept else objectives[-1])
    return Fit(parameters, statistics, objectives, converged)


def reseed(
    data: Data, statistics: Statistics, parameters: Parameters, model: Model, chunk_size: int
) -> tuple[Statistics, bool]:
    """Move the first component that lost its rows, if there is one, to the row that ``parameters`` explain worst.

    ``statistics`` may be of any scale (sums over rows, or running means); they are not changed.
    """
    masses, resultants = statistics
    total = masses.sum()
    lost = torch.nonzero(masses <= LOST_ROWS * total / data.n_rows)[:, 0]
    if not len(lost):
        return statistics, False
    k, n_components = int(lost[0]), len(masses)
    pooled_length = resultants.norm(dim=1).sum() / total
    masses, resultants = masses.clone(), resultants.clone()
    masses[k] = total / n_components
    resultants[k] = masses[k] * pooled_length * worst_explained(data, parameters, model, chunk_size)
    share = n_components / (n_components + 1)
    return Statistics(share * masses, share * resultants), True


def worst_explained(data: Data, parameters: Parameters, model: Model, chunk_size: int) -> Tensor:
    """The row (dim,) of lowest log-likelihood among those of positive weight, of all processes; float64."""
    lowest, place = torch.inf, 0
    hard = model.assignment == "hard"
    for where, _, logits in logits_in_chunks(data.rows, parameters, chunk_size, by_row=hard):
        _, log_likelihood = labels_of(logits) if hard else exponentials_(logits)
        log_likelihood = torch.where(data.weights[where] > 0, log_likelihood, torch.inf)
        value, index = log_likelihood.min(dim=0)
        if float(value) < lowest:
            lowest, place = float(value), where.start + int(index)
    row = data.rows.take(torch.tensor([place])).dense()
    candidates = gather_rows(torch.cat([torch.tensor([[lowest]], dtype=torch.float64), row], dim=1))
    return candidates[candidates[:, 0].argmin(), 1:]
