r"""Expectation and maximisation for mixtures of von Mises-Fisher components, as two plain functions.

The mixture on the unit sphere in R^p (paper, section 3.2)

    f(x) = sum_k pi_k C_p(kappa_k) exp(kappa_k <mu_k, x>)

gives row i the responsibilities (Eq. 2)

    r_ik  proportional to  pi_k C_p(kappa_k) exp(kappa_k <mu_k, x_i>).

Given them, with row weights s_i, mass W_k = sum_i s_i r_ik and resultant R_k = sum_i s_i r_ik x_i, the likelihood is
maximised by (Banerjee, Dhillon, Ghosh & Sra, JMLR 6, 2005, section 3)

    pi_k = W_k / sum_j W_j,    mu_k = R_k / |R_k|,    A_p(kappa_k) = |R_k| / W_k        (each its own concentration)
                                                      A_p(kappa)   = sum_k |R_k| / sum_k W_k   (one for all)

**Shrinkage.** With the conjugate prior density proportional to (C_p(kappa_k) / C_p(0))^m for each component, the
objective becomes

    sum_i s_i log f(x_i)  -  m sum_k [log C_p(0) - log C_p(kappa_k)],

as if each component had seen m more rows whose resultant is zero. Its derivative in kappa_k, with the responsibilities
given, is |R_k| - (W_k + m) A_p(kappa_k), so that the maximum moves to

    A_p(kappa_k) = |R_k| / (W_k + m)        and        A_p(kappa) = sum_k |R_k| / (sum_k W_k + K m),

K m because in the tied model, too, each component brings its m rows. One row alone then has the finite concentration
A_p^-1(1 / (1 + m)). (Hornik & Grün, Journal of Statistical Software 58(10), 2014, call m "nu".)

**The concentration is bounded.** Without shrinkage one row alone, or copies of one row, have |R| = W and an infinite
likelihood. Here 1 - A_p(kappa) never falls below sqrt(eps) of the floating-point type of the rows: kappa is at most
about (p - 1) / (2 sqrt(eps)), which is 3.4e7 (p - 1) in float64 and 1.4e3 (p - 1) in float32. There the rounding of
kappa <mu, x>, eps kappa, reaches sqrt(eps) / 2 nats per degree of freedom: a sharper component would be fitted to
rounding. The bound is one constant of the problem, and the objective is concave in kappa, so that clipping *is* the
maximiser within the bound: the likelihood still never decreases.

**A component that loses all its rows** (its responsibilities fall below 2^-90, in float64 2^-900, or no row chooses
it) gets weight 0 and keeps its direction; its own concentration is 0. Weight 0 is the maximiser too, and log 0 = -inf
is harmless: such a component takes no responsibility, now or later.

**Several processes** each hold their own rows; the sums over rows are added up over the processes, and all else is the
same everywhere.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vmflearn.distributed import sum_over_processes
from vmflearn.sphere.bessel import concentration_from_length, log_hypergeometric, log_normalizer_at_zero
from vmflearn.sphere.kernels import keep_freed_memory
from vmflearn.sphere.rows import DenseChunk, DenseRows
from vmflearn.sphere.sparse_rows import SparseChunk, SparseRows

# Logits are kept in bits, log2 of what they stand for: 2^x is computed faster than e^x.
_BITS = 1 / math.log(2)
# Responsibilities below 2^-90 (float32) or 2^-900 of the largest are zero: the exponential, and products with what it
# gives, are many times slower where its values are denormal.
_LOWEST_BITS = {torch.float32: -90.0, torch.float64: -900.0}
# Concentrations under this many pseudo-observations for each row are zero to any purpose.
_LARGEST_SHRINKAGE = 1e200


class Data(NamedTuple):
    """The rows of this process and their weights; totals and scale are those of all processes.

    Weights are in units of ``scale``, a power of two for which the largest lies in [1, 2): sums and products of weights
    near either end of the range of float64, or of float32, would leave it.
    """

    rows: DenseRows | SparseRows
    weights: Tensor  # (n,) float64, >= 0, where the rows are
    total_weight: float
    n_rows: int  # of positive weight
    scale: float = 1.0  # the user's weights are these times the scale


class Model(NamedTuple):
    """What is maximised."""

    concentration: str  # "free" | "tied"
    assignment: str  # "soft" | "hard"
    shrinkage: float  # weight of pseudo-observations of zero resultant for each component, in the unit of the rows'
    floor: float  # smallest 1 - A_p(kappa), see `complement_floor`


class Parameters(NamedTuple):
    """Parameters of a mixture, float64 on the CPU."""

    weights: Tensor  # (K,)
    means: Tensor  # (K, dim), unit rows
    concentrations: Tensor  # (K,)


class Statistics(NamedTuple):
    """Sufficient statistics of the M-step over all processes, float64 on the CPU."""

    masses: Tensor  # (K,)          W_k
    resultants: Tensor  # (K, dim)  R_k


def shrinkage_per_unit(shrinkage: float, unit: float) -> float:
    """Pseudo-observations in a unit of weight; bounded, so that beside next to no weight they still have a ratio."""
    return min(float(shrinkage), _LARGEST_SHRINKAGE * unit) / unit if unit < math.inf else 0.0


def complement_floor(dtype: torch.dtype) -> float:
    """Smallest 1 - A_p(kappa) that rows of this type can tell: sqrt(eps)."""
    return float(torch.finfo(dtype).eps ** 0.5)


def logits_in_chunks(
    rows: DenseRows | SparseRows, parameters: Parameters, chunk_size: int, by_row: bool = False
) -> Iterator[tuple[slice, DenseChunk | SparseChunk, Tensor]]:
    """Yield (slice, rows, log2(pi_k f_k(x_i) / C_p(0))), chunk by chunk, logits in **one** reused buffer.

    Logits are (K, chunk), and in memory component by component: sums over components then run along memory, several
    times faster than across it. With ``by_row`` memory holds row by row, along which the largest is found fastest.
    log C_p(kappa) - log C_p(0) = -log H(kappa) leaves out the large common constant, which would cost float32 digits.
    """
    weights, means, kappa = parameters
    weighted_means = (_BITS * kappa[:, None] * means).to(rows.device, rows.dtype)  # (K, dim)
    offsets = _BITS * (weights.log() - log_hypergeometric(kappa, rows.dim))[:, None]  # (K, 1)
    offsets = offsets.to(rows.device, rows.dtype)
    keep_freed_memory()
    buffer = torch.empty(min(chunk_size, len(rows)) * len(weights), dtype=rows.dtype, device=rows.device)
    for where, chunk in rows.chunks(chunk_size):
        size = where.stop - where.start
        own = buffer[: size * len(weights)]
        logits = own.view(size, len(weights)).T if by_row else own.view(len(weights), size)
        yield where, chunk, chunk.products(weighted_means, offsets, out=logits)


def exponentials_(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits (K, n) into responsibilities times t_i, in place; return t_i and the log-likelihood, both (n,).

    They are 2^(logit - largest), whose sum over components is t_i; the log-likelihood is log sum_k 2^logit, in nats.
    """
    best = logits.amax(dim=0)
    torch.threshold_(logits.sub_(best), _LOWEST_BITS[logits.dtype], -torch.inf).exp2_()
    total = logits.new_ones(len(logits)) @ logits
    return total, best.add_(total.log2()).div_(_BITS)


def labels_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The component of each row's largest logit, and the (classification) log-likelihood, that logit in nats; (n,).

    Read from logits (K, n) that lie row by row in memory; the first of equal components wins.
    """
    by_row = logits.T
    on_cpu = by_row.device.type == "cpu"  # where numpy's search is several times faster than torch's
    labels = torch.from_numpy(by_row.numpy().argmax(axis=1)) if on_cpu else by_row.argmax(dim=1)
    return labels, by_row.gather(1, labels[:, None])[:, 0].div_(_BITS)


class Sums:
    """W_k and R_k while chunks pass by: products in the type of the rows, added up in float64, as are rows by label."""

    def __init__(self, rows: DenseRows | SparseRows, n_components: int):
        self.masses = torch.zeros(n_components, dtype=torch.float64, device=rows.device)
        self.resultants = torch.zeros(n_components, rows.dim, dtype=torch.float64, device=rows.device)

    def add(self, chunk: DenseChunk | SparseChunk, coefficients: Tensor, row_factors: Tensor) -> None:
        """Add the rows of a chunk with coefficients_ki x row_factors_i; the coefficients (K, n) are overwritten."""
        self.masses += coefficients @ row_factors
        self.resultants += chunk.weighted_sum(coefficients.mul_(row_factors))

    def add_labelled(self, chunk: DenseChunk | SparseChunk, labels: Tensor, row_weights: Tensor) -> None:
        """Add each row of a chunk, with its weight, to the component of its label: no product of matrices is needed."""
        self.masses += torch.bincount(labels, row_weights, minlength=len(self.masses))
        chunk.add_to(self.resultants, labels, row_weights)

    def over_processes(self, extra: Tensor) -> tuple[Statistics, float]:
        """The statistics of all processes, and one more number summed with them, in one exchange."""
        packed = torch.cat([self.masses, extra.reshape(1), self.resultants.flatten()]).cpu()
        packed = sum_over_processes(packed)
        n_components = len(self.masses)
        resultants = packed[n_components + 1 :].view(self.resultants.shape)
        return Statistics(packed[:n_components], resultants), float(packed[n_components])


def e_step(data: Data, parameters: Parameters, model: Model, chunk_size: int) -> tuple[Statistics, float]:
    """Responsibilities (Eq. 2), summed at once; memory O(chunk_size x K).

    Parameters
    ----------
    data : Data
        Rows; the products are made in their type.
    parameters : Parameters
        Current mixture.
    model : Model
        Soft or hard assignment, shrinkage.
    chunk_size : int
        Rows per chunk.

    Returns
    -------
    Statistics
        Masses and resultants.
    float
        The objective: sum_i s_i log f(x_i) (soft) or sum_i s_i max_k log(pi_k f_k(x_i)) (hard), with respect to
        surface measure, less shrinkage x sum_k [log C_p(0) - log C_p(kappa_k)].
    """
    sums, hard = Sums(data.rows, len(parameters.weights)), model.assignment == "hard"
    log_likelihood = torch.zeros((), dtype=torch.float64, device=data.rows.device)
    for where, chunk, logits in logits_in_chunks(data.rows, parameters, chunk_size, by_row=hard):
        row_weights = data.weights[where]
        if hard:
            labels, row_log_likelihood = labels_of(logits)
            sums.add_labelled(chunk, labels, row_weights)
        else:
            total, row_log_likelihood = exponentials_(logits)
            sums.add(chunk, logits, row_weights.to(total.dtype) / total)
        log_likelihood += row_log_likelihood.double() @ row_weights
    statistics, above_uniform = sums.over_processes(log_likelihood)
    dim = data.rows.dim
    penalty = model.shrinkage * float(log_hypergeometric(parameters.concentrations, dim).sum())
    return statistics, above_uniform + log_normalizer_at_zero(dim) * data.total_weight - penalty


def m_step(statistics: Statistics, previous_means: Tensor, model: Model) -> Parameters:
    """Parameters that maximise the expected objective, with 1 - A_p(kappa) >= floor.

    Parameters
    ----------
    statistics : Statistics
        From `e_step`.
    previous_means : Tensor (K, dim)
        Directions kept where the resultant is zero.
    model : Model
        Free or tied concentration, shrinkage in the unit of the masses, floor.
    """
    masses, resultants = statistics
    lengths = resultants.norm(dim=1)
    means = torch.where(lengths[:, None] > 0, resultants / lengths[:, None], previous_means)
    weights = masses / masses.sum()
    seen = masses + model.shrinkage
    if model.concentration == "tied":
        kappa = concentration_of(seen.sum(), lengths.sum(), resultants.shape[1], model.floor).expand_as(masses).clone()
    else:
        kappa = concentration_of(seen, lengths, resultants.shape[1], model.floor)
    return Parameters(weights, means, kappa)


def concentration_of(mass: Tensor, length: Tensor, dim: int, floor: float) -> Tensor:
    """Solve A_p(kappa) = length / mass within 1 - A_p(kappa) >= floor; zero where the mass is zero.

    The complement is (mass - length) / mass: the subtraction comes first, and is exact where it matters (Sterbenz).
    """
    mass = mass.clamp(min=torch.finfo(mass.dtype).tiny)
    complement = ((mass - length) / mass).clamp(min=floor, max=1.0)
    mean_length = (length / mass).clamp(max=1.0 - floor)
    return concentration_from_length(mean_length, dim, complement=complement)
