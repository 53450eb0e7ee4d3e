"""The loss from unit vectors and prototypes, without the matrix of all logits.

With 65,536 components and 384 student vectors a matrix of logits has 100 MB, and plain autograd keeps six of them. Here
components come in chunks. A first pass finds the log-sum-exp of every row, the backward pass computes each chunk of
logits again, and the gradient is written down in closed form instead of recorded.
"""

from typing import Any

import torch
from torch import Tensor

from vmflearn.sphere.kernels import length_kernel
from vmflearn.ssl.losses import check_crops, check_targets
from vmflearn.ssl.prototypes import Prototypes

SMALLEST_NORM = 1e-12  # of torch.nn.functional.normalize


def prototype_loss(
    y: Tensor, prototypes: Prototypes, temperature: float, teacher_probs: Tensor, *, chunk_size: int = 4096
) -> Tensor:
    """Cross-entropy of `dino_loss`, with the student's last layer inside: ``dino_loss(prototypes(y, tau), targets)``.

    With Q_v the sum of the targets that crop v meets, logits s_v = W y_v + log C, their largest m_v, Z_v =
    sum_k exp(s_vk - m_v) and N = batch (2 crops - 2),

        L = 1/N  sum_v,b  |Q_v|_1 log Z_v + sum_k Q_vk (m_v - s_vk),
        dL/ds_v = (|Q_v|_1/Z_v exp(s_v - m_v) - Q_v)/N

    No term of the loss is negative: <Q_v, s_v> and the log-sum-exp apart would round to the size of the logits, and a
    small difference of the two would be lost. m_v grows from chunk to chunk, and what came before moves with it.

    The gradient of Q needs no logits: it is linear, so that the targets are taken through W and through Y_u, the sum of
    y over all crops but u. From dL/dW, where W = g v/(|v| tau),

        dL/dg = <dL/dW, v>/(|v| tau) - sign(g) A_p(abs(g)/tau) (sum_v,b dL/ds)/tau
        dL/dv = g/(|v| tau) (dL/dW - <dL/dW, v> v/|v|^2)

    the last term of dL/dg with ``"vmf"`` alone: A_p is minus the derivative of log C_p.

    Parameters
    ----------
    y : Tensor, (crops, batch, bottleneck_dim)
        Unit vectors of the student's crops, the teacher's two views first; at least two crops.
    prototypes : Prototypes
        The student's last layer.
    temperature : float
        The student's tau.
    teacher_probs : Tensor, (2, batch, out_dim)
        Targets, rows that sum to one. They count as constants.
    chunk_size : int
        Components at a time. Memory above inputs and gradients is a few times crops x batch x chunk_size numbers.

    Returns
    -------
    Tensor, ()
        float32, under autocast too; float64 if an input is. It can be differentiated once.

    Raises
    ------
    ValueError
        If a shape is not as stated, the temperature is not a positive, finite number, or chunk_size is below 1.
    """
    check_crops("y", "bottleneck_dim", y)
    if y.shape[-1] != prototypes.bottleneck_dim:
        raise ValueError(
            f"y must have shape (crops, batch, {prototypes.bottleneck_dim}), got {tuple(y.shape)}: "
            "pass the unit vectors of a bottleneck of that dimension"
        )
    shape = (y.shape[1], prototypes.out_dim)
    check_targets(f"y {tuple(y.shape)} and {prototypes.out_dim} prototypes", shape, teacher_probs)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}: 4096 suits most machines")
    kappa = prototypes.concentrations(temperature).detach()
    # Weights of "l2" have no magnitude: ones, through which no gradient flows.
    g = prototypes.weight_g if prototypes.normalization != "l2" else torch.ones_like(prototypes.weight_g)
    log_c = None
    if prototypes.normalization == "vmf":
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            log_c = prototypes.log_normalizers(temperature)
    loss: Tensor = _PrototypeLoss.apply(
        y, prototypes.weight_v, g, teacher_probs.detach(), kappa, log_c, temperature, chunk_size
    )
    return loss


class _PrototypeLoss(torch.autograd.Function):
    """Two passes over the components."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        v: Tensor,
        g: Tensor,
        targets: Tensor,
        kappa: Tensor,
        log_c: Tensor | None,
        temperature: float,
        chunk_size: int,
    ) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(y.dtype, v.dtype), torch.float32)
        dtype = torch.promote_types(dtype, targets.dtype)
        n_crops, batch, dim = y.shape
        with torch.autocast(y.device.type, enabled=False):
            rows = y.to(dtype).reshape(-1, dim)
            flat = targets.reshape(2 * batch, -1)
            largest = rows.new_full((len(rows),), torch.finfo(dtype).min / 2)  # halved: the first rise is finite
            total = rows.new_zeros(len(rows))
            mass = rows.new_zeros(batch, 2, 1)
            shortfall = rows.new_zeros(batch, 2, n_crops)  # sum_k q_uk (m_v - s_vk) for every pair of u and v
            buffer = rows.new_empty(len(rows), min(chunk_size, len(v)))  # one for all chunks: fresh memory is slow
            for part in _parts(len(v), chunk_size):
                w, _, _ = _weights(v[part], g[part], temperature, dtype)
                s = _logits(rows, w, None if log_c is None else log_c[part].to(dtype), buffer[:, : len(w)])
                # the log-sum-exp so far, as its largest term and a sum relative to it
                now = torch.maximum(largest, s.amax(dim=1))
                rise = now - largest
                s.sub_(now[:, None])
                q = flat[:, part].to(dtype).reshape(2, batch, -1).transpose(0, 1)
                shortfall.addcmul_(mass, _by_image(rise, n_crops))
                shortfall.baddbmm_(q, s.reshape(n_crops, batch, -1).permute(1, 2, 0), alpha=-1)
                mass.add_(q.sum(dim=2, keepdim=True))
                total.mul_(rise.neg_().exp_()).add_(s.exp_().sum(dim=1))
                largest = now
            met = rows.new_ones(2, n_crops)
            met[:, :2].fill_diagonal_(0)  # no view meets itself
            weight = (mass * met).sum(dim=1)  # |Q_v|, (batch, crops)
            scale = 1 / (batch * (2 * n_crops - 2))
            ctx.save_for_backward(y, v, g, targets, kappa, log_c, largest, weight.T.reshape(-1) / total)
            ctx.settings = temperature, chunk_size, scale
            return ((weight * _by_image(total.log(), n_crops)[:, 0]).sum() + (shortfall * met).sum()) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "prototype_loss can be differentiated once, and create_graph=True asks for more: "
                "use dino_loss(prototypes(y, temperature), teacher_probs)"
            )
        y, v, g, targets, kappa, log_c, largest, ratio = ctx.saved_tensors  # ratio is |Q|/Z
        temperature, chunk_size, scale = ctx.settings
        wants_y, wants_v, wants_g = ctx.needs_input_grad[:3]
        n_crops, batch, dim = y.shape
        dtype = largest.dtype
        n = n_crops * batch
        grad_y = torch.zeros(n + 2 * batch, dim, dtype=dtype, device=y.device) if wants_y else None
        grad_v = torch.empty_like(v) if wants_v else None
        grad_g = torch.empty_like(g) if wants_g else None
        with torch.autocast(y.device.type, enabled=False):
            rows = y.to(dtype).reshape(-1, dim)
            # The rows below the student's are the targets', which enter with a minus sign.
            stacked = torch.cat([rows * ratio[:, None], _sums_of_others(rows, n_crops).neg_()]) * (grad * scale)
            flat = targets.reshape(2 * batch, -1)
            buffer = rows.new_empty(len(stacked), min(chunk_size, len(v)))
            for part in _parts(len(v), chunk_size):
                w, unit, norm = _weights(v[part], g[part], temperature, dtype)
                c = None if log_c is None else log_c[part].to(dtype)
                p = buffer[:, : len(w)]
                _logits(rows, w, c, p[:n]).sub_(largest[:, None]).exp_()  # Z softmax(s)
                p[n:] = flat[:, part]
                if grad_y is not None:
                    grad_y.addmm_(p, w)
                if grad_v is None and grad_g is None:
                    continue
                grad_w = p.T @ stacked
                along = (grad_w * unit).sum(dim=1, keepdim=True)
                if grad_g is not None:
                    slope = along
                    if log_c is not None:
                        # -A_p(kappa) times the sum over rows of dL/ds
                        sums = (ratio @ p[:n] - (n_crops - 1) * p[n:].sum(dim=0)) * (grad * scale)
                        length = length_kernel(kappa[part].to(dtype), dim)
                        slope = along - (g[part].sign().to(dtype).squeeze(1) * length * sums)[:, None]
                    grad_g[part] = slope / temperature
                if grad_v is not None:
                    inside = norm > SMALLEST_NORM  # below it, normalize divides by a constant
                    grad_w.addcmul_(along * inside, unit, value=-1)
                    grad_v[part] = grad_w.mul_(g[part].to(dtype) / temperature / norm.clamp_min(SMALLEST_NORM))
            if grad_y is not None:
                of_views = grad_y[n:].reshape(2, batch, dim)
                grad_y = grad_y[:n].mul_(ratio[:, None]).reshape(n_crops, batch, dim)
                grad_y[0].sub_(of_views[1])  # no view meets itself
                grad_y[1].sub_(of_views[0])
                grad_y[2:].sub_(of_views.sum(dim=0))
                grad_y = grad_y.mul_(grad * scale).to(y.dtype)
        return grad_y, grad_v, grad_g, None, None, None, None, None


def _parts(n: int, chunk_size: int) -> list[slice]:
    return [slice(start, min(start + chunk_size, n)) for start in range(0, n, chunk_size)]


def _weights(v: Tensor, g: Tensor, temperature: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """W = g v/(|v| tau), v/|v| and |v| of a chunk of components."""
    v = v.to(dtype)
    norm = v.norm(dim=1, keepdim=True)
    unit = v / norm.clamp_min(SMALLEST_NORM)
    return unit * (g.to(dtype) / temperature), unit, norm


def _logits(rows: Tensor, w: Tensor, log_c: Tensor | None, out: Tensor) -> Tensor:
    if log_c is None:
        return torch.mm(rows, w.T, out=out)
    return torch.addmm(log_c, rows, w.T, out=out)


def _by_image(per_row: Tensor, n_crops: int) -> Tensor:
    """One number a row, (crops batch,), as (batch, 1, crops)."""
    return per_row.reshape(n_crops, -1).T[:, None]


def _sums_of_others(rows: Tensor, n_crops: int) -> Tensor:
    """Y_u, the sum of y over all crops but u, for u = 0 and 1, as (2 batch, dim)."""
    crops = rows.reshape(n_crops, -1, rows.shape[-1])
    return (crops.sum(dim=0) - crops[:2]).reshape(-1, rows.shape[-1])
