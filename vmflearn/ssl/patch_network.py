"""Student and teacher of iBOT: class tokens and patch tokens under one head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vmflearn.backbones.tokens import check_tokens, token_features
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.ssl.prototypes import Prototypes


class PatchNetwork(MultiCropNetwork):
    """Backbone and head over crops of which patches are masked.

    The head's MLP serves class and patch tokens alike, in one pass. Patches are scored by the head's own prototypes
    (iBOT's shared head) or by prototypes of their own.

    Parameters
    ----------
    backbone : nn.Module
        A Vision Transformer with a class token.
    head : DINOHead
    own_patch_prototypes : Prototypes, optional
        Of the patches, where they do not share the head's.

    Attributes
    ----------
    mask_token : Parameter, (1, features)
        What the student sees in place of a masked patch; zero at the start. It is the network's and not the backbone's,
        which so remains timm's.

    Raises
    ------
    ValueError
        For a backbone without patch tokens, or prototypes of another dimension than the head's.
    """

    def __init__(self, backbone: nn.Module, head: DINOHead, own_patch_prototypes: Prototypes | None = None):
        check_tokens(backbone)
        super().__init__(backbone, head)
        if own_patch_prototypes is not None and own_patch_prototypes.bottleneck_dim != head.prototypes.bottleneck_dim:
            raise ValueError(
                f"patch prototypes live in {own_patch_prototypes.bottleneck_dim} dimensions and the head's bottleneck "
                f"in {head.prototypes.bottleneck_dim}: they score the same vectors"
            )
        self.own_patch_prototypes = own_patch_prototypes
        self.mask_token = nn.Parameter(torch.zeros(1, head.in_dim))

    @property
    def patch_prototypes(self) -> Prototypes:
        """What scores the patches."""
        return self.prototypes if self.own_patch_prototypes is None else self.own_patch_prototypes

    def embed(self, crops: Sequence[Tensor], masks: Tensor | None = None) -> tuple[Tensor, ...]:
        """Features and bottleneck vectors of all crops, and the bottleneck vectors of the masked patches.

        Parameters
        ----------
        crops : sequence of Tensor, each (batch, 3, height, width)
            The masked views first.
        masks : Tensor, (views, batch, h, w) bool, optional
            Patches of the first crops, all of one size, that are covered by the mask token; without it, as
            `MultiCropNetwork.embed`.

        Returns
        -------
        features : Tensor, (crops, batch, features)
        y : Tensor, (crops, batch, bottleneck_dim)
        patch_y : Tensor, (masked patches, bottleneck_dim)
            In the order of ``masks.nonzero()``.
        """
        if masks is None:
            return super().embed(crops)
        n_views = len(masks)
        covered = masks.flatten(0, 1)
        tokens = token_features(
            self.backbone, torch.cat(list(crops[:n_views])), masks=covered, mask_token=self.mask_token
        )
        features = tokens[:, 0].unflatten(0, (n_views, -1))
        if len(crops) > n_views:
            features = torch.cat([features, self.features(crops[n_views:])])
        # One pass of the head, of which patch tokens take as many rows as are masked.
        patches = self._patches(tokens)[covered.flatten(1)]
        y = self.head.bottleneck(torch.cat([features.flatten(0, 1), patches.to(features.dtype)]))
        n_class = features.shape[0] * features.shape[1]
        return features, y[:n_class].reshape(*features.shape[:2], -1), y[n_class:]

    def embed_all(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features, bottleneck vectors, and those of every patch: what the teacher gives.

        Parameters
        ----------
        views : sequence of Tensor, each (batch, 3, height, width)
            All of one size.

        Returns
        -------
        features : Tensor, (views, batch, features)
        y : Tensor, (views, batch, bottleneck_dim)
        patch_y : Tensor, (views, batch, patches, bottleneck_dim)
        """
        tokens = token_features(self.backbone, torch.cat(list(views)))
        both = torch.cat([tokens[:, :1], self._patches(tokens)], dim=1)
        y = self.head.bottleneck(both).unflatten(0, (len(views), -1))
        return tokens[:, 0].unflatten(0, (len(views), -1)), y[:, :, 0], y[:, :, 1:]

    def _patches(self, tokens: Tensor) -> Tensor:
        """Patch tokens (n, patches, features), without class token and registers."""
        prefix = self.backbone.num_prefix_tokens
        assert isinstance(prefix, int)
        return tokens[:, prefix:]
