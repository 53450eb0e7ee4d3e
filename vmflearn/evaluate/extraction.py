"""Features of all images of a source."""

import numpy as np
import torch
from torch import Tensor

from vmflearn.backbones.creation import evaluation_mode
from vmflearn.data.decoding import ImageSource, UnreadableImage
from vmflearn.evaluate.model import Model


def extract(model: Model, source: ImageSource, *, batch_size: int = 64, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Features (n, d) and classes (n,) of the images that can be read."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    features, rows, batch = [], [], []
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))
    for index in range(len(source)):
        try:
            image = source.read(index)
        except UnreadableImage:
            continue
        image = F.resize(image, [model.resized], interpolation=InterpolationMode.BICUBIC, antialias=True)
        batch.append((F.center_crop(image, [model.size, model.size]) / 255 - mean) / std)
        rows.append(index)
        if len(batch) == batch_size or index == len(source) - 1:
            with evaluation_mode(model.backbone):
                features.append(model.backbone(torch.stack(batch).to(device)).float().cpu())
            batch = []
    return torch.cat(features), source.labels[np.array(rows)]
