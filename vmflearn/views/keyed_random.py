"""Random numbers named by a key instead of drawn from a stream.

A view of an image must not depend on which worker made it, on the batch it fell into or on the number of processes.
So its random numbers are a function of (seed, epoch, image, crop) alone: a 64-bit hash turns the key into the state of
the generator SplitMix64 (Steele, Lea and Flood, 2014), and number j of that generator is one more hash,

    u_j = mix(key + j * GOLDEN) / 2^64.

Everything is vectorised over the images; there is no state, and nothing to save in a checkpoint.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: its multiples visit every 64-bit word


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit words: the bijection at the end of SplitMix64.

    Parameters
    ----------
    words
        Array of any shape.

    Returns
    -------
    ndarray
        Array of the same shape. Flipping any one bit of a word flips each bit of the result half of the time.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def keyed_uniforms(*key: ArrayLike, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) that depend on the key alone.

    Parameters
    ----------
    *key
        Integers, or integer arrays that broadcast against each other to a shape (n,). Negative integers are welcome.
        Their order matters: (1, 2) and (2, 1) are different keys.
    count
        How many numbers to make for every key.

    Returns
    -------
    ndarray
        Array (n, count) of float64, with 53 random bits each. Asking for more numbers does not change the first ones.
    """
    parts = [np.atleast_1d(np.asarray(part, dtype=np.int64)).astype(np.uint64) for part in key]
    state = np.zeros(np.broadcast_shapes(*(part.shape for part in parts)), dtype=np.uint64)
    for part in parts:
        state = mix((state ^ part) + GOLDEN)
    steps = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return (mix(state[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
