"""What a trained mixture made of its components: section 5.2, Table 4 and Figs. 2, 6 and 7 of the paper.

An image with bottleneck vector y belongs to the component with the greatest logit,

    k(x) = argmax_k  <w_k, y>/tau + log C_p(kappa_k),      kappa_k = |w_k|/tau,

(without the normaliser in DINO), and has its precision kappa. Which prototypes are copies of another is told by
`vmflearn.monitor.prototype_use`, as while training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from vmflearn.backbones.creation import evaluation_mode
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.neighbours import Array
from vmflearn.monitor.prototype_use import UniquePrototypes, unique_prototypes, void_prototypes
from vmflearn.ssl.heads import DINOHead

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Cosines above which prototypes are duplicates; Table 4 has 0.9."""
EDGES = tuple(range(0, 101, 10))
"""Ends of the percentile ranges."""


@dataclass(frozen=True)
class Assignment:
    """Which component each image belongs to.

    Attributes
    ----------
    component : Tensor, (n,) int64
        That of the greatest logit; of equal ones the first.
    precision : Tensor, (n,)
        kappa of that component.
    mean : Tensor, (dim,)
        Mean of y over the images.
    """

    component: Tensor
    precision: Tensor
    mean: Tensor


@torch.no_grad()
def assign(head: DINOHead, features: Array, temperature: float, *, chunk_size: int = 512) -> Assignment:
    """Assign images to components by their greatest logit.

    Parameters
    ----------
    head : DINOHead
        Taken in evaluation mode, and left as it was found.
    features : (n, in_dim) array or Tensor
        Output of the backbone, of any length; may be memory-mapped.
    temperature : float
        tau; without the normaliser it decides on nothing but the unit of the precisions.
    chunk_size : int
        Images at a time: memory is chunk_size x K.

    Returns
    -------
    Assignment

    Raises
    ------
    ValueError
        If there are no features, or as `DINOHead.bottleneck` and `Prototypes.forward`.
    """
    if len(features) == 0:
        raise ValueError("features must be of one image at least")
    prototypes = head.prototypes
    device = prototypes.weight_v.device
    components, total = [], torch.zeros(prototypes.bottleneck_dim, dtype=torch.float64, device=device)
    with evaluation_mode(head), tqdm(total=len(features), desc="assigning", unit=" images", disable=None) as bar:
        for start in range(0, len(features), chunk_size):
            chunk = features[start : start + chunk_size]
            x = chunk if isinstance(chunk, Tensor) else torch.from_numpy(np.array(chunk))
            y = head.bottleneck(x.to(device))
            components.append(prototypes(y, temperature).argmax(dim=1))
            total += y.double().sum(dim=0)
            bar.update(len(x))
    component = torch.cat(components)
    return Assignment(component, prototypes.concentrations(temperature)[component], total / len(features))


def utilization(directions: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> dict[float, UniquePrototypes]:
    """Unique prototypes and duplicates by the threshold: Table 4 (0.9), Figs. 6 and 7.

    Parameters
    ----------
    directions : Tensor, (K, dim)
        `Prototypes.directions` of any head.
    thresholds : sequence of float
        Cosines in (-1, 1].

    Raises
    ------
    ValueError
        As `unique_prototypes`.
    """
    return {threshold: unique_prototypes(directions, threshold) for threshold in thresholds}


def largest_set(unique: UniquePrototypes) -> Tensor:
    """Which prototypes are in the largest set of duplicates, (K,) bool."""
    return unique.leader == torch.bincount(unique.leader).argmax()


@dataclass(frozen=True)
class DuplicateSet:
    """The largest set of duplicates, and how it lies to the data.

    Attributes
    ----------
    size : int
    images : int
        Images that belong to one of its components; none in the paper's void set.
    cosine : float
        Of the mean of its directions and the mean of y; -1 in the paper's void set.
    void : int
        Prototypes, in the set or not, that point away from the mean of y and have no image.
    """

    size: int
    images: int
    cosine: float
    void: int


def describe_largest(directions: Tensor, unique: UniquePrototypes, assignment: Assignment) -> DuplicateSet:
    """How the largest set of duplicates lies to the data: the void prototype set of section 5.2, if there is one.

    Parameters
    ----------
    directions : Tensor, (K, dim)
    unique : UniquePrototypes
        Of these directions.
    assignment : Assignment
        Of the training images.

    Raises
    ------
    ValueError
        As `void_prototypes`.
    """
    members = largest_set(unique)
    images = torch.bincount(assignment.component, minlength=len(directions))
    own = directions[members].double().mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(own, assignment.mean.to(own), dim=0)
    void = void_prototypes(directions, assignment.mean.to(directions), chosen=images > 0)
    return DuplicateSet(int(members.sum()), int(images[members].sum()), float(cosine), int(void.sum()))


@dataclass(frozen=True)
class PrecisionRange:
    """Accuracy of the images whose precision lies in one percentile range.

    Attributes
    ----------
    low, high : float
        The percentiles.
    images : int
    precisions : (float, float)
        Least and greatest precision in it.
    top1 : float
        Share of right answers.
    interval : (float, float)
        Of `top1`, by the bootstrap.
    """

    low: float
    high: float
    images: int
    precisions: tuple[float, float]
    top1: float
    interval: tuple[float, float]


def precision_percentiles(
    precision: ArrayLike, right: ArrayLike, edges: Sequence[float] = EDGES
) -> list[PrecisionRange]:
    """Accuracy by the precision of the component that an image belongs to (Fig. 2).

    All images of a component have one precision and stay together: a range holds what is above its lower percentile
    and not above its upper one, and one that holds nothing is left out. With equal magnitudes there is one range.

    Parameters
    ----------
    precision : (n,)
        As in `Assignment`.
    right : (n,) bool
        Whether an image was classified rightly.
    edges : sequence of float
        Rising percentiles from 0 to 100.

    Raises
    ------
    ValueError
        If shapes are not as stated or not equal, there are no images, or the edges do not rise from 0 to 100.
    """
    values, hits = np.asarray(precision, dtype=np.float64), np.asarray(right, dtype=bool)
    if values.ndim != 1 or values.shape != hits.shape or len(values) == 0:
        raise ValueError(f"precision and right must be (n,) with n at least 1, got {values.shape} and {hits.shape}")
    bounds = np.asarray(edges, dtype=np.float64)
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != 100 or not (np.diff(bounds) > 0).all():
        raise ValueError(f"edges must rise from 0 to 100, got {list(edges)}")
    place = _ranges(values, bounds)
    found = []
    for i in np.unique(place):
        inside = place == i
        found.append(
            PrecisionRange(
                low=float(bounds[i]),
                high=float(bounds[i + 1]),
                images=int(inside.sum()),
                precisions=(float(values[inside].min()), float(values[inside].max())),
                top1=float(hits[inside].mean()),
                interval=bootstrap_interval(hits[inside]),
            )
        )
    return found


def _ranges(values: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The range that each value lies in, from 0. A percentile is one of the values, so that rounding moves none."""
    inner = np.percentile(values, bounds[1:-1], method="lower")
    return np.searchsorted(inner, values, side="left")
