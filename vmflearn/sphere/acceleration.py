r"""Longer strides for expectation-maximisation where its steps grow short: squared extrapolation (SQUAREM).

EM converges linearly, and where components overlap its steps shrink by a factor close to one. From three points in a
row, :math:`x_0, x_1 = M(x_0), x_2 = M(x_1)`, with :math:`r = x_1 - x_0` and :math:`v = (x_2 - x_1) - r`, the next is

.. math:: x = x_0 + 2 a\, r + a^2 v, \qquad a = \|r\| / \|v\|

(Varadhan & Roland, Scandinavian Journal of Statistics 35, 2008, scheme S3); with a = 1 it is :math:`x_2`. It costs one
E-step, as a step of EM does. Coordinates are :math:`\log\pi_k`, :math:`\log\kappa_k` and a vector along each
:math:`\mu_k`, of length one at the three points: no stride can take them out of their range.

**Safeguard.** The point is kept only if its objective is not below that of :math:`x_1`; otherwise EM goes on from
:math:`x_2`. The length a is bounded: by four at first, by four times as much after a success at the bound, and by a
quarter of the length that failed after a failure. So the objective never falls, and convergence is judged at a step of
EM itself, not at a stride.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vmflearn.sphere.bessel import concentration_from_length
from vmflearn.sphere.em import Model, Parameters

FIRST_BOUND, SMALLEST_BOUND, FACTOR = 4.0, 2.0, 4.0


class Strides:
    """Proposes extrapolated parameters and learns how far to go."""

    def __init__(self, model: Model, dim: int):
        self.bound, self.length = FIRST_BOUND, 1.0
        self.largest = concentration_from_length(1 - model.floor, dim, complement=model.floor)

    def propose(self, first: Parameters, second: Parameters, third: Parameters) -> Parameters | None:
        """Parameters beyond three successive ones of EM; None where no stride is longer than the step itself."""
        x0, x1, x2 = (_coordinates(p) for p in (first, second, third))
        # A weight or a concentration of zero stays: logarithms of it cannot be extrapolated.
        moves = torch.isfinite(x0) & torch.isfinite(x1) & torch.isfinite(x2)
        step = torch.where(moves, x1 - x0, 0.0)
        bend = torch.where(moves, x2 - x1, 0.0) - step
        self.length = min(self.bound, float(step.norm() / bend.norm().clamp(min=torch.finfo(bend.dtype).tiny)))
        if self.length <= 1:
            return None
        x = torch.where(moves, x0 + 2 * self.length * step + self.length**2 * bend, x2)
        return self._parameters(x, third)

    def learn(self, kept: bool) -> None:
        """Adapt the bound to whether the last proposal was kept."""
        if not kept:
            self.bound = max(SMALLEST_BOUND, self.length / FACTOR)
        elif self.length == self.bound:
            self.bound *= FACTOR

    def _parameters(self, x: Tensor, nearest: Parameters) -> Parameters:
        n_components = len(nearest.weights)
        logarithms, vectors = x[: 2 * n_components], x[2 * n_components :].view(nearest.means.shape)
        lengths = vectors.norm(dim=1, keepdim=True)
        means = torch.where(lengths > 0, vectors / lengths, nearest.means)
        kappa = torch.minimum(logarithms[n_components:].exp(), self.largest)
        return Parameters(torch.softmax(logarithms[:n_components], dim=0), means, kappa)


def _coordinates(parameters: Parameters) -> Tensor:
    weights, means, kappa = parameters
    return torch.cat([weights.log(), kappa.log(), means.flatten()])
