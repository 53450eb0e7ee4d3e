"""Other implementations of the same things, each behind one small function; None where a package is not installed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mpmath
import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ive

Values = Callable[[], object]


def scipy_log_bessel(kappa: np.ndarray, dim: int) -> Values:
    """``scipy.special.ive`` alone: the logarithm and all else of log C come on top of it."""
    order = kappa.dtype.type(dim / 2 - 1)
    return lambda: ive(order, kappa)


def scipy_ratio(kappa: np.ndarray, dim: int) -> Values:
    """A as the quotient of two of ``scipy.special.ive``."""
    order = kappa.dtype.type(dim / 2 - 1)
    return lambda: ive(order + 1, kappa) / ive(order, kappa)


def scipy_inverse(lengths: np.ndarray, dim: int) -> Values:
    """The inverse of A, value by value, as ``scipy.stats.vonmises_fisher.fit`` solves it.

    Its bracket starts at 1e-8, where ``ive`` of dim 256 is 0 / 0; this one starts where it is not.
    """
    order = dim / 2 - 1

    def solve(length: float) -> float:
        return brentq(lambda k: ive(order + 1, k) / ive(order, k) - length, dim / 25, 1e9)

    return lambda: [solve(length) for length in lengths]


def mpmath_log_bessel(kappas: np.ndarray, dim: int) -> Values:
    """Log I, value by value, in mpmath's 15 digits."""
    return lambda: [mpmath.log(mpmath.besseli(dim / 2 - 1, float(k))) for k in kappas]


class TensorFlowProbability:
    """What is compared of TensorFlow Probability, on jax, compiled."""

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        import tensorflow_probability.substrates.jax as tfp

        self.jax, self.tfp = jax, tfp

    def _compiled(self, function: Callable[[Any], Any], values: np.ndarray) -> Values:
        compiled, argument = self.jax.jit(function), self.jax.numpy.asarray(values)
        return lambda: self.jax.block_until_ready(compiled(argument))

    def _log_normalizer(self, kappa: Any, dim: int) -> Any:
        """Log C, with its logarithm of the scaled Bessel function."""
        jnp = self.jax.numpy
        order = jnp.asarray(dim / 2 - 1, kappa.dtype)
        log_bessel = self.tfp.math.log_bessel_ive(order, kappa) + kappa
        return order * jnp.log(kappa) - dim / 2 * np.log(2 * np.pi) - log_bessel

    def log_normalizer(self, kappa: np.ndarray, dim: int) -> Values:
        """Values of log C."""
        return self._compiled(lambda k: self._log_normalizer(k, dim), kappa)

    def log_normalizer_gradient(self, kappa: np.ndarray, dim: int) -> Values:
        """Values of log C and their derivatives."""
        return self._compiled(self.jax.value_and_grad(lambda k: self._log_normalizer(k, dim).sum()), kappa)

    def ratio(self, kappa: np.ndarray, dim: int) -> Values:
        """Values of A."""
        order = kappa.dtype.type(dim / 2)
        return self._compiled(lambda k: self.tfp.math.bessel_iv_ratio(order, k), kappa)

    def samples(self, mean: np.ndarray, kappa: float, n: int) -> Values:
        """Draw n samples."""
        distribution = self.tfp.distributions.VonMisesFisher(mean, mean.dtype.type(kappa))
        draw = self.jax.jit(lambda seed: distribution.sample(n, seed=seed))
        seeds = iter(self.jax.random.split(self.jax.random.PRNGKey(0), 1000))
        return lambda: self.jax.block_until_ready(draw(next(seeds)))


def tensorflow_probability() -> TensorFlowProbability | None:
    """TensorFlow Probability, if it is installed."""
    try:
        return TensorFlowProbability()
    except ImportError:
        return None


# Modules that spherecluster 0.1.7 imports names from and that scikit-learn has removed since. Its E- and M-step use
# none of the names (its initialisation does): empty modules let it load.
REMOVED = ("sklearn.cluster.k_means_", "sklearn.cluster._k_means", "sklearn.externals.joblib")


@contextmanager
def _empty_modules(names: tuple[str, ...]) -> Iterator[None]:
    """Provide modules in which every name is None, for as long as the context lasts."""
    for name in names:
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def spherecluster_step(rows: np.ndarray, means: np.ndarray, kappa: float) -> Values | None:
    """One E-step and one M-step of spherecluster's soft mixture."""
    try:
        with _empty_modules(REMOVED):
            from spherecluster import von_mises_fisher_mixture as theirs
    except ImportError:
        return None
    weights, kappas = np.full(len(means), 1 / len(means)), np.full(len(means), kappa)

    def step() -> object:
        posterior = theirs._expectation(rows, means, weights, kappas)
        return theirs._maximization(rows, posterior)

    return step


def chemomae_log_normalizer(kappa: torch.Tensor, dim: int) -> Values | None:
    """Log C of chemomae, which calls ``scipy.special.ive`` and a series where that underflows."""
    try:
        from chemomae.clustering.vmf_mixture import vmf_logC
    except ImportError:
        return None
    return lambda: vmf_logC(dim, kappa)


def chemomae_fit(rows: torch.Tensor, n_components: int, chunk_size: int) -> Callable[[int], int] | None:
    """EM of chemomae's mixture in the dtype of the rows: takes the largest number of steps, returns those it made."""
    try:
        from chemomae.clustering import VMFMixture
    except ImportError:
        return None

    def fit(max_iter: int) -> int:
        mixture = VMFMixture(n_components, device="cpu", dtype=rows.dtype, tol=0.0, max_iter=max_iter)
        return int(mixture.fit(rows, chunk=chunk_size).n_iter_)

    return fit


def pyrecest_inverse(lengths: np.ndarray, dim: int) -> Values | None:
    """The inverse of A of pyrecest, value by value; its samples are scipy's."""
    try:
        from pyrecest.distributions.hypersphere_subset import von_mises_fisher_distribution as theirs
    except ImportError:
        return None
    solve = theirs.VonMisesFisherDistribution.a_d_inverse
    return lambda: [solve(dim, float(length)) for length in lengths]


def power_spherical(loc: torch.Tensor, scale: torch.Tensor) -> torch.distributions.Distribution | None:
    """The power-spherical distribution of its authors, people's other choice for samples with gradients."""
    try:
        from power_spherical import PowerSpherical
    except ImportError:
        return None
    distribution: torch.distributions.Distribution = PowerSpherical(loc, scale)
    return distribution
