"""MSN's loss: cross-entropy of the anchors against balanced targets, and the entropy of their mean.

MSN (Assran et al., 2022) has no centre. What keeps it from collapse is that the targets are balanced over the
components (Sinkhorn) and that the mean prediction over all anchors is pushed towards the uniform distribution.
"""

import math

import torch
from torch import Tensor

from vmflearn.distributed import log_mean_exp_over_processes


def msn_loss(anchor_logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and mean-entropy term.

        CE = 1/(V n)  sum_v sum_b  -<q_b, log p_vb>,
        R = ln K - H(p_bar),        p_bar = mean of p_vb

    the means over the V anchor views, the batch and, for p_bar, all processes. R is not a mean over images, so it needs
    the whole batch at once. Its gradient is <log p_bar + 1, d p_bar>: with p_bar held fixed in the logarithm and each
    process's own mean in the differential, the average of the processes' gradients is exact.

    Parameters
    ----------
    anchor_logits : Tensor, (views, batch, out_dim)
        Complete logits s of the student, p = softmax(s).
    targets : Tensor, (1, batch, out_dim)
        Rows that sum to one; they count as constants, and are the same for all views of an image.

    Returns
    -------
    cross_entropy, mean_entropy : Tensor, Tensor
        Scalars, float32 or better. ``mean_entropy`` is R, between 0 and ln K, to be minimised.

    Raises
    ------
    ValueError
        If a shape is not as stated.
    """
    if anchor_logits.ndim != 3 or anchor_logits.numel() == 0:
        raise ValueError(f"anchor_logits must have shape (views, batch, out_dim), got {tuple(anchor_logits.shape)}")
    if targets.shape != (1, *anchor_logits.shape[1:]):
        raise ValueError(f"targets must have shape {(1, *anchor_logits.shape[1:])}, got {tuple(targets.shape)}")
    dtype = torch.promote_types(torch.promote_types(anchor_logits.dtype, targets.dtype), torch.float32)
    log_p = torch.log_softmax(anchor_logits.to(dtype), dim=-1)
    cross_entropy = -(targets.detach().to(dtype) * log_p).sum(dim=-1).mean()
    rows = log_p.flatten(0, 1)
    log_own = rows.logsumexp(dim=0) - math.log(len(rows))
    log_mean = log_mean_exp_over_processes(log_own.detach())
    value = math.log(len(log_mean)) + (log_mean.exp() * log_mean).sum()
    own = log_own.exp()
    # of the value R, and of the gradient stated above
    mean_entropy = value + ((log_mean + 1) * (own - own.detach())).sum()
    return cross_entropy, mean_entropy
