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
        Images (n, 3, size, size) to features (n, features); of several outputs the first are the features.
    head : DINOHead
        Features to bottleneck vectors, and those to logits (n, out_dim).
    """

    def __init__(self, backbone: nn.Module, head: DINOHead):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, crops: Sequence[Tensor]) -> Tensor:
        """Features of every crop, (crops, batch, features), in the order given.

        Raises
        ------
        ValueError
            If the crops are no sequence of equally many images each, or the backbone gives no vector for an image.
        """
        if isinstance(crops, Tensor):
            raise ValueError(
                "crops must be a list of batches (n, channels, height, width), one for each crop of the images; got "
                f"one tensor {tuple(crops.shape)}"
            )
        if not len(crops):
            raise ValueError("crops must hold at least one batch of images, not none")
        if any(crop.ndim != 4 for crop in crops):
            shapes = [tuple(crop.shape) for crop in crops]
            raise ValueError(f"every crop must be a batch (n, channels, height, width); they are {shapes}")
        batch = len(crops[0])
        if any(len(crop) != batch for crop in crops):
            raise ValueError(f"all crops must hold the same images; they hold {[len(crop) for crop in crops]}")
        sizes = [crop.shape[-2:] for crop in crops]
        pieces: list[Tensor] = [crops[0]] * len(crops)
        for size in dict.fromkeys(sizes):
            members = [i for i, other in enumerate(sizes) if other == size]
            outputs = self._features_of(torch.cat([crops[i] for i in members])).chunk(len(members))
            for i, output in zip(members, outputs, strict=True):
                pieces[i] = output
        return torch.stack(pieces)

    def _features_of(self, images: Tensor) -> Tensor:
        """One pass through the backbone; of several outputs the first, as in DINO's code (its XCiT gives more)."""
        output = self.backbone(images)
        features = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"the backbone, a {type(self.backbone).__name__}, must give one vector for each of {len(images)} "
                f"images, (n, features); it gives {given}"
            )
        return features

    @property
    def prototypes(self) -> Prototypes:
        """The head's last layer."""
        return self.head.prototypes

    def embed(self, crops: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Features (crops, batch, features) and bottleneck vectors (crops, batch, bottleneck_dim) of every crop."""
        features = self.features(crops)
        # One pass for all crops: batch normalisation in the head takes its statistics over them together.
        return features, self.head.bottleneck(features)

    def forward(self, crops: Sequence[Tensor], temperature: float) -> Tensor:
        """Complete logits, (crops, batch, out_dim), temperature and (for "vmf") log-normaliser included."""
        return self.prototypes(self.embed(crops)[1], temperature)
