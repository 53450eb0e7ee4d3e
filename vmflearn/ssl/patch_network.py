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

    The head's MLP serves class and patch tokens alike, in a pass for each, so that batch normalisation, where the head
    has any, takes its statistics over class tokens and over patches apart. (In one pass the teacher's class tokens, one
    row in seventeen of a 4 x 4 grid, would be centred by the patches' mean, and the student's, of whom only masked
    patches are asked, by another: on small photographs they were all alike within a hundred steps.) Patches are scored
    by the head's own prototypes (iBOT's shared head) or by prototypes of their own.

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
        patches = self._patches(tokens)[covered.flatten(1)]
        return features, self.head.bottleneck(features), self._patch_bottleneck(patches.to(features.dtype))

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
        features = tokens[:, 0].unflatten(0, (len(views), -1))
        y, patch_y = self.head.bottleneck(features), self._patch_bottleneck(self._patches(tokens))
        return features, y, patch_y.unflatten(0, (len(views), -1))

    def _patch_bottleneck(self, patches: Tensor) -> Tensor:
        """Unit vectors of patch tokens. Fewer than two rows have no statistics of their own: they use the running ones.

        Not where statistics are those of all processes: there every process takes part in them, with no row too.
        """
        alone = patches.numel() <= patches.shape[-1] and not any(
            isinstance(layer, nn.SyncBatchNorm) for layer in self.head.modules()
        )
        training = self.head.training
        self.head.train(training and not alone)
        y = self.head.bottleneck(patches)
        self.head.train(training)
        return y

    def _patches(self, tokens: Tensor) -> Tensor:
        """Patch tokens (n, patches, features), without class token and registers."""
        prefix = self.backbone.num_prefix_tokens
        assert isinstance(prefix, int)
        return tokens[:, prefix:]
