"""Online expectation-maximisation: one step for each batch of a stream (Cappé & Moulines, JRSS B 71(3), 2009).

The M-step needs the rows only through their sufficient statistics, per unit of weight s = (W_k, R_k) / sum_i s_i. The
E-step on batch t gives an estimate of them, and stochastic approximation averages the estimates,

    s_t = (1 - gamma_t) s_{t-1} + gamma_t s(batch t),        parameters_t = M(s_t),

with gamma_1 = 1 and gamma_t = (t + offset)^-decay. The sum of all gamma_t diverges and that of their squares converges
for decay in (1/2, 1], which is what makes the parameters converge. With decay 1 and offset 0 the s_t are plain running
means over batches. SAEM replaces s(batch t) by statistics of simulated assignments; the recursion is the same.
"""

from vmflearn.sphere.em import Statistics


def step_size(step: int, decay: float, offset: float) -> float:
    """gamma_t of step t = 1, 2, ...: one for the first, (t + offset)^-decay for the others."""
    return 1.0 if step == 1 else float((step + offset) ** -decay)


def per_unit_weight(statistics: Statistics, total_weight: float) -> Statistics:
    """Statistics of rows of the given total weight, divided by it."""
    return Statistics(statistics.masses / total_weight, statistics.resultants / total_weight)


def blend(running: Statistics, batch: Statistics, gamma: float) -> Statistics:
    """(1 - gamma) running + gamma batch, both per unit of weight."""
    return Statistics(*((1 - gamma) * old + gamma * new for old, new in zip(running, batch, strict=True)))
