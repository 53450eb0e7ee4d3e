"""The von Mises-Fisher distribution on the unit sphere: its normaliser, the distribution, and mixtures of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmflearn.sphere.bessel import concentration_from_length, log_iv, log_normalizer, mean_resultant_length
from vmflearn.sphere.distribution import VonMisesFisher
from vmflearn.sphere.divergence import bregman_divergence as _registers_kl_divergences  # noqa: F401
from vmflearn.sphere.hyperspherical_uniform import HypersphericalUniform
from vmflearn.sphere.power_spherical import PowerSpherical
from vmflearn.sphere.product import normalized_product

if TYPE_CHECKING:
    from vmflearn.sphere.choosing import choose_components
    from vmflearn.sphere.mixture import VonMisesFisherMixture

__all__ = [
    "HypersphericalUniform",
    "PowerSpherical",
    "VonMisesFisher",
    "VonMisesFisherMixture",
    "choose_components",
    "concentration_from_length",
    "log_iv",
    "log_normalizer",
    "mean_resultant_length",
    "normalized_product",
]


def __getattr__(name: str) -> Any:
    """Import the mixture and what chooses one when they are first asked for: they bring scikit-learn with them."""
    if name == "VonMisesFisherMixture":
        from vmflearn.sphere.mixture import VonMisesFisherMixture

        return VonMisesFisherMixture
    if name == "choose_components":
        from vmflearn.sphere.choosing import choose_components

        return choose_components
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
