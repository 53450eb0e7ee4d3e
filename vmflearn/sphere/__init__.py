"""The von Mises-Fisher distribution on the unit sphere: its normaliser, the distribution, and mixtures of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmflearn.sphere.bessel import concentration_from_length, log_iv, log_normalizer, mean_resultant_length
from vmflearn.sphere.distribution import VonMisesFisher
from vmflearn.sphere.divergence import bregman_divergence as _registers_kl_divergences  # noqa: F401
from vmflearn.sphere.hyperspherical_uniform import HypersphericalUniform

if TYPE_CHECKING:
    from vmflearn.sphere.mixture import VonMisesFisherMixture

__all__ = [
    "HypersphericalUniform",
    "VonMisesFisher",
    "VonMisesFisherMixture",
    "concentration_from_length",
    "log_iv",
    "log_normalizer",
    "mean_resultant_length",
]


def __getattr__(name: str) -> Any:
    """Import the mixture when it is first asked for, because it brings scikit-learn with it."""
    if name == "VonMisesFisherMixture":
        from vmflearn.sphere.mixture import VonMisesFisherMixture

        return VonMisesFisherMixture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
