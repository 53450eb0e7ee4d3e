"""AdamW as DINO uses it: two groups of parameters, gradients clipped tensor by tensor, prototypes that start frozen."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def parameter_groups(
    model: nn.Module, *, decay_magnitudes: bool = True, undecayed: tuple[str, ...] = ()
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Decayed and undecayed parameters.

    Biases and one-dimensional tensors are not decayed; everything else is: position embeddings and class token, and
    also the prototypes' directions and magnitudes (``weight_v``, ``weight_g``). Decay of a direction's length changes
    nothing that the logits see; decay of a magnitude shrinks its concentration kappa = abs(g)/tau by lr x weight decay
    of itself at every step. That is what DINO does; ``decay_magnitudes=False`` leaves the concentrations to the loss.
    Parameters whose names begin with one of ``undecayed`` are spared too. Frozen parameters are left out.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = (name.endswith("weight_g") and not decay_magnitudes) or name.startswith(undecayed)
            (plain if name.endswith(".bias") or parameter.ndim == 1 or spared else decayed).append(parameter)
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def make_optimizer(
    model: nn.Module, *, decay_magnitudes: bool = True, undecayed: tuple[str, ...] = (), fused: bool = False
) -> torch.optim.AdamW:
    """AdamW with PyTorch's default betas; learning rate and weight decay are set at every step by ``set_schedule``.

    ``fused`` updates a parameter in one kernel, as on CUDA is always done: the same numbers up to rounding, in about
    a third of the time on a processor (benchmarks/results/pretrain.md).
    """
    groups = parameter_groups(model, decay_magnitudes=decay_magnitudes, undecayed=undecayed)
    fused = fused or any(parameter.is_cuda for parameter in model.parameters())
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True if fused else None)


def set_schedule(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set this step's learning rate on all groups and its weight decay on the first."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.param_groups[0]["weight_decay"] = weight_decay


def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale every gradient tensor whose own L2 norm exceeds ``max_norm`` back to it (DINO's clipping; 0: off)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if max_norm > 0 and gradients:
        norms = torch.stack(torch._foreach_norm(gradients))
        torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp(max=1.0).unbind()))


def drop_gradients(module: nn.Module) -> None:
    """Forget a module's gradients, so that AdamW leaves it wholly alone in this step, weight decay included."""
    for parameter in module.parameters():
        parameter.grad = None


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average of the parameters: teacher <- m teacher + (1 - m) student. Buffers are left alone.

    Raises
    ------
    ValueError
        If they are not two networks of one architecture; the teacher is as it was then.
    """
    ours: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    if [p.shape for p in ours] != [p.shape for p in theirs]:
        raise ValueError(f"teacher and student must have the same parameters: {_unlike(teacher, student)}")
    torch._foreach_mul_(ours, momentum)
    torch._foreach_add_(ours, theirs, alpha=1 - momentum)


def _unlike(teacher: nn.Module, student: nn.Module) -> str:
    """The first parameters in which two networks differ, by name."""
    slow, fast = ({n: tuple(p.shape) for n, p in network.named_parameters()} for network in (teacher, student))
    found = [
        f"{name} is {slow.get(name, 'missing')} in the teacher, {fast.get(name, 'missing')} in the student"
        for name in {**slow, **fast}
        if slow.get(name) != fast.get(name)
    ]
    return "; ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
