"""The cross-entropy between the teacher's targets and the student's predictions over pairs of crops."""

import torch
from torch import Tensor


def dino_loss(student_logits: Tensor, teacher_probs: Tensor) -> Tensor:
    """Cross-entropy averaged over the pairs of a teacher view and another crop of the student.

    With targets q_u of the two teacher views u = 0, 1 and student logits s_v of the V crops, of which 0 and 1 are the
    teacher's views,

        L = 1/(2V - 2)  sum_u sum_{v != u}  mean_b  -<q_u, log softmax(s_v)>

    The cross-entropy is linear in the target. So the targets that a crop meets are added up first, and one log-softmax
    a crop is enough:

        L = 1/(2V - 2)  sum_v  mean_b  -<Q_v, log softmax(s_v)>,      Q_v = sum_{u != v} q_u

    No term is negative, so that a small loss of large logits keeps its digits; <Q_v, s_v> and the log-sum-exp apart
    would each be as large as the logits, and round to as much.

    Parameters
    ----------
    student_logits : Tensor, (crops, batch, out_dim)
        Complete logits, temperature included; at least two crops.
    teacher_probs : Tensor, (2, batch, out_dim)
        Targets, rows that sum to one. They count as constants: no gradient flows into them.

    Returns
    -------
    Tensor, ()
        float32, under autocast too; float64 if an input is.

    Raises
    ------
    ValueError
        If a shape is not as stated.
    """
    check_crops("student_logits", "out_dim", student_logits)
    check_targets(f"student_logits {tuple(student_logits.shape)}", tuple(student_logits.shape[1:]), teacher_probs)
    dtype = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_probs.dtype), torch.float32)
    n_crops = len(student_logits)
    q_0, q_1 = teacher_probs.detach().to(dtype).unbind()
    both = q_0 + q_1
    targets = [q_1, q_0, *[both] * (n_crops - 2)]
    loss = student_logits.new_zeros((), dtype=dtype)
    for s, q in zip(student_logits.unbind(), targets, strict=True):
        loss = loss - (q * torch.log_softmax(s, dim=-1, dtype=dtype)).sum(dim=-1).mean()
    return loss / (2 * n_crops - 2)


def check_crops(name: str, last: str, crops: Tensor) -> None:
    """Refuse what is not (crops, batch, last) with at least two crops; the message calls the tensor by its name."""
    shape = tuple(crops.shape)
    if len(shape) != 3 or crops.numel() == 0:
        raise ValueError(
            f"{name} must have shape (crops, batch, {last}), none of them zero, got {shape}: "
            "stack the crops in the first dimension"
        )
    if shape[0] < 2:
        raise ValueError(
            f"{name} must hold at least 2 crops, got {shape[0]}: a teacher view is compared with other crops "
            "only, so pass both global views and then the local ones"
        )


def check_targets(beside: str, shape: tuple[int, ...], teacher_probs: Tensor) -> None:
    """Refuse targets that are not (2, *shape), (batch, out_dim)."""
    if tuple(teacher_probs.shape) != (2, *shape):
        raise ValueError(
            f"teacher_probs must have shape {(2, *shape)} beside {beside}, got {tuple(teacher_probs.shape)}: "
            "pass the targets of the two global views, of the same images and components"
        )
