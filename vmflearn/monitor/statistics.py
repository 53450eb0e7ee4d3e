"""Numbers that tell a healthy run from a collapsing one while it trains.

Averages are over all processes: every process calls these functions, and gets the same floats.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from vmflearn.distributed import gather_rows, mean_over_processes, sum_over_processes
from vmflearn.sphere.directions import directions
from vmflearn.ssl.prototypes import Prototypes


@torch.no_grad()
def teacher_statistics(probabilities: Tensor, loss: float | None = None) -> dict[str, float]:
    """How decided the teacher is, and how much its output depends on its input.

    With p the teacher's distribution over K components for one image, and a bar the mean over images:

    - ``teacher_entropy`` is the mean of H(p): how undecided the teacher is on one image, ln K at worst;
    - ``teacher_information`` is H(mean p) - mean H(p), the mutual information of image and component in nats. Near 0
      the output does not depend on the input, as in every collapse, and also in a healthy run's first steps.
    - ``kl`` = loss - ``teacher_entropy``, if the loss is given: the mean of KL(teacher || student) over the loss's
      pairs, since every teacher view is in equally many of them.

    Parameters
    ----------
    probabilities : Tensor of shape (..., out_dim)
        Targets of this process.
    loss : float, optional
        Cross-entropy over all processes, without regularisers.
    """
    p = probabilities.flatten(0, -2)
    p = p.to(torch.promote_types(p.dtype, torch.float32))
    entropy = mean_over_processes(torch.special.entr(p).sum(dim=-1).mean())
    marginal = torch.special.entr(mean_over_processes(p.mean(dim=0))).sum()
    found = {"teacher_entropy": float(entropy), "teacher_information": float(marginal - entropy)}
    if loss is not None:
        found["kl"] = loss - found["teacher_entropy"]
    return found


@torch.no_grad()
def patch_statistics(targets: Tensor, y: Tensor) -> dict[str, float]:
    """The numbers of `teacher_statistics` and `feature_variance`, over the masked patches of all processes.

    Of which each process may have another number, or none.

    Parameters
    ----------
    targets : Tensor of shape (patches, patch_out_dim)
        The teacher's.
    y : Tensor of shape (patches, bottleneck_dim)
        Its bottleneck vectors.

    Returns
    -------
    dict of float
        ``patches`` (their number), ``entropy``, ``information`` and ``y_variance``; empty if there is no patch at all.
    """
    wide = torch.float32 if targets.device.type == "mps" else torch.float64
    p, unit = targets.detach().to(wide), directions(y.detach().to(wide))
    n = sum_over_processes(torch.tensor(float(len(p)), dtype=wide, device=p.device))
    if float(n) == 0:
        return {}
    entropy = sum_over_processes(torch.special.entr(p).sum()) / n
    marginal = torch.special.entr(sum_over_processes(p.sum(dim=0)) / n).sum()
    mean = sum_over_processes(unit.sum(dim=0)) / n
    variance = sum_over_processes((unit - mean).square().sum()) / n
    found = {"patches": n, "entropy": entropy, "information": marginal - entropy, "y_variance": variance}
    return {name: float(value) for name, value in found.items()}


@torch.no_grad()
def feature_variance(rows: Tensor) -> float:
    """Total variance over images of the unit rows x/|x|: 1 - |mean|^2, from 0 (all equal) to 1 (no common direction).

    Computed from centred rows in float64, so that it is 0 for equal rows.

    Parameters
    ----------
    rows : Tensor of shape (..., dim)
        Features or bottleneck vectors of this process, at least one.
    """
    return float(_variances(rows).sum())


@torch.no_grad()
def feature_std(rows: Tensor) -> float:
    """Standard deviation over images of the unit rows, averaged over dimensions; at most 1/sqrt(dim).

    Chen and He (SimSiam, 2021) watch this number: 0 in collapse, near 1/sqrt(dim) in health.

    Parameters
    ----------
    rows : Tensor of shape (..., dim)
    """
    return float(_variances(rows).sqrt().mean())


def _variances(rows: Tensor) -> Tensor:
    x = _matrix(rows)
    unit = directions(x)
    n = sum_over_processes(torch.tensor(float(len(unit)), dtype=x.dtype, device=x.device))
    mean = sum_over_processes(unit.sum(dim=0)) / n
    return sum_over_processes((unit - mean).square().sum(dim=0)) / n


@torch.no_grad()
def effective_rank(rows: Tensor) -> float:
    """RankMe (Garrido et al., 2023): exp(H(s/sum(s))) of the singular values s of the rows of all processes.

    From 1 (all rows on one line) to min(rows, dim).

    Parameters
    ----------
    rows : Tensor of shape (..., dim)

    Raises
    ------
    ValueError
        If there is no row, or one is not finite.
    """
    x = gather_rows(_matrix(rows))
    if not bool(x.isfinite().all()):
        raise ValueError("rows hold NaN or infinity; leave such rows out, or find where they come from")
    s = torch.linalg.svdvals(x)
    total = s.sum()
    return float(torch.special.entr(s / total).sum().exp()) if total > 0 else 0.0


@torch.no_grad()
def prototype_statistics(prototypes: Prototypes, temperature: float) -> dict[str, float]:
    """Lengths |w_k| of the prototypes and concentrations kappa_k = |w_k|/temperature, as percentiles.

    Returns
    -------
    dict
        ``prototype_norm_mean`` and ``kappa_p{5,50,95}``.
    """
    norms = prototypes.magnitudes
    norms = norms.to(torch.promote_types(norms.dtype, torch.float32))
    kappa = norms.sort().values / temperature
    found = {"prototype_norm_mean": float(norms.mean())}
    return found | {f"kappa_p{q}": float(kappa[round(q / 100 * (len(kappa) - 1))]) for q in (5, 50, 95)}


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """Euclidean norm of all gradients together; parameters without one do not count."""
    return _norm(p.grad for p in parameters if p.grad is not None)


@torch.no_grad()
def update_norm(before: Iterable[Tensor], after: Iterable[Tensor]) -> float:
    """Euclidean norm of what a step changed: copies of the parameters from before it, and the parameters."""
    return _norm(b - a for b, a in zip(before, after, strict=True))


def _norm(tensors: Iterable[Tensor]) -> float:
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def _matrix(rows: Tensor) -> Tensor:
    if rows.ndim < 2 or rows.numel() == 0:
        raise ValueError(f"rows must have shape (..., dim) with at least one row, got {tuple(rows.shape)}")
    x = rows.detach().flatten(0, -2)
    return x.float() if x.device.type == "mps" else x.double()
