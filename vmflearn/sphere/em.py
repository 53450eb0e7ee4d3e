r"""Expectation and maximisation for mixtures of von Mises-Fisher components, as two plain functions.

The mixture on the unit sphere in R^p (paper, section 3.2)

    f(x) = sum_k pi_k C_p(kappa_k) exp(kappa_k <mu_k, x>)

gives row i the responsibilities (Eq. 2)

    r_ik  proportional to  pi_k C_p(kappa_k) exp(kappa_k <mu_k, x_i>).

Given them, with row weights s_i, mass W_k = sum_i s_i r_ik and resultant R_k = sum_i s_i r_ik x_i, the likelihood is
maximised by (Banerjee, Dhillon, Ghosh & Sra, JMLR 6, 2005, section 3)

    pi_k = W_k / sum_j W_j,    mu_k = R_k / |R_k|,    A_p(kappa_k) = |R_k| / W_k        (each its own concentration)
                                                      A_p(kappa)   = sum_k |R_k| / sum_k W_k   (one for all)

**The concentration is bounded.** One row alone, or copies of one row, have |R| = W and an infinite likelihood. Here
1 - A_p(kappa) never falls below sqrt(eps) of the floating-point type of the rows: kappa is at most about
(p - 1) / (2 sqrt(eps)), which is 3.4e7 (p - 1) in float64 and 1.4e3 (p - 1) in float32. There the rounding of
kappa <mu, x>, eps kappa, reaches sqrt(eps) / 2 nats per degree of freedom: a sharper component would be fitted to
rounding. The bound is one constant of the problem, and the objective is concave in kappa, so that clipping *is* the
maximiser within the bound: the likelihood still never decreases.

**A component that loses all its rows** (its responsibilities underflow, or no row chooses it) gets weight 0 and
concentration 0 and keeps its direction. Weight 0 is the maximiser too, and log 0 = -inf is harmless: such a component
takes no responsibility, now or later.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vmflearn.sphere.bessel import concentration_from_length, log_hypergeometric, log_normalizer_at_zero


class Parameters(NamedTuple):
    """Parameters of a mixture, float64."""

    weights: Tensor  # (K,)
    means: Tensor  # (K, dim), unit rows
    concentrations: Tensor  # (K,)


class Statistics(NamedTuple):
    """Sufficient statistics of the M-step, float64."""

    masses: Tensor  # (K,)          W_k
    resultants: Tensor  # (K, dim)  R_k


def complement_floor(dtype: torch.dtype) -> float:
    """Smallest 1 - A_p(kappa) that rows of this type can tell: sqrt(eps)."""
    return float(torch.finfo(dtype).eps ** 0.5)


def logits_in_chunks(rows: Tensor, parameters: Parameters, chunk_size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice, log(pi_k f_k(x_i)) - log C_p(0)), chunk by chunk of rows (n, dim), in **one** reused buffer.

    Logits are (K, chunk): sums over components then run along memory, several times faster than across it.
    log C_p(kappa) - log C_p(0) = -log H(kappa) leaves out the large common constant, which would cost float32 digits.
    """
    weights, means, concentrations = parameters
    weighted_means = (concentrations[:, None] * means).to(rows.dtype)  # (K, dim)
    offsets = (weights.log() - log_hypergeometric(concentrations, rows.shape[1])).to(rows.dtype)[:, None]  # (K, 1)
    buffer = rows.new_empty(min(chunk_size, len(rows)) * len(weights))
    for first in range(0, len(rows), chunk_size):
        chunk = slice(first, min(first + chunk_size, len(rows)))
        size = chunk.stop - first
        logits = buffer[: size * len(weights)].view(len(weights), size)
        yield chunk, torch.addmm(offsets, weighted_means, rows[chunk].T, out=logits)


def responsibilities_(logits: Tensor, assignment: str) -> Tensor:
    """Turn logits (K, n) into responsibilities in place; return the log-likelihood of each row, (n,).

    Soft: r = softmax(logits), and the row's log-likelihood is log sum_k exp(logits).
    Hard: r is one at the largest logit, and the row's (classification) log-likelihood is that logit.
    """
    if assignment == "hard":
        best, label = logits.max(dim=0)
        logits.zero_().scatter_(0, label[None], 1.0)
        return best
    best = logits.amax(dim=0)
    total = logits.sub_(best).exp_().sum(dim=0)
    logits.div_(total)
    return best.add_(total.log_())


def accumulate(
    rows: Tensor, row_weights: Tensor, responsibilities: Iterator[tuple[slice, Tensor]], n_components: int
) -> Statistics:
    """Sum W_k = sum_i s_i r_ik and R_k = sum_i s_i r_ik x_i, r (K, chunk): products by chunk, summed in float64."""
    masses = row_weights.new_zeros(n_components)
    resultants = row_weights.new_zeros(n_components, rows.shape[1])
    for chunk, r in responsibilities:
        r.mul_(row_weights[chunk].to(r.dtype))
        masses += r.sum(dim=1)
        resultants += r @ rows[chunk]
    return Statistics(masses, resultants)


def e_step(
    rows: Tensor, row_weights: Tensor, parameters: Parameters, assignment: str, chunk_size: int
) -> tuple[Statistics, float]:
    """Responsibilities (Eq. 2), summed at once; memory O(chunk_size x K).

    Parameters
    ----------
    rows : Tensor (n, dim)
        Unit rows, float32 or float64; the products are made in this type.
    row_weights : Tensor (n,)
        Weights s_i >= 0, float64.
    parameters : Parameters
        Current mixture.
    assignment : {"soft", "hard"}
        See `responsibilities_`.
    chunk_size : int
        Rows per chunk.

    Returns
    -------
    Statistics
        Masses and resultants, float64.
    float
        sum_i s_i log f(x_i) (soft) or sum_i s_i max_k log(pi_k f_k(x_i)) (hard), with respect to surface measure.
    """
    log_likelihood = log_normalizer_at_zero(rows.shape[1]) * float(row_weights.sum())

    def weighed() -> Iterator[tuple[slice, Tensor]]:
        nonlocal log_likelihood
        for chunk, logits in logits_in_chunks(rows, parameters, chunk_size):
            row_log_likelihood = responsibilities_(logits, assignment).double()
            log_likelihood += float(row_log_likelihood @ row_weights[chunk])
            yield chunk, logits

    return accumulate(rows, row_weights, weighed(), len(parameters.weights)), log_likelihood


def m_step(statistics: Statistics, previous_means: Tensor, concentration: str, floor: float) -> Parameters:
    """Parameters that maximise the expected log-likelihood, with 1 - A_p(kappa) >= floor.

    Parameters
    ----------
    statistics : Statistics
        From `e_step`.
    previous_means : Tensor (K, dim)
        Directions kept where the resultant is zero.
    concentration : {"free", "tied"}
        One concentration per component, or one for all.
    floor : float
        See `complement_floor`.
    """
    masses, resultants = statistics
    lengths = resultants.norm(dim=1)
    means = torch.where(lengths[:, None] > 0, resultants / lengths[:, None], previous_means)
    weights = masses / masses.sum()
    if concentration == "tied":
        kappa = concentration_of(masses.sum(), lengths.sum(), resultants.shape[1], floor).expand_as(masses).clone()
    else:
        kappa = concentration_of(masses, lengths, resultants.shape[1], floor)
    return Parameters(weights, means, kappa)


def concentration_of(mass: Tensor, length: Tensor, dim: int, floor: float) -> Tensor:
    """Solve A_p(kappa) = length / mass within 1 - A_p(kappa) >= floor; zero where the mass is zero.

    The complement is (mass - length) / mass: the subtraction comes first, and is exact where it matters (Sterbenz).
    """
    mass = mass.clamp(min=torch.finfo(mass.dtype).tiny)
    complement = ((mass - length) / mass).clamp(min=floor, max=1.0)
    mean_length = (length / mass).clamp(max=1.0 - floor)
    return concentration_from_length(mean_length, dim, complement=complement)
