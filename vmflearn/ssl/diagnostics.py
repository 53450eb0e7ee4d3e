"""Numbers that tell a healthy run from a collapsing one while it trains."""

import torch
from torch import Tensor

from vmflearn.distributed import mean_over_processes


@torch.no_grad()
def teacher_statistics(probabilities: Tensor) -> dict[str, float]:
    """How decided the teacher is, and how much its output depends on its input.

    With p the teacher's distribution over K components for one image, and a bar the mean over images:

    - ``teacher_entropy`` is the mean of H(p): how undecided the teacher is on one image, ln K at worst;
    - ``teacher_information`` is H(mean p) - mean H(p), the mutual information of image and component in nats. Near 0
      the output no longer depends on the input, which is what collapse means, whichever form it takes.

    Parameters
    ----------
    probabilities : Tensor of shape (..., out_dim)
        Targets of this process; the averages are over all processes.
    """
    p = probabilities.flatten(0, -2).float()
    entropy = mean_over_processes(torch.special.entr(p).sum(dim=-1).mean())
    marginal = torch.special.entr(mean_over_processes(p.mean(dim=0))).sum()
    return {"teacher_entropy": float(entropy), "teacher_information": float(marginal - entropy)}
