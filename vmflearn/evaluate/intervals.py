"""How far an accuracy could have come out otherwise with other test images of the same kind: the bootstrap.

Of n test images, n are drawn with replacement, and the mean is taken anew. If each image is right or wrong, the number
of right ones so drawn is binomial, with n draws and the share found as probability: its quantiles are the bootstrap's
with infinitely many repetitions, and no random number is needed.
"""

import numpy as np
from numpy.typing import ArrayLike

REPETITIONS = 2000


def bootstrap_interval(values: ArrayLike, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of a mean.

    Parameters
    ----------
    values : (n,)
        Of each test item: right or wrong (bool), or a score (average precision, overlap, ...), which is resampled.
    level : float
        In (0, 1).
    seed : int
        For scores alone.

    Returns
    -------
    (float, float)
        Lower and upper end.

    Raises
    ------
    ValueError
        If there are no values, they are not one-dimensional or not finite, or `level` is not in (0, 1).
    """
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values must be (n,) with n at least 1, got {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    n = len(values)
    if values.dtype == bool:
        from scipy.stats import binom

        low, high = binom.ppf(tails, n, values.mean()) / n
        return float(low), float(high)
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(n, size=n)].mean() for _ in range(REPETITIONS)]
    low, high = np.quantile(means, tails)
    return float(low), float(high)
