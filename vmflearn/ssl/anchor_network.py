"""Student and teacher of MSN: class tokens of views that have lost some of their patches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vmflearn.backbones.tokens import check_tokens, token_features
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.network import MultiCropNetwork


class AnchorNetwork(MultiCropNetwork):
    """Backbone and head, one pass for each resolution; patches are dropped from the crops of the first.

    Batch normalisation in the head so takes its statistics over crops of one resolution, as the published code does.

    Raises
    ------
    ValueError
        For a backbone without patch tokens.
    """

    def __init__(self, backbone: nn.Module, head: DINOHead):
        check_tokens(backbone)
        super().__init__(backbone, head)

    def embed(self, crops: Sequence[Tensor], kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features and bottleneck vectors of every crop.

        Parameters
        ----------
        crops : sequence of Tensor, each (batch, 3, height, width)
        kept : Tensor, (1, n) or (batch, n) or (crops of the first resolution x batch, n) int64, optional
            Positions of the patches on which the crops of the first resolution are computed, see `draw_kept`.

        Returns
        -------
        features : Tensor, (crops, batch, features)
        y : Tensor, (crops, batch, bottleneck_dim)
        """
        features, y, start = [], [], 0
        while start < len(crops):
            size = crops[start].shape[-2:]
            end = start + 1
            while end < len(crops) and crops[end].shape[-2:] == size:
                end += 1
            images = torch.cat(list(crops[start:end]))
            if start == 0 and kept is not None:
                found = token_features(self.backbone, images, kept=kept)[:, 0]
            else:
                found = self.backbone(images)
            features.append(found.unflatten(0, (end - start, -1)))
            y.append(self.head.bottleneck(found).unflatten(0, (end - start, -1)))
            start = end
        return torch.cat(features), torch.cat(y)
