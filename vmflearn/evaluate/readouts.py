"""Which numbers of a network are taken as the features of an image: each protocol has its own.

DINO's linear evaluation (ViT-S)   (c_{L-3}, ..., c_L), class tokens of the last four blocks, each after the final norm
its ViT-B                          class token c and mean patch m of the last block, entry by entry: (c_1, m_1, ...)
MSN's logistic regression          the class token of the last block before the final norm
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmflearn.backbones.tokens import block_tokens


@dataclass(frozen=True)
class Readout:
    """A way to take features.

    Attributes
    ----------
    name : str
        What is cached is known by it.
    read : callable
        From a backbone and images (batch, 3, size, size) to (batch, d).
    interpolation : {"bicubic", "bilinear"}
        How images are resized for it.
    """

    name: str
    read: Callable[[nn.Module, Tensor], Tensor]
    interpolation: str = "bicubic"


def _output(backbone: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = backbone(images)
    return features


OUTPUT = Readout("output", _output)
"""What the backbone gives: for a Vision Transformer the class token after the final norm."""


def last_blocks(n: int, *, mean_patches: bool = False) -> Readout:
    """Class tokens of the last blocks of a Vision Transformer, each after the final norm.

    Parameters
    ----------
    n : int
        Number of blocks; DINO takes 4 of ViT-S and 1 of ViT-B.
    mean_patches : bool
        Add the mean of the last block's patch tokens: as DINO does for ViT-B with ``n = 1``, where the two vectors are
        interleaved entry by entry, (c_1, m_1, c_2, m_2, ...), so that its published classifiers fit; behind the class
        tokens for other n, as iBOT and DINOv2 do.

    Raises
    ------
    ValueError
        If `n` is less than 1.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more blocks, got {n}")

    def read(backbone: nn.Module, images: Tensor) -> Tensor:
        tokens, prefix = block_tokens(backbone, images, n)
        found = torch.cat([block[:, 0] for block in tokens], dim=1)
        if not mean_patches:
            return found
        mean = tokens[-1][:, prefix:].mean(dim=1)
        return torch.stack([found, mean], dim=2).flatten(1) if n == 1 else torch.cat([found, mean], dim=1)

    return Readout(f"last {n} blocks" + (" and mean patches" if mean_patches else ""), read)


def _before_norm(backbone: nn.Module, images: Tensor) -> Tensor:
    tokens, _ = block_tokens(backbone, images, 1, norm=False)
    return tokens[-1][:, 0]


BEFORE_NORM = Readout("class token before the final norm", _before_norm, "bilinear")
"""MSN's features for logistic regression, with its bilinear resizing."""
