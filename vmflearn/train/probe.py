"""kNN on frozen features while a run goes on: the one number that says whether the representation gets better."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from vmflearn import distributed
from vmflearn.data.photos import load_photos
from vmflearn.data.sources import ImageSource, open_images
from vmflearn.evaluate.features import colour_statistics, extract_features, pixel_features
from vmflearn.evaluate.knn import knn_accuracy
from vmflearn.train.config import Config, ConfigError


class KNNProbe:
    """Top-1 kNN accuracy of a backbone on a labelled training and test set.

    For ``photos`` these are its own two splits; for a folder, ``data.root`` and ``data.val_root``. Every process
    extracts the features of its share of the images.

    Parameters
    ----------
    config : Config
    device : torch.device
    """

    def __init__(self, config: Config, device: torch.device):
        self.k, self.size, self.device = config.run.knn_k, config.views.global_size, device
        self._train: _Labelled
        self._test: _Labelled
        if config.data.source == "photos":
            train, test = load_photos("train"), load_photos("test")
            self._train, self._test = _Labelled(train.images, train.labels), _Labelled(test.images, test.labels)
        else:
            sources = open_images(str(config.data.root)), open_images(str(config.data.val_root))
            if sources[0].class_names != sources[1].class_names:
                raise ConfigError(
                    f"data.val_root={config.data.val_root} must have the class folders of data.root={config.data.root}"
                )
            self._train, self._test = (_Labelled(source, torch.as_tensor(source.labels)) for source in sources)
        if self.k > len(self._train.labels):
            raise ConfigError(f"run.knn_k={self.k} is larger than the training set ({len(self._train.labels)} images)")

    def __call__(self, backbone: nn.Module) -> float:
        """Accuracy in [0, 1], equal on every process."""
        features = []
        for labelled in (self._train, self._test):
            pieces = [
                extract_features(backbone, images, size=self.size, device=self.device)
                for images in labelled.share(self.size)
            ]
            mine = torch.cat(pieces) if pieces else torch.empty(0, 1, device=self.device)
            gathered = distributed.gather_rows(mine)
            order = np.concatenate([labelled.indices(rank) for rank in range(distributed.world_size())])
            whole = torch.empty_like(gathered)
            whole[torch.from_numpy(order).to(whole.device)] = gathered
            features.append(whole)
        return knn_accuracy(
            features[0],
            self._train.labels.to(self.device),
            features[1],
            self._test.labels.to(self.device),
            k=self.k,
        )

    def baselines(self, untrained: nn.Module) -> dict[str, float]:
        """What needs no training: raw pixels, colour statistics, and the backbone as it was initialised.

        The first two are computed where all images are in memory.
        """
        found = {}
        if isinstance(self._train.images, Tensor) and isinstance(self._test.images, Tensor):
            for name, features in (("raw pixels", pixel_features), ("colour statistics", colour_statistics)):
                found[name] = knn_accuracy(
                    features(self._train.images),
                    self._train.labels,
                    features(self._test.images),
                    self._test.labels,
                    k=self.k,
                )
        found["untrained backbone"] = self(untrained)
        return found


class _Labelled:
    """Images, in memory or in a folder, with their labels."""

    def __init__(self, images: Tensor | ImageSource, labels: Tensor):
        self.images, self.labels = images, labels

    def indices(self, rank: int) -> np.ndarray:
        """The images whose features a process extracts."""
        return np.arange(rank, len(self.labels), distributed.world_size())

    def share(self, size: int, chunk: int = 512) -> Iterator[Tensor]:
        """Images of this process as bytes, (up to chunk, 3, height, width) at a time."""
        mine = self.indices(distributed.rank())
        for start in range(0, len(mine), chunk):
            wanted = mine[start : start + chunk]
            if isinstance(self.images, Tensor):
                yield self.images[torch.from_numpy(wanted)]
            else:
                yield torch.stack([_centre(self.images.read(int(index)), size) for index in wanted])


def _centre(image: Tensor, size: int) -> Tensor:
    """Shorter side resized to 8/7 of ``size`` (256 for 224), central square: DINO's evaluation view, as bytes."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    resized = F.resize(image, [round(size * 8 / 7)], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return F.center_crop(resized, [size, size])
