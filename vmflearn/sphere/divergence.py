r"""Kullback-Leibler divergences on the sphere, registered with ``torch.distributions.kl_divergence``.

.. math:: \mathrm{KL}(p, q) = D(\kappa_p, \kappa_q) + \tfrac12\kappa_q A(\kappa_p)\|\mu_p - \mu_q\|^2, \qquad
    D = \log H(\kappa_q) - \log H(\kappa_p) - (\kappa_q - \kappa_p) A(\kappa_p)
      = \int_{\kappa_p}^{\kappa_q} (\kappa_q - t)\,A'(t)\,dt .

Neither term is negative. The three parts of D nearly cancel where the concentrations are nearly equal or both small:
there D is the integral, by a Gauss-Legendre rule. The uniform distribution is concentration 0. Where concentrations
have no squares (`vmflearn.sphere.flat_limit`), :math:`A' = (p-1)/2t^2` and so, with
:math:`x = (\kappa_q-\kappa_p)/\kappa_p`, :math:`D = \tfrac{p-1}2[x - \log(1 + x)]`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.distributions import register_kl
from torch.distributions.utils import broadcast_all

from vmflearn.sphere.constraints import length_tolerance
from vmflearn.sphere.distribution import VonMisesFisher
from vmflearn.sphere.flat_limit import anywhere, flat_from
from vmflearn.sphere.hyperspherical_uniform import HypersphericalUniform
from vmflearn.sphere.kernels import length_derivative_kernel
from vmflearn.sphere.power_normalizer import divergence_from_uniform, divergence_to_uniform
from vmflearn.sphere.power_spherical import PowerSpherical

# The nearest singularity of A', a zero of the Bessel function, is three half-widths of the interval away at least:
# the error of the rule falls by the factor (3 + sqrt 8)^2 = 34 with each node.
NODES = 12


@cache
def _rule() -> tuple[tuple[float, float], ...]:
    """Nodes and weights on (0, 1) for integrals of (1 - u) f(u)."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return tuple(((1 + t) / 2, w / 2 * (1 - t) / 2) for t, w in zip(nodes.tolist(), weights.tolist(), strict=True))


def bregman_divergence(kappa_p: Tensor, kappa_q: Tensor, dim: int) -> Tensor:
    r"""D of the module's equation, for finite concentrations of one shape; relative accuracy, differentiable."""
    step = kappa_q - kappa_p
    larger = torch.maximum(kappa_p, kappa_q)
    close = step.abs() <= torch.clamp(larger / 2, min=dim / 4)
    far = torch.minimum(kappa_p, kappa_q) > flat_from(larger.dtype) / 2
    short, start = (torch.where(close & ~far, x, 0.0) for x in (step, kappa_p))
    share = torch.where(far, step / torch.where(far, kappa_p, 1.0), 0.0)  # from -1 on, without bound
    little = torch.where(close, share, 0.0)
    total, far_total = torch.zeros_like(kappa_p), torch.zeros_like(kappa_p)
    for node, weight in _rule():
        total = total + weight * length_derivative_kernel(start + node * short, dim)
        far_total = far_total + weight * (little / (1 + node * little)) ** 2
    peaks = anywhere(kappa_p, dim, "excess") - anywhere(kappa_q, dim, "excess")
    near = torch.where(close, short * (short * total), peaks + step * anywhere(kappa_p, dim, "complement"))
    far_away = torch.where(close, far_total, share - torch.log1p(share))
    return torch.where(far, (dim - 1) / 2 * far_away, near)


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl_vmf_vmf(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    """KL(p, q); infinite when exactly one is a point mass or both are, at different points, 0 when both are equal."""
    _check_dims(p.dim, q.dim)
    loc_p, kappa_p, infinite_p = p.working_parameters()
    loc_q, kappa_q, infinite_q = q.working_parameters()
    kappa_p, kappa_q, infinite_p, infinite_q = broadcast_all(kappa_p, kappa_q, infinite_p, infinite_q)
    gap = ((loc_p - loc_q) ** 2).sum(-1) / 2
    divergence = bregman_divergence(kappa_p, kappa_q, p.dim) + kappa_q * anywhere(kappa_p, p.dim, "length") * gap
    tolerance = length_tolerance(torch.promote_types(p.loc.dtype, q.loc.dtype))
    same = infinite_p & infinite_q & (2 * gap <= tolerance**2)
    divergence = torch.where(infinite_p | infinite_q, torch.where(same, 0.0, torch.inf), divergence)
    return divergence.to(torch.promote_types(p.dtype, q.dtype))


@register_kl(VonMisesFisher, HypersphericalUniform)
def _kl_vmf_uniform(p: VonMisesFisher, q: HypersphericalUniform) -> Tensor:
    r""":math:`\kappa A - \log H = D(\kappa, 0)`."""
    _check_dims(p.dim, q.dim)
    _, kappa, infinite = p.working_parameters()
    divergence = torch.where(infinite, torch.inf, bregman_divergence(kappa, torch.zeros_like(kappa), p.dim))
    return _broadcast_to_batch(divergence.to(p.dtype), q)


@register_kl(HypersphericalUniform, VonMisesFisher)
def _kl_uniform_vmf(p: HypersphericalUniform, q: VonMisesFisher) -> Tensor:
    r""":math:`\log H(\kappa) = D(0, \kappa)`: the mean of x is zero."""
    _check_dims(p.dim, q.dim)
    _, kappa, infinite = q.working_parameters()
    divergence = torch.where(infinite, torch.inf, anywhere(kappa, q.dim, "log_h"))
    return _broadcast_to_batch(divergence.to(q.dtype), p)


@register_kl(HypersphericalUniform, HypersphericalUniform)
def _kl_uniform_uniform(p: HypersphericalUniform, q: HypersphericalUniform) -> Tensor:
    """Zero."""
    _check_dims(p.dim, q.dim)
    return _broadcast_to_batch(torch.zeros_like(p.entropy()), q)


@register_kl(PowerSpherical, HypersphericalUniform)
def _kl_power_uniform(p: PowerSpherical, q: HypersphericalUniform) -> Tensor:
    r""":math:`D - \kappa D'`, with D of `vmflearn.sphere.power_normalizer`."""
    _check_dims(p.dim, q.dim)
    _, kappa, infinite = p.working_parameters()
    divergence = torch.where(infinite, torch.inf, divergence_to_uniform(kappa, p.dim))
    return _broadcast_to_batch(divergence.to(p.dtype), q)


@register_kl(HypersphericalUniform, PowerSpherical)
def _kl_uniform_power(p: HypersphericalUniform, q: PowerSpherical) -> Tensor:
    r""":math:`\kappa D'(0) - D`."""
    _check_dims(p.dim, q.dim)
    _, kappa, infinite = q.working_parameters()
    divergence = torch.where(infinite, torch.inf, divergence_from_uniform(kappa, q.dim))
    return _broadcast_to_batch(divergence.to(q.dtype), p)


@register_kl(PowerSpherical, VonMisesFisher)
def _kl_power_vmf(p: PowerSpherical, q: VonMisesFisher) -> Tensor:
    r"""That to uniform, plus :math:`\log H(\kappa_q) - \kappa_q m\,\mu_p^\top\mu_q`, m being the length of the mean."""
    _check_dims(p.dim, q.dim)
    loc_p, kappa_p, infinite_p = p.working_parameters()
    loc_q, kappa_q, infinite_q = q.working_parameters()
    kappa_p, kappa_q, infinite_p, infinite_q = broadcast_all(kappa_p, kappa_q, infinite_p, infinite_q)
    gap = ((loc_p - loc_q) ** 2).sum(-1) / 2
    short = (p.dim - 1) / (kappa_p + (p.dim - 1))  # 1 - m
    length = kappa_p / (kappa_p + (p.dim - 1))
    near = anywhere(kappa_q, p.dim, "log_h") - kappa_q * length
    far = kappa_q * short - anywhere(kappa_q, p.dim, "excess")
    tilt = torch.where(length < 0.5, near, far) + kappa_q * length * gap
    divergence = divergence_to_uniform(kappa_p, p.dim) + tilt
    tolerance = length_tolerance(torch.promote_types(p.loc.dtype, q.loc.dtype))
    same = infinite_p & infinite_q & (2 * gap <= tolerance**2)
    divergence = torch.where(infinite_p | infinite_q, torch.where(same, 0.0, torch.inf), divergence)
    return divergence.to(torch.promote_types(p.dtype, q.dtype))


def _broadcast_to_batch(divergence: Tensor, other: HypersphericalUniform) -> Tensor:
    return divergence.expand(torch.broadcast_shapes(divergence.shape, other.batch_shape))


def _check_dims(dim_p: int, dim_q: int) -> None:
    if dim_p != dim_q:
        raise ValueError(f"the distributions must live on the same sphere, got dim={dim_p} and dim={dim_q}")
