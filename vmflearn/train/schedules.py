"""What changes along a run: learning rate, weight decay, EMA momentum and teacher temperature, as DINO schedules them.

Each is a pure function of the step (or epoch), so a resumed run needs no schedule state.
"""

import math


def cosine(step: int, total: int, start: float, end: float, warmup: int = 0) -> float:
    """Linear warm-up from 0 to ``start``, then half a cosine to ``end``.

    In the warm-up ``start * step / (warmup - 1)``, which reaches ``start`` on its last step; then, with
    ``i = step - warmup`` and ``n = total - warmup``, ``end + (start - end) (1 + cos(pi i / n)) / 2``, which is
    ``start`` again at i = 0 and stops one step short of ``end``. These are DINO's schedules, off-by-ones included.

    Parameters
    ----------
    step, total, warmup : int
        Current step (from 0), steps of the whole run, steps of warm-up.
    start, end : float
        Peak and final value.
    """
    if step < warmup:
        return start * step / max(1, warmup - 1)
    progress = (step - warmup) / max(1, total - warmup)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def teacher_temperature(epoch: int, start: float, end: float, warmup: int) -> float:
    """Linear from ``start`` to ``end`` over ``warmup`` epochs, both reached, then constant; one value an epoch."""
    if epoch >= warmup:
        return end
    return start + (end - start) * epoch / max(1, warmup - 1)
