"""Centring of the teacher, which keeps the components in use (Section 3.4).

It happens in logit space (Eqs. 4 and 8) or in probability space (Eqs. 7 and 9). Both hold a running centre in a buffer.
A training step first asks for `probabilities`, the targets, and then calls `update` with the same logits, so that the
centre of a step comes from the steps before it. `update` is two things that a step can also do apart: `batch_center`
says where these logits would have the centre, and `move` goes there.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vmflearn.distributed import log_mean_exp_over_processes, mean_over_processes

# log of the smallest normal float32 number, -87.3
LOG_SMALLEST_PROPORTION = math.log(torch.finfo(torch.float32).tiny)


class _Centering(nn.Module):
    """The running centre, zero at the start, and the checks that both ways of centring share."""

    center: Tensor

    def __init__(self, out_dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        if out_dim < 2:
            raise ValueError(f"out_dim, the number of components, must be at least 2, got {out_dim}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {momentum}")
        self.out_dim = out_dim
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(out_dim))

    def _checked(self, logits: Tensor, temperature: float) -> Tensor:
        """The logits in float32 or better, as rows that match the centre."""
        if logits.shape[-1:] != (self.out_dim,) or logits.numel() == 0:
            raise ValueError(
                f"logits must have shape (..., {self.out_dim}) and at least one row, got {tuple(logits.shape)}: "
                "build the centring with the head's out_dim"
            )
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a positive, finite number, got {temperature}")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @abstractmethod
    def batch_center(self, chunks: Iterable[Tensor], temperature: float) -> Tensor:
        """Where a batch would have the centre, over all processes.

        Parameters
        ----------
        chunks : iterable of Tensor, each (..., out_dim)
            Complete logits of the batch, in one piece or in several, of which only one need exist at a time. Processes
            must hold equally many rows.
        temperature : float
            The teacher's.

        Returns
        -------
        Tensor, (out_dim,)
        """

    @torch.no_grad()
    def move(self, batch_center: Tensor) -> None:
        """Move the centre: c <- m c + (1 - m) batch_center."""
        self.center.lerp_(batch_center.to(self.center.dtype), 1 - self.momentum)

    def update(self, logits: Tensor, temperature: float) -> None:
        """Move the centre towards that of a batch: ``move(batch_center([logits], temperature))``.

        Parameters and errors are those of `probabilities`. Processes must hold equally many rows.
        """
        self.move(self.batch_center([logits], temperature))

    def extra_repr(self) -> str:
        """Settings, for ``print(module)``."""
        return f"out_dim={self.out_dim}, momentum={self.momentum}"


class LogitCentering(_Centering):
    """DINO's centring, in logit space (Eqs. 4 and 8).

        P_t = softmax(z - c/tau),      c <- m c + (1 - m) mean_b (tau z_b)

    z are complete logits, temperature included, so that tau z = <w, y> over a head with normalisation ``"none"`` or
    ``"l2"``: there the centre does not depend on a scheduled temperature, and this is DINO exactly. Over a ``"vmf"``
    head the centre also carries tau log C_p(abs(w)/tau), up to the same constant for all components. That term depends
    on tau, and subtracting its running mean takes most of the normaliser out of the targets again;
    `ProbabilityCentering` is made for that head.

    Parameters
    ----------
    out_dim : int
        Number of components.
    momentum : float
        m, between 0 and 1.

    Attributes
    ----------
    center : Tensor, (out_dim,)
        c, a buffer: in units of the logits times the temperature.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """The teacher's targets softmax(z - c/tau).

        Parameters
        ----------
        logits : Tensor, (..., out_dim)
            Complete logits z at that temperature.
        temperature : float
            The teacher's temperature tau.

        Returns
        -------
        Tensor, (..., out_dim)
            Rows that sum to one, float32 or float64.

        Raises
        ------
        ValueError
            If the shape does not match the centre or the temperature is not a positive, finite number.
        """
        logits = self._checked(logits, temperature)
        return torch.softmax(logits - self.center / temperature, dim=-1)

    @torch.no_grad()
    def batch_center(self, chunks: Iterable[Tensor], temperature: float) -> Tensor:
        """The mean of tau z over all rows and all processes."""
        total, count = None, 0
        for logits in chunks:
            rows = self._checked(logits, temperature).reshape(-1, self.out_dim)
            total, count = rows.sum(dim=0) if total is None else total + rows.sum(dim=0), count + len(rows)
        if total is None:
            raise ValueError("a batch centre needs at least one chunk of logits, got none")
        return mean_over_processes(total / count * temperature)


class ProbabilityCentering(_Centering):
    """The centring of DINO-vMF, in probability space (Eqs. 7 and 9).

        P_t = softmax(z - c),      c <- m c + (1 - m) log mean_b softmax(z_b)

    z are complete logits, temperature and log C_p included. exp(c) estimates the mixture's proportions, and the minus
    sign turns "rich gets richer" into "rich gets poorer" (Appendix A.4): were c the batch's own, every component would
    receive the same share of the batch before the rows are normalised.

    The mean is taken in the log domain, where a responsibility of exp(-500) is still -500, and is bounded below by the
    log of the smallest normal float32 number, -87.3: a proportion that Eq. 9 read literally could not hold in float32.
    Above the bound this is Eq. 9, of responsibilities as Appendix A.4 speaks of them; as printed, log C_p is not in
    them (for that reading, give ``update`` logits without it). Without the bound the centre of a component that no
    image reaches follows its logits down, by thousands where concentrations are large and to minus infinity (and then
    NaN) if they are. Nor does it return at once when an image does come near: from -1000 it takes log(1000)/log(1/m)
    steps, 65 of them, and all the while z - c, hundreds above the rest, gives that component every image.

    Parameters
    ----------
    out_dim : int
        Number of components.
    momentum : float
        m, between 0 and 1.

    Attributes
    ----------
    center : Tensor, (out_dim,)
        c, a buffer: a log-proportion (up to a constant while the zeros of the start still weigh in it).

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """The teacher's targets softmax(z - c).

        Parameters
        ----------
        logits : Tensor, (..., out_dim)
            Complete logits z.
        temperature : float
            Of no effect, since z contains it; taken so that both ways of centring are called alike.

        Returns
        -------
        Tensor, (..., out_dim)
            Rows that sum to one, float32 or float64.

        Raises
        ------
        ValueError
            If the shape does not match the centre or the temperature is not a positive, finite number.
        """
        return torch.softmax(self._checked(logits, temperature) - self.center, dim=-1)

    @torch.no_grad()
    def batch_center(self, chunks: Iterable[Tensor], temperature: float) -> Tensor:
        """The log of the mean responsibilities, without the centre, over all rows and all processes."""
        total, count = None, 0
        for logits in chunks:
            rows = self._checked(logits, temperature).reshape(-1, self.out_dim)
            log_sum = torch.log_softmax(rows, dim=-1).logsumexp(dim=0)
            total, count = log_sum if total is None else torch.logaddexp(total, log_sum), count + len(rows)
        if total is None:
            raise ValueError("a batch centre needs at least one chunk of logits, got none")
        # Bounded before processes meet, since two infinities have no difference.
        return log_mean_exp_over_processes((total - math.log(count)).clamp_min(LOG_SMALLEST_PROPORTION))
