"""Student and teacher: a backbone under a head, fed with crops of several resolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.prototypes import Prototypes


class MultiCropNetwork(nn.Module):
    """Backbone and head over a list of crops (Fig. 1 of the paper).

    Crops of one resolution go through the backbone in one pass, and the features of all crops through the head in one:
    what separate passes would give, in fewer and larger products.

    Parameters
    ----------
    backbone : nn.Module
        Images (n, 3, size, size) to features (n, features).
    head : DINOHead
        Features to bottleneck vectors, and those to logits (n, out_dim).
    """

    def __init__(self, backbone: nn.Module, head: DINOHead):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, crops: Sequence[Tensor]) -> Tensor:
        """Features of every crop, (crops, batch, features), in the order given."""
        if not crops:
            raise ValueError("crops must hold at least one batch of images, not none")
        batch = len(crops[0])
        if any(len(crop) != batch for crop in crops):
            raise ValueError(f"all crops must hold the same images; they hold {[len(crop) for crop in crops]}")
        sizes = [crop.shape[-2:] for crop in crops]
        pieces: list[Tensor] = [crops[0]] * len(crops)
        for size in dict.fromkeys(sizes):
            members = [i for i, other in enumerate(sizes) if other == size]
            outputs = self.backbone(torch.cat([crops[i] for i in members])).chunk(len(members))
            for i, output in zip(members, outputs, strict=True):
                pieces[i] = output
        return torch.stack(pieces)

    @property
    def prototypes(self) -> Prototypes:
        """The head's last layer."""
        return self.head.prototypes

    def embed(self, crops: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (crops, batch, features) and bottleneck vectors (crops, batch, bottleneck_dim) of every crop."""
        features = self.features(crops)
        # One pass for all crops: batch normalisation in the head takes its statistics over them together.
        return features, self.head.bottleneck(features)

    def forward(self, crops: Sequence[Tensor], temperature: float) -> Tensor:
        """Complete logits, (crops, batch, out_dim), temperature and (for "vmf") log-normaliser included."""
        return self.prototypes(self.embed(crops)[1], temperature)
