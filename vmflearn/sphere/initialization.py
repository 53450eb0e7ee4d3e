"""Where expectation-maximisation starts: merged groups, spherical k-means++, given directions, or random shares.

**Merged groups.** One row is a poor direction for its component: in 384 dimensions two rows of one component may have a
cosine of 0.2, hardly more than rows of two. Of K rows drawn, some share a component while others have none, and EM
moves no component across. So several times K seeds are drawn, rows are grouped around them by steps of spherical
k-means, and the groups are joined, two at a time, until K are left (`vmflearn.sphere.merging`): resultants of groups
are directions of many rows, whose closeness can be trusted.

**Whatever is drawn depends on the values of the rows and their weights**, never on their place in the table: with the
same random state, shuffled rows start from the same parameters, and a row of weight two counts as the row written
twice. Seeds are drawn by weight along an order of the rows that a random projection gives. So is the sample that is
taken of more than `SEED_ROWS` rows (a table on either side of that number is another matter), and random shares come
from a hash of the values (`vmflearn.sphere.row_numbers`).

With several processes the first one draws and tells the others, so that the start is that of one process which holds
all rows, stacked in the order of the ranks.
"""

import math

import numpy as np
import torch
from torch import Tensor

from vmflearn.distributed import broadcast_from_first, gather_rows, rank, sum_over_processes
from vmflearn.sphere.directions import directions
from vmflearn.sphere.em import Data, Model, Parameters, Statistics, Sums, concentration_of, labels_of, m_step
from vmflearn.sphere.merging import merge
from vmflearn.sphere.row_numbers import random_multipliers, uniform_numbers
from vmflearn.sphere.rows import DenseRows
from vmflearn.sphere.sparse_rows import SparseRows

# Most rows that k-means++ looks at: it measures about K (2 + log K) products with each of them.
SEED_ROWS = 2**16
# Groups for each component, and steps of spherical k-means that form them.
GROUPS = 3
GROUPING_STEPS = 3
GROUPING_ROWS = 4096
LIGHTEST = 1e-100
# Distances 1 - cos below this many roundings are taken as zero: the row is a copy of a seed.
_COPY_ROUNDINGS = 16


def first_parameters(
    data: Data,
    init: str | Tensor,
    n_components: int,
    model: Model,
    chunk_size: int,
    random: np.random.RandomState,
) -> Parameters:
    """Parameters of one start: ``init`` is "merge", "k-means++", "random", or directions (n_components, dim)."""
    if isinstance(init, Tensor):
        return parameters_from_directions(data, init, model.floor, chunk_size)
    if init in ("merge", "k-means++"):
        draw = merged_directions if init == "merge" else plus_plus_seeds
        return parameters_from_directions(data, draw(data, n_components, random), model.floor, chunk_size)
    basis = torch.eye(data.rows.dim, dtype=torch.float64)[:1].expand(n_components, -1)
    return m_step(random_statistics(data, n_components, chunk_size, random), basis, model)


def merged_directions(data: Data, n_components: int, random: np.random.RandomState) -> Tensor:
    """Draw ``GROUPS`` x n_components seeds by k-means++, group the rows around them, and merge the groups.

    Rows are those of `plus_plus_seeds`. When they have no more distinct values than components, they are the seeds.

    Returns
    -------
    Tensor (n_components, dim)
        Float64 unit rows, the same on all processes.
    """
    n_groups = GROUPS * n_components
    rows, weights = _rows_for_seeding(data, max(SEED_ROWS, 4 * n_groups), random)
    merged = torch.zeros(n_components, data.rows.dim, dtype=torch.float64)
    if rank() == 0:
        seeds = _draw_seeds(rows, weights.cpu().numpy(), n_groups, random, n_draws=1, least=n_components)
        merged = merge(_grouped(rows, weights, seeds), n_components) if len(seeds) > n_components else seeds
    return broadcast_from_first(merged)


def _grouped(rows: DenseRows | SparseRows, weights: Tensor, seeds: Tensor) -> Tensor:
    """Resultants of the groups of rows, a few steps of spherical k-means after ``seeds``; (groups, dim) float64.

    A group that loses its rows keeps its direction, with next to no weight. Weights far below the largest, whose
    squares would be zero, are raised: here they only tell which groups matter.
    """
    weights, resultants = weights.clamp(min=LIGHTEST), seeds
    for _ in range(GROUPING_STEPS):
        unit = directions(resultants)
        near = unit.to(rows.device, rows.dtype)
        sums = torch.zeros_like(unit, device=rows.device)
        for where, chunk in rows.chunks(GROUPING_ROWS):
            labels, _ = labels_of(chunk.products(near))
            chunk.add_to(sums, labels, weights[where])
        sums = sums.cpu()
        resultants = torch.where((sums != 0).any(dim=1, keepdim=True), sums, LIGHTEST**1.2 * unit)
    return resultants


def plus_plus_seeds(data: Data, n_components: int, random: np.random.RandomState) -> Tensor:
    """Draw directions by greedy k-means++ on the sphere.

    The first seed is a row drawn with its weight; each further one is drawn with probability proportional to
    weight x min_seeds (1 - cos), half the squared distance, and the best of 2 + log K such draws is kept (Arthur &
    Vassilvitskii, SODA 2007, for the plane; the greedy draws are scikit-learn's). When fewer distinct rows than
    components exist, the seeds that remain are drawn by weight alone and repeat rows.

    Of more than ``max(SEED_ROWS, 4 K)`` rows of positive weight a sample of that size, drawn by weight, is used.

    Returns
    -------
    Tensor (n_components, dim)
        Float64 copies of rows, the same on all processes.
    """
    rows, weights = _rows_for_seeding(data, max(SEED_ROWS, 4 * n_components), random)
    seeds = torch.zeros(n_components, data.rows.dim, dtype=torch.float64)
    if rank() == 0:
        n_draws = 2 + int(math.log(n_components))
        seeds = _draw_seeds(rows, weights.cpu().numpy(), n_components, random, n_draws, least=n_components)
    return broadcast_from_first(seeds)


def _rows_for_seeding(data: Data, limit: int, random: np.random.RandomState) -> tuple[DenseRows | SparseRows, Tensor]:
    """Rows of positive weight of all processes and their weights, or those of `limit` draws and how often they came."""
    index = torch.nonzero(data.weights > 0)[:, 0]
    weights = data.weights[index]
    if data.n_rows > limit:
        weights = _times_drawn(data, index, limit, random).to(weights)
        index, weights = index[weights > 0], weights[weights > 0]
    return data.rows.take(index).gathered(), gather_rows(weights)


def _times_drawn(data: Data, index: Tensor, limit: int, random: np.random.RandomState) -> Tensor:
    """How often each row of ``index`` is met by `limit` steps of equal weight along the order of a projection.

    The processes exchange 16 bytes a row.
    """
    drawn = broadcast_from_first(torch.from_numpy(random.standard_normal(data.rows.dim + 1)))
    axis = drawn[None, 1:].to(data.rows.device, data.rows.dtype)
    heights = torch.cat([chunk.products(axis)[0] for _, chunk in data.rows.chunks(GROUPING_ROWS)])[index]
    table = gather_rows(torch.stack([heights.double(), data.weights[index]], dim=1).cpu())
    before = int(gather_rows(torch.tensor([len(index)]))[: rank()].sum())
    order = torch.argsort(table[:, 0], stable=True)
    running = table[order, 1].cumsum(0)
    first = torch.special.ndtr(drawn[0])  # uniform
    met = torch.searchsorted(running, (torch.arange(limit) + first) * (running[-1] / limit), right=True)
    return torch.bincount(order[met.clamp(max=len(order) - 1)], minlength=len(order))[before : before + len(index)]


def _draw_seeds(
    rows: DenseRows | SparseRows,
    weights: np.ndarray,
    n_seeds: int,
    random: np.random.RandomState,
    n_draws: int,
    least: int,
) -> Tensor:
    """The best of ``n_draws`` for each seed; with fewer distinct rows than ``n_seeds``, at least ``least`` of them."""
    order = torch.argsort(rows.products(torch.from_numpy(random.standard_normal(rows.dim))[None])[0].cpu(), stable=True)
    rows, weights = rows.take(order), weights[order.numpy()]
    chosen = _draw(weights, 1, random)
    distance = _half_squared_distance(rows, chosen)[0]
    seeds = [int(chosen[0])]
    while len(seeds) < n_seeds:
        odds = weights * distance
        if odds.sum() == 0 and len(seeds) >= least:
            break
        candidates = _draw(odds if odds.sum() > 0 else weights, n_draws, random)
        closer = np.minimum(distance, _half_squared_distance(rows, candidates))
        best = int(np.argmin(closer @ weights))
        seeds.append(int(candidates[best]))
        distance = closer[best]
    return rows.take(torch.tensor(seeds)).dense()


def _draw(odds: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """Draw indices with the given odds by inverting their running sum."""
    running = np.cumsum(odds)
    drawn = np.searchsorted(running, random.random_sample(size) * running[-1], side="right")
    return np.minimum(drawn, len(odds) - 1)


def _half_squared_distance(rows: DenseRows | SparseRows, seeds: np.ndarray) -> np.ndarray:
    """1 - <seed_j, x_i>, (len(seeds), n) in float64, zero for copies of the seed."""
    products = rows.products(rows.take(torch.from_numpy(seeds)).dense())
    distance = 1.0 - products.cpu().double().numpy()
    distance[distance < _COPY_ROUNDINGS * torch.finfo(rows.dtype).eps] = 0.0
    return distance


def parameters_from_directions(data: Data, directions: Tensor, floor: float, chunk_size: int) -> Parameters:
    """Mixture of equal weights around given directions (K, dim), float64.

    The common concentration is the most likely one when each row belongs to the nearest direction,
    A_p(kappa) = weighted mean of max_k <mu_k, x_i>, but at least one: at zero all components would be the same.
    """
    total = torch.zeros(1, dtype=torch.float64, device=data.rows.device)
    near = directions.to(data.rows.device, data.rows.dtype)
    for where, chunk in data.rows.chunks(chunk_size):
        total += chunk.products(near).amax(dim=0).double() @ data.weights[where]
    total = sum_over_processes(total.cpu())[0].clamp(min=0.0)
    mass = torch.tensor(data.total_weight, dtype=torch.float64)
    kappa = concentration_of(mass, total, data.rows.dim, floor).clamp(min=1.0)
    n_components = len(directions)
    weights = torch.full((n_components,), 1.0 / n_components, dtype=torch.float64)
    return Parameters(weights, directions, kappa.expand(n_components).clone())


def random_statistics(data: Data, n_components: int, chunk_size: int, random: np.random.RandomState) -> Statistics:
    """Statistics of responsibilities drawn at random, uniform numbers divided by their sum in each row."""
    multipliers = broadcast_from_first(torch.from_numpy(random_multipliers(data.rows.dim, random))).numpy()
    sums = Sums(data.rows, n_components)
    for where, chunk in data.rows.chunks(chunk_size):
        drawn = torch.from_numpy(uniform_numbers(chunk.hashes(multipliers), n_components).T)
        drawn = drawn.to(data.rows.device, data.rows.dtype)
        sums.add(chunk, drawn, data.weights[where].to(drawn.dtype) / drawn.sum(dim=0))
    return sums.over_processes(sums.masses.new_zeros(()))[0]
