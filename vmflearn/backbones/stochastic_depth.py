"""Stochastic depth that saves what it drops: a branch is computed for the samples that keep it, and for no others.

A residual block adds branch(x) to x. Stochastic depth (Huang et al., 2016) leaves the branch out for a sample with
probability p and divides it by 1 - p where it stays, so that the expectation is that of the whole block. timm draws for
each sample, computes all branches and multiplies the dropped ones by zero. Here, as in DINOv2 (Oquab et al., 2023), a
random subset of round((1 - p) n) of the n samples goes through the branch, and its output, times n over the subset's
size, is added to their rows: the expectation is the same, and the share p of the work is saved.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def add_to_subset(x: Tensor, branch: Callable[[Tensor], Tensor], rate: float) -> Tensor:
    """Add a residual branch to a random subset of the samples.

    Parameters
    ----------
    x : Tensor, (n, ...)
    branch : callable
        Of any number of samples, to the same shape.
    rate : float
        Share of the samples that go without, in [0, 1). It is rounded to whole samples, and one always stays: of 4
        samples a rate of 0.1 drops none.

    Returns
    -------
    Tensor, (n, ...)
        In expectation x + branch(x), where ``branch`` treats its samples independently.
    """
    n = len(x)
    kept = max(1, round((1 - rate) * n))
    if kept == n:
        return x + branch(x)
    chosen = torch.randperm(n, device=x.device)[:kept]
    return x.index_add(0, chosen, branch(x[chosen]).to(x.dtype), alpha=n / kept)


class SubsetBlock(Block):
    """timm's block with stochastic depth over subsets; in evaluation, and at rate 0, it is timm's block."""

    @classmethod
    def adopt(cls, vit: nn.Module) -> None:
        """Change the blocks of a Vision Transformer in place; parameters and their names stay.

        Raises
        ------
        ValueError
            If it is no Vision Transformer of timm with plain blocks.
        """
        blocks = list(vit.blocks) if isinstance(vit, VisionTransformer) else []
        if not blocks or any(type(block) is not Block for block in blocks):
            raise ValueError(
                "stochastic depth over subsets is for Vision Transformers of timm with plain blocks; this "
                f"{type(vit).__name__} is not such a one: use 'sample'"
            )
        for block in blocks:
            block.__class__ = cls

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **more: Any) -> Tensor:
        """Tokens (n, tokens, dim) to the same shape; ``more`` is what else timm's attention takes, by its version."""
        if not self.training or (attn_mask is not None and attn_mask.ndim > 2):  # a mask for each sample
            return super().forward(x, attn_mask, **more)

        def attention(part: Tensor) -> Tensor:
            return self.ls1(self.attn(self.norm1(part), attn_mask=attn_mask, **more))

        x = add_to_subset(x, attention, _rate(self.drop_path1))
        return add_to_subset(x, lambda part: self.ls2(self.mlp(self.norm2(part))), _rate(self.drop_path2))


def _rate(layer: nn.Module) -> float:
    return layer.drop_prob if isinstance(layer, DropPath) else 0.0
