"""Where expectation-maximisation starts: spherical k-means++ seeds, given directions, or random responsibilities.

Seeds are drawn along an order of the rows that depends on their values alone, never on their place in the table: with
the same random state, shuffled rows start from the same seeds, and a row of weight two counts as the row written twice.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vmflearn.sphere.em import Parameters, Statistics, accumulate, concentration_of

# Distances 1 - cos below this many roundings are taken as zero: the row is a copy of a seed.
_COPY_ROUNDINGS = 16


def plus_plus_seeds(rows: Tensor, row_weights: Tensor, n_components: int, random: np.random.RandomState) -> Tensor:
    """Draw directions by greedy k-means++ on the sphere.

    The first seed is a row drawn with its weight; each further one is drawn with probability proportional to
    weight x min_seeds (1 - cos), half the squared distance, and the best of 2 + log K such draws is kept (Arthur &
    Vassilvitskii, SODA 2007, for the plane; the greedy draws are scikit-learn's). When fewer distinct rows than
    components exist, the seeds that remain are drawn by weight alone and repeat rows.

    Returns
    -------
    Tensor (n_components, dim)
        Float64 copies of rows.
    """
    order = torch.argsort(rows @ torch.from_numpy(random.standard_normal(rows.shape[1])).to(rows.dtype), stable=True)
    order = order[row_weights[order] > 0]
    rows_in_order = rows[order]
    weights = row_weights[order].numpy()
    n_draws = 2 + int(math.log(n_components))

    chosen = _draw(weights, 1, random)
    distance = _half_squared_distance(rows_in_order, chosen)[:, 0]
    seeds = [int(chosen[0])]
    while len(seeds) < n_components:
        odds = weights * distance
        candidates = _draw(odds if odds.sum() > 0 else weights, n_draws, random)
        closer = np.minimum(distance[:, None], _half_squared_distance(rows_in_order, candidates))
        best = int(np.argmin(weights @ closer))
        seeds.append(int(candidates[best]))
        distance = closer[:, best]
    return rows_in_order[seeds].double()


def _draw(odds: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """Draw indices with the given odds by inverting their running sum."""
    running = np.cumsum(odds)
    drawn = np.searchsorted(running, random.random_sample(size) * running[-1], side="right")
    return np.minimum(drawn, len(odds) - 1)


def _half_squared_distance(rows: Tensor, seeds: np.ndarray) -> np.ndarray:
    """1 - <x_i, seed_j>, (n, len(seeds)) in float64, zero for copies of the seed."""
    distance = 1.0 - (rows @ rows[torch.from_numpy(seeds)].T).double().numpy()
    distance[distance < _COPY_ROUNDINGS * torch.finfo(rows.dtype).eps] = 0.0
    return distance


def parameters_from_directions(
    rows: Tensor, row_weights: Tensor, directions: Tensor, floor: float, chunk_size: int
) -> Parameters:
    """Mixture of equal weights around given directions (K, dim), float64.

    The common concentration is the most likely one when each row belongs to the nearest direction,
    A_p(kappa) = weighted mean of max_k <mu_k, x_i>, but at least one: at zero all components would be the same.
    """
    total = row_weights.new_zeros(())
    for first in range(0, len(rows), chunk_size):
        chunk = slice(first, first + chunk_size)
        nearest = (rows[chunk] @ directions.to(rows.dtype).T).amax(dim=1)
        total += nearest.double() @ row_weights[chunk]
    kappa = concentration_of(row_weights.sum(), total.clamp(min=0.0), rows.shape[1], floor).clamp(min=1.0)
    n_components = len(directions)
    weights = torch.full((n_components,), 1.0 / n_components, dtype=torch.float64)
    return Parameters(weights, directions, kappa.expand(n_components).clone())


def random_statistics(
    rows: Tensor, row_weights: Tensor, n_components: int, chunk_size: int, random: np.random.RandomState
) -> Statistics:
    """Statistics of responsibilities drawn at random, uniform numbers divided by their sum in each row."""

    def drawn() -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, len(rows), chunk_size):
            chunk = slice(first, min(first + chunk_size, len(rows)))
            r = torch.from_numpy(random.random_sample((chunk.stop - first, n_components)).T).to(rows.dtype)
            yield chunk, r / r.sum(dim=0)

    return accumulate(rows, row_weights, drawn(), n_components)
