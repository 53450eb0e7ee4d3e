"""Targets that use all components equally within a batch, by Sinkhorn's alternating normalisation."""

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vmflearn.distributed import log_mean_exp_over_processes, rank, world_size


class SinkhornKnopp(nn.Module):
    """Sinkhorn-Knopp in place of a running centre, as in SwAV (Caron et al. 2020, section 3.1).

    exp(z) of a batch of n images is scaled so that every component receives n/K of it, then so that every image gives
    one, in turns: with row offsets a, zero at the start, and component offsets c, the targets are P = exp(z - c - a),

        c_k <- logsumexp_b (z_bk - a_b),      a_b <- logsumexp_k (z_bk - c_k)

    step by step what ``distributed_sinkhorn`` of SwAV's published code and ``sinkhorn_knopp_teacher`` of DINOv2's do
    (they divide the whole matrix by its sum first, which the first turn undoes). So in the first turn an image counts
    with all of exp(z), not with its softmax: after few turns the targets depend on the constant of its logits.
    The turns converge to the solution of optimal transport with entropic regularisation (Cuturi 2013), which does not;
    a few turns are enough. The images' turn comes last, so rows sum to one. The batch is that of all processes and
    leading dimensions. All stays in the log domain, where nothing underflows. Nothing is kept from step to step: no
    buffers.

    Parameters
    ----------
    out_dim : int
        Number of components K, at least 2.
    iterations : int
        Turns, at least 1.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Warns
    -----
    UserWarning
        Once, at the first batch with fewer rows than components, all processes together: a component's share of it is
        then less than one row, and equal use of all is bought with targets that are spread over several.
    """

    def __init__(self, out_dim: int, iterations: int = 3) -> None:
        super().__init__()
        if out_dim < 2:
            raise ValueError(f"out_dim, the number of components, must be at least 2, got {out_dim}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}: 3 is customary")
        self.out_dim = out_dim
        self.iterations = iterations
        self._warned = False

    @torch.no_grad()
    def probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """The teacher's targets.

        Parameters
        ----------
        logits : Tensor, (..., out_dim)
            Complete logits z, temperature included.
        temperature : float
            Of no effect, since z contains it; taken so that it is called like the ways of centring.

        Returns
        -------
        Tensor, (..., out_dim)
            Rows that sum to one, float32 or float64, without a gradient.

        Raises
        ------
        ValueError
            If the last dimension is not out_dim, there is no row, or the temperature is not a positive, finite number.
        """
        self._check(logits, temperature)
        z = logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(-1, self.out_dim)
        self._warn_of_few(len(z) * world_size())
        a = z.new_zeros(len(z), 1)
        for _ in range(self.iterations):
            # A mean over processes instead of a sum moves every c alike, which a takes up.
            c = log_mean_exp_over_processes((z - a).logsumexp(dim=0))
            a = (z - c).logsumexp(dim=1, keepdim=True)
        return torch.softmax(z - c, dim=1).reshape(logits.shape)

    def _warn_of_few(self, n_rows: int) -> None:
        if n_rows < self.out_dim and not self._warned:
            self._warned = True
            if rank() == 0:
                warnings.warn(
                    f"Sinkhorn balances {n_rows} rows of a batch over {self.out_dim} components: each gets less than "
                    "one, and targets are spread over several; larger batches or fewer components (head.out_dim) avoid "
                    "it",
                    stacklevel=3,
                )

    def batch_center(self, chunks: Iterable[Tensor], temperature: float) -> None:
        """Nothing: there is no centre. It is here, as `move` is, to be called like the ways of centring."""

    def move(self, batch_center: None) -> None:
        """Keep nothing."""

    def update(self, logits: Tensor, temperature: float) -> None:
        """Check the arguments as `probabilities` does; there is nothing to keep."""
        self._check(logits, temperature)

    def _check(self, logits: Tensor, temperature: float) -> None:
        if logits.shape[-1:] != (self.out_dim,) or logits.numel() == 0:
            raise ValueError(
                f"logits must have shape (..., {self.out_dim}) and at least one row, got {tuple(logits.shape)}: "
                "build it with the head's out_dim"
            )
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a positive, finite number, got {temperature}")

    def extra_repr(self) -> str:
        """Settings, for ``print(module)``."""
        return f"out_dim={self.out_dim}, iterations={self.iterations}"
