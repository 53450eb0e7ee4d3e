"""Log C, A, A' and the inverse of A at dim 256, with and without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from measure import Peer, Row, compare, timed
from peers import (
    TensorFlowProbability,
    chemomae_log_normalizer,
    mpmath_log_bessel,
    pyrecest_inverse,
    scipy_inverse,
    scipy_log_bessel,
    scipy_ratio,
)
from torch import Tensor

from vmflearn.sphere import concentration_from_length, log_normalizer, mean_resultant_length
from vmflearn.sphere.bessel import (
    log_hypergeometric_kernel,
    mean_resultant_length_complement,
    mean_resultant_length_derivative,
)

DIM = 256
# Times faster than scipy's ive, which has no gradient: forward, and forward with backward.
TARGETS = {torch.float64: (25.0, 6.0), torch.float32: (65.0, 15.0)}
TFP_TARGET = 3.5
FEW = 20  # values for peers that work value by value


def measure(sizes: Any, tfp: TensorFlowProbability | None) -> list[Row]:
    """All comparisons, in seconds a value."""
    rows = []
    for dtype in (torch.float64, torch.float32):
        kappa = torch.linspace(1, 1001, sizes.values, dtype=torch.float64).to(dtype)
        rows += _one_precision(kappa, sizes, tfp)
    return rows


def _kernel(kappa: Tensor) -> Tensor:
    """Log C_256 less log C_256(0), as a training step calls it."""
    return log_hypergeometric_kernel(kappa, DIM).neg_()


def _one_precision(kappa: Tensor, sizes: Any, tfp: TensorFlowProbability | None) -> list[Row]:
    array, n, rounds = kappa.numpy(), len(kappa), sizes.rounds
    name = str(kappa.dtype).removeprefix("torch.")
    forward_target, gradient_target = TARGETS[kappa.dtype]
    tracked = kappa.clone().requires_grad_()
    length, complement = mean_resultant_length(kappa, DIM), mean_resultant_length_complement(kappa, DIM)
    product = np.empty_like(array)

    def with_gradient() -> Tensor:
        return torch.autograd.grad(log_normalizer(tracked, DIM).sum(), tracked)[0]

    scipy = timed(scipy_log_bessel(array, DIM), n)
    floor = timed(lambda: np.multiply(array, array, out=product), n)
    forward = [
        Peer("scipy ive", scipy, forward_target),
        Peer("numpy multiplication", floor, is_floor=True),
    ]
    gradient = [Peer("scipy ive, no gradient", scipy, gradient_target)]
    ratio = [Peer("scipy, quotient of ive", timed(scipy_ratio(array, DIM), n))]
    if kappa.dtype == torch.float64:
        forward.append(Peer("mpmath, value by value", timed(mpmath_log_bessel(array[:: n // FEW], DIM), FEW)))
    chemomae = chemomae_log_normalizer(kappa, DIM)
    if chemomae is not None:
        forward.append(Peer("chemomae", timed(chemomae, n)))
    if tfp is not None:
        label = "TensorFlow Probability"
        forward.append(Peer(label, timed(tfp.log_normalizer(array, DIM), n), TFP_TARGET))
        gradient.append(Peer(label, timed(tfp.log_normalizer_gradient(array, DIM), n)))
        ratio.append(Peer(label, timed(tfp.ratio(array, DIM), n)))
    kernel = [Peer("scipy ive", scipy, forward_target)]
    rows = compare(f"log C_256, the unchecked kernel, {name}", timed(lambda: _kernel(kappa), n), kernel, rounds)
    rows += compare(f"log C_256, {name}", timed(lambda: log_normalizer(kappa, DIM), n), forward, rounds)
    rows += compare(f"log C_256 with gradient, {name}", timed(with_gradient, n), gradient, rounds)
    rows += compare(f"A_256, {name}", timed(lambda: mean_resultant_length(kappa, DIM), n), ratio, rounds)
    slope = timed(lambda: mean_resultant_length_derivative(kappa, DIM), n)
    rows += compare(f"A'_256, {name}", slope, [Peer("scipy ive", scipy)], rounds)
    few = length.double().numpy()[n // 10 :: n // FEW]
    inverse = timed(lambda: concentration_from_length(length, DIM, complement=complement), n)
    solvers = [Peer("brentq on scipy ive, value by value", timed(scipy_inverse(few, DIM), len(few)))]
    pyrecest = pyrecest_inverse(few, DIM)
    if pyrecest is not None:
        solvers.append(Peer("pyrecest, value by value", timed(pyrecest, len(few))))
    return rows + compare(f"inverse of A_256, {name}", inverse, solvers, rounds)
