r"""The product of two von Mises-Fisher densities, which is one again but for its integral.

Natural parameters add up, :math:`\kappa\mu = \kappa_1\mu_1 + \kappa_2\mu_2`, and

.. math:: \log\!\int f_1 f_2 = \log C_p(\kappa_1) + \log C_p(\kappa_2) - \log C_p(\kappa)
        = \log C_p(0) + E(\kappa_1) + E(\kappa_2) - E(\kappa) - (\kappa_1 + \kappa_2 - \kappa),

with :math:`E = \kappa - \log H`. At large concentrations the logarithms of :math:`C_p` nearly cancel; these terms do
not, and :math:`\kappa_1 + \kappa_2 - \kappa = \kappa_1\kappa_2\|\mu_1 - \mu_2\|^2 / (\kappa_1 + \kappa_2 + \kappa)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vmflearn.sphere.distribution import VonMisesFisher
from vmflearn.sphere.expansion import log_normalizer_at_zero
from vmflearn.sphere.flat_limit import anywhere


def normalized_product(p: VonMisesFisher, q: VonMisesFisher) -> tuple[VonMisesFisher, Tensor]:
    r"""The distribution of density proportional to that of p times that of q, and the logarithm of the integral.

    Parameters
    ----------
    p, q : VonMisesFisher
        On the same sphere; their batch shapes are broadcast.

    Returns
    -------
    product : VonMisesFisher
        As `VonMisesFisher.from_natural` makes it: where the natural parameters cancel it is uniform, with the first
        basis vector as ``loc``, and has no gradient.
    log_integral : Tensor (...)
        :math:`\log\int f_p f_q`, with respect to surface measure: how well the two agree.

    Raises
    ------
    ValueError
        Different spheres, or a point mass (concentration inf), which has no natural parameter.
    """
    if p.dim != q.dim:
        raise ValueError(f"the distributions must live on the same sphere, got dim={p.dim} and dim={q.dim}")
    dtype = torch.promote_types(p.dtype, q.dtype)
    working = torch.promote_types(dtype, torch.float32)
    product = VonMisesFisher.from_natural(p.natural.to(working) + q.natural.to(working))
    first, second, kappa = p.concentration.to(working), q.concentration.to(working), product.concentration
    total = first + second + kappa
    share = first / torch.where(total > 0, total, 1.0)
    lost = share * second * ((p.loc.to(working) - q.loc.to(working)) ** 2).sum(-1)
    peaks, little = (
        anywhere(first, p.dim, name) + anywhere(second, p.dim, name) - anywhere(kappa, p.dim, name)
        for name in ("excess", "log_h")
    )
    # Where all are small log H is smaller than they, and unlike E flat at zero, where kappa has no gradient.
    log_integral = log_normalizer_at_zero(p.dim) + torch.where(total < 1, -little, peaks - lost)
    return VonMisesFisher(product.loc.to(dtype), product.concentration.to(dtype)), log_integral.to(dtype)
