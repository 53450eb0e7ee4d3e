"""The cross-entropy over masked patches (L_MIM of Appendix A.5), without the matrix of all logits.

Rows come in chunks. Each chunk's logits are made once: loss and closed-form gradients are taken from them, and they are
forgotten. So the backward pass has nothing left to compute, and three products with the prototypes are enough.
"""

from typing import Any

import torch
from torch import Tensor

from vmflearn.ssl.prototypes import Prototypes

CHUNK = 2**22
"""Numbers in a chunk of logits: 16 MiB in float32."""


def patch_weights(masks: Tensor) -> Tensor:
    """How much each masked patch counts: 1 / (views batch |M_vb|), so that an image's patches share its weight.

    Parameters
    ----------
    masks : Tensor, (views, batch, h, w) bool

    Returns
    -------
    Tensor, (masked patches,)
        float64, in the order of ``masks.nonzero()``. An image without masked patches has no row: it adds nothing to
        the loss, and still counts in the mean over the batch.
    """
    flat = masks.flatten(2)
    share = 1 / (flat.sum(dim=-1, keepdim=True).clamp_min(1) * flat.shape[0] * flat.shape[1]).double()
    return share.expand(flat.shape)[flat]


def patch_loss(y: Tensor, prototypes: Prototypes, temperature: float, teacher_probs: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of rows, each against a target of its own and with a weight of its own.

        L = sum_r  a_r  -<q_r, log softmax(W y_r + log C)>,
        dL/ds_r = a_r (|q_r|_1 softmax(s_r) - q_r)

    Parameters
    ----------
    y : Tensor, (n, bottleneck_dim)
        Unit vectors of the student's masked patches; n may be 0.
    prototypes : Prototypes
        The student's, of the patches.
    temperature : float
        The student's tau.
    teacher_probs : Tensor, (n, out_dim)
        Targets, rows that sum to one. They count as constants.
    weights : Tensor, (n,)
        a_r, see `patch_weights`.

    Returns
    -------
    Tensor, ()
        float32, under autocast too; float64 if an input is; zero (with a gradient of zeros) without rows. It can be
        differentiated once.

    Raises
    ------
    ValueError
        If a shape is not as stated, or the temperature is not a positive, finite number.
    """
    n = len(y)
    for name, tensor, shape in (
        ("y", y, (n, prototypes.bottleneck_dim)),
        ("teacher_probs", teacher_probs, (n, prototypes.out_dim)),
        ("weights", weights, (n,)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}: a row for each masked patch")
    dtype = torch.promote_types(torch.promote_types(y.dtype, teacher_probs.dtype), torch.float32)
    with torch.autocast(y.device.type, enabled=False):
        w, log_c = prototypes.affine(temperature, dtype)
        loss: Tensor = _PatchLoss.apply(y.to(w.dtype), w, log_c, teacher_probs.detach(), weights.detach().to(w.dtype))
    return loss


class _PatchLoss(torch.autograd.Function):
    """One pass over the rows, which leaves the gradients behind."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, w: Tensor, c: Tensor | None, targets: Tensor, weights: Tensor) -> Tensor:
        wants_y, wants_w, wants_c = ctx.needs_input_grad[:3]
        grad_y = torch.empty_like(y) if wants_y else None
        grad_w = torch.zeros_like(w) if wants_w else None
        grad_c = torch.zeros_like(c) if wants_c and c is not None else None
        loss = y.new_zeros(())
        size = max(1, CHUNK // len(w))
        for start in range(0, len(y), size):
            part = slice(start, start + size)
            rows, q, a = y[part], targets[part].to(y.dtype), weights[part, None]
            s = rows @ w.T if c is None else torch.addmm(c, rows, w.T)
            log_p = s.sub_(s.logsumexp(dim=1, keepdim=True))
            loss.sub_((a * q * log_p).sum())
            if not (wants_y or wants_w or wants_c):
                continue
            ds = log_p.exp_().mul_(q.sum(dim=1, keepdim=True)).sub_(q).mul_(a)
            if grad_y is not None:
                torch.mm(ds, w, out=grad_y[part])
            if grad_w is not None:
                grad_w.addmm_(ds.T, rows)
            if grad_c is not None:
                grad_c.add_(ds.sum(dim=0))
        ctx.gradients = grad_y, grad_w, grad_c
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "patch_loss can be differentiated once, and create_graph=True asks for more: write the loss with "
                "log_softmax(prototypes(y, temperature))"
            )
        return (*(None if gradient is None else gradient * grad for gradient in ctx.gradients), None, None)
