"""From vectors of any length to directions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def directions(x: Tensor) -> Tensor:
    """Divide by the length, x / |x|, along the last axis; zero stays zero.

    ``torch.nn.functional.normalize`` leaves vectors shorter than 1e-12 short, and squares above 1e38 or below 1e-45
    leave the range of float32. Vectors whose largest entry is far from one are divided by it first; to the others
    nothing is done but what ``normalize`` does.

    Parameters
    ----------
    x : Tensor, (..., dim)
        float32 or float64; differentiable.

    Returns
    -------
    Tensor, (..., dim)
    """
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    ordinary = (largest > 1e-6) & (largest < 1e6)
    return F.normalize(x / torch.where(ordinary | (largest == 0), 1.0, largest), dim=-1)
