"""Whether a run goes on with the images that it was started with: their number, names and classes, not where they lie.

An epoch's order is a permutation of the images' numbers, so that the same images in another order make another run. No
image is read for it: one that has been replaced under its name is not noticed.
"""

from collections.abc import Mapping

from torch import Tensor

from vmflearn.train.input.loader import ArrayLoader, SourceLoader
from vmflearn.weights.digest import digest


def describe(loader: ArrayLoader | SourceLoader, labels: Tensor | None) -> dict[str, str]:
    """Digests of a training set.

    Parameters
    ----------
    loader : ArrayLoader or SourceLoader
    labels : Tensor or None
        Classes of the images of an array, which has no names either: there the pixels are compared.

    Returns
    -------
    dict of str
        ``names``, in their order, and ``classes``: those of the images, with their names.
    """
    if isinstance(loader, ArrayLoader):
        return {"names": digest(loader.images), "classes": digest(labels)}
    source = loader.source
    return {"names": source.names_digest(), "classes": digest([list(source.class_names), source.labels])}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What of the description has changed, in words; what an older version did not note counts as unchanged."""
    words = {"names": "their names or their order", "classes": "their classes"}
    return [text for name, text in words.items() if name in before and before[name] != now[name]]
