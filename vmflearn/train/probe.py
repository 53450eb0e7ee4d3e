"""kNN on frozen features while a run goes on: the one number that says whether the representation gets better."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vmflearn import distributed
from vmflearn.data.decoding import ImageSource, UnreadableImage
from vmflearn.data.photos import load_photos
from vmflearn.evaluate.features import colour_statistics, extract_features, pixel_features
from vmflearn.evaluate.knn import knn_accuracy
from vmflearn.train.config import Config, ConfigError
from vmflearn.train.loader import open_training, open_validation
from vmflearn.train.workers import WorkerLoader


class KNNProbe:
    """Top-1 kNN accuracy of a backbone on a labelled training and test set.

    For ``photos`` these are its own two splits; else ``data.root`` and ``data.val_root``, or two splits of a named set.
    Every process extracts the features of its share of the images.

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
            sources = open_training(config.data), open_validation(config.data)
            if not sources[0].class_names:
                raise ConfigError(f"data.val_root asks for kNN, which needs class sub-folders in {config.data.root}")
            if len(sources[0].class_names) < 2:
                raise ConfigError(
                    f"data.val_root asks for kNN, and {config.data.root} has one class, {sources[0].class_names[0]}: "
                    "every answer would be right; leave data.val_root out, or give images of two classes or more"
                )
            if sources[0].class_names != sources[1].class_names:
                raise ConfigError(
                    f"data.val_root={config.data.val_root} must have the class folders of data.root={config.data.root}"
                )
            self._train, self._test = (_Labelled(source, source.labels, config.data.workers) for source in sources)
        if self.k > len(self._train.labels):
            raise ConfigError(f"run.knn_k={self.k} is larger than the training set ({len(self._train.labels)} images)")

    @property
    def train_labels(self) -> Tensor:
        """Classes (n,) int64 of the training images, in their order."""
        return self._train.labels

    def __call__(self, backbone: nn.Module) -> float:
        """Accuracy of kNN in [0, 1], equal on every process."""
        return self.knn(*self.features(backbone))

    def knn(self, features: list[Tensor], labels: list[Tensor]) -> float:
        """Accuracy of kNN on what `features` gives."""
        return knn_accuracy(features[0], labels[0], features[1], labels[1], k=self.k)

    def features(self, backbone: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Features (n, width) and classes (n,) of the training and the test images that can be read.

        Every process holds all of them.
        """
        features, labels, width = [], [], backbone.num_features
        assert isinstance(width, int)
        for labelled in (self._train, self._test):
            mine = [torch.empty(0, width, device=self.device)]
            for images, readable in labelled.share(self.size):
                found = extract_features(backbone, images, size=self.size, device=self.device)
                found[~readable.to(found.device)] = torch.nan
                mine.append(found)
            gathered = distributed.gather_rows(torch.cat(mine))
            order = np.concatenate([labelled.indices(rank) for rank in range(distributed.world_size())])
            whole = torch.empty_like(gathered)
            whole[torch.from_numpy(order).to(whole.device)] = gathered
            kept = whole.isfinite().all(dim=1)
            features.append(whole[kept])
            labels.append(labelled.labels.to(self.device)[kept])
        return features, labels

    def baselines(self, untrained: nn.Module) -> dict[str, float]:
        """What needs no training: raw pixels, colour statistics, and the backbone as it was initialised.

        Computed where all images are in memory; nothing for a folder.
        """
        if not (isinstance(self._train.images, Tensor) and isinstance(self._test.images, Tensor)):
            return {}  # a folder may hold a million images: what it costs once, at the end of an epoch, is enough
        found = {}
        for name, features in (("raw pixels", pixel_features), ("colour statistics", colour_statistics)):
            found[name] = knn_accuracy(
                features(self._train.images),
                self._train.labels,
                features(self._test.images),
                self._test.labels,
                k=self.k,
            )
        return {**found, "untrained backbone": self(untrained)}


class _Labelled:
    """Images, in memory or in a folder, with their labels."""

    def __init__(self, images: Tensor | ImageSource, labels: Tensor, workers: int = 0):
        self.images, self.labels, self.workers = images, labels, workers

    def indices(self, rank: int) -> np.ndarray:
        """The images whose features a process extracts."""
        return np.arange(rank, len(self.labels), distributed.world_size())

    def share(self, size: int, chunk: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of this process as bytes, (up to chunk, 3, height, width), and which of them could be read."""
        mine = self.indices(distributed.rank())
        if isinstance(self.images, Tensor):
            for wanted in torch.from_numpy(mine).split(chunk):
                yield self.images[wanted], torch.ones(len(wanted), dtype=torch.bool)
        else:
            yield from WorkerLoader(
                _Centred(self.images, size), workers=self.workers, sampler=mine.tolist(), batch_size=chunk
            )


class _Centred(Dataset):
    """Images of a folder as DINO evaluates them: the shorter side at 8/7 of the size (256 for 224), central square."""

    def __init__(self, source: ImageSource, size: int):
        self.source, self.size = source, size

    def __getitem__(self, index: int) -> tuple[Tensor, bool]:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        try:
            image = self.source.read(index)
        except UnreadableImage:
            return torch.zeros(3, self.size, self.size, dtype=torch.uint8), False
        side = round(self.size * 8 / 7)
        image = F.resize(image, [side], interpolation=InterpolationMode.BICUBIC, antialias=True)
        return F.center_crop(image, [self.size, self.size]), True
