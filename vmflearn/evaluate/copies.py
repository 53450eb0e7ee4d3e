"""Copy detection: which original an altered image was made of, as DINO is judged on Copydays (Douze et al., 2009).

The descriptor of an image is its class token beside the generalised mean of its patches' tokens x_i,

    (x_class, GeM),    GeM = (1/n  sum_i max(x_i, 1e-6)^4)^(1/4)    in every dimension,

whitened on unrelated images if there are such. Originals and distractors are ranked by cosine similarity; an original
that is not among the first 20 counts as not found (see `vmflearn.evaluate.retrieval` for average precision).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from vmflearn.backbones.creation import evaluation_mode
from vmflearn.backbones.tokens import check_tokens, token_features
from vmflearn.evaluate.retrieval import average_precision, rank_images

EXPONENT, SMALLEST = 4, 1e-6
FOUND = 20
"""How many of a ranking count."""
EIGENVALUE_FLOOR = 1e-5
"""Of the greatest eigenvalue; smaller ones, which would be blown up, count as that."""


def copy_descriptors(backbone: nn.Module, images: Tensor) -> Tensor:
    """Class tokens beside the generalised mean of the patches, (1/n sum_i max(x_i, 1e-6)^4)^(1/4).

    Parameters
    ----------
    backbone
        A Vision Transformer of `create_backbone`, on the images' device.
    images
        (batch, 3, height, width), normalised.

    Returns
    -------
    Tensor
        (batch, 2 dim) float32.

    Raises
    ------
    ValueError
        If the backbone is no Vision Transformer with a class token.
    """
    check_tokens(backbone)
    with evaluation_mode(backbone):
        tokens = token_features(backbone, images).float()
    prefix: int = backbone.num_prefix_tokens  # type: ignore[assignment]
    patches = tokens[:, prefix:].clamp(min=SMALLEST)
    return torch.cat([tokens[:, 0], patches.pow(EXPONENT).mean(dim=1).pow(1 / EXPONENT)], dim=1)


class Whitening:
    """The published whitening: features less their mean, times the inverse root of their second moments X^T X / n.

    The second moments are those of features from which the mean was *not* taken, as in the published code.

    Parameters
    ----------
    features : Tensor, (n, d)
        Of images that are neither queries nor searched.

    Raises
    ------
    ValueError
        If there are none, or they are not finite.
    """

    def __init__(self, features: Tensor):
        if features.ndim != 2 or features.numel() == 0 or not features.isfinite().all():
            raise ValueError(f"whitening needs finite features (n, d), got shape {tuple(features.shape)}")
        x = features.double()
        self.mean = x.mean(dim=0)
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        self.matrix = vectors * values.clamp(min=EIGENVALUE_FLOOR * float(values[-1])).rsqrt()  # (d, d)

    def __call__(self, features: Tensor) -> Tensor:
        """Whiten features (m, d); their dtype stays."""
        return ((features.double() - self.mean) @ self.matrix).to(features.dtype)


def copy_scores(query_features: Tensor, features: Tensor, positives: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Average precision of each altered image.

    Parameters
    ----------
    query_features
        (queries, d), of altered images.
    features
        (n, d), of the originals and of distractors after them.
    positives
        For each query the numbers of its originals, at least one.

    Returns
    -------
    ndarray
        (queries,) float64.

    Raises
    ------
    ValueError
        If a query has no original, or the shapes do not match.
    """
    if len(positives) != len(query_features):
        raise ValueError(f"{len(query_features)} queries need as many lists of originals, got {len(positives)}")
    rankings = rank_images(query_features, features)[:, :FOUND]
    scores = np.empty(len(rankings))
    for query, (ranking, wanted) in enumerate(zip(rankings, positives, strict=True)):
        numbers = np.asarray(wanted, dtype=np.int64)
        if numbers.size == 0:
            raise ValueError(f"query {query} has no original")
        scores[query] = average_precision(np.flatnonzero(np.isin(ranking, numbers)), numbers.size)
    return scores
