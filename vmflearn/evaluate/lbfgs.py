"""L-BFGS on several independent problems at once: one evaluation serves all of them.

A step of each goes along -H g, where H, an estimate of the inverse Hessian, is made of the last differences of points
and gradients (Nocedal and Wright, "Numerical Optimization", algorithm 7.4). Its length is halved until the value has
fallen as a linear function would let it, up to rounding; each problem has a length of its own, and stops by itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor

MEMORY = 10
ARMIJO = 1e-4
HALVINGS = 20


def minimize(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, *, tolerance: float, max_steps: int
) -> tuple[Tensor, Tensor, int]:
    """Minimise convex functions.

    Parameters
    ----------
    evaluate : callable
        From points (problems, p) to values (problems,) and gradients (problems, p). Scaled so that Hessians are near
        the identity, it takes few steps.
    start : Tensor, (problems, p)
    tolerance : float
        A problem ends when a step promises to lower its value by less than this share of it: half of g H g.
    max_steps : int

    Returns
    -------
    x : Tensor, (problems, p)
    values : Tensor, (problems,)
    steps : int
        Of the problem that took most; `max_steps` if one was not done.
    """
    x = start
    values, gradients = evaluate(x)
    differences: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = torch.ones_like(values)
    active = torch.ones_like(values, dtype=torch.bool)
    slack = 4 * torch.finfo(x.dtype).eps
    for step in range(max_steps):
        directions = -_inverse_hessian_times(gradients, differences, scale)
        slopes = (directions * gradients).sum(dim=1)
        active &= -slopes / 2 > tolerance * values.abs()
        if not active.any():
            return x, values, step
        lengths, waiting = active.to(x.dtype), active.clone()
        for _ in range(HALVINGS):
            points = x + lengths[:, None] * directions
            new_values, new_gradients = evaluate(points)
            waiting &= ~(new_values <= values + ARMIJO * lengths * slopes + slack * values.abs())
            if not waiting.any():
                break
            lengths = torch.where(waiting, lengths / 2, lengths)
        else:  # rounding hides what a step would gain
            lengths = torch.where(waiting, 0, lengths)
            active &= ~waiting
            points = x + lengths[:, None] * directions
            new_values, new_gradients = evaluate(points)
        moved, bent = points - x, new_gradients - gradients
        curvature = (moved * bent).sum(dim=1)
        valid = curvature > torch.finfo(x.dtype).tiny
        inverse = torch.where(valid, 1 / curvature, 0)
        scale = torch.where(valid, curvature / (bent * bent).sum(dim=1), scale)
        differences = [*differences, (moved, bent, inverse)][-MEMORY:]
        x, values, gradients = points, new_values, new_gradients
    return x, values, max_steps


def _inverse_hessian_times(vectors: Tensor, differences: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """The two loops of L-BFGS; a pair whose inverse curvature is 0 changes nothing."""
    out, shares = vectors.clone(), []
    for moved, bent, inverse in reversed(differences):
        share = inverse * (moved * out).sum(dim=1)
        out -= share[:, None] * bent
        shares.append(share)
    out *= scale[:, None]
    for (moved, bent, inverse), share in zip(differences, reversed(shares), strict=True):
        out += (share - inverse * (bent * out).sum(dim=1))[:, None] * moved
    return out
