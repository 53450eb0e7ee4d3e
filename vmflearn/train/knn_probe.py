"""kNN on frozen features while a run goes on: the one number that says whether the representation gets better."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from vmflearn import distributed
from vmflearn.data.decoding import ImageSource
from vmflearn.data.photos import load_photos
from vmflearn.data.workers import WorkerLoader
from vmflearn.evaluate.extraction import Centred
from vmflearn.evaluate.features import colour_statistics, extract_features, pixel_features
from vmflearn.evaluate.knn import knn_accuracy, knn_predict
from vmflearn.evaluate.splits import unlike_classes
from vmflearn.train.config import Config, ConfigError, DataConfig
from vmflearn.train.input.batches import DataError
from vmflearn.train.input.loader import open_training, open_validation
from vmflearn.weights.digest import digest

CHUNK = 256
"""Images whose features are extracted between two looks at whether to go on."""
SEARCHED = 8192
"""Test images whose neighbours are searched between two."""
WAY_TO_CLASSES = {
    "folder": "class sub-folders (each image in the folder of its class, validation images too; "
    "scripts/prepare_imagenet.py sorts ImageNet's as downloaded)",
    "shards": "a KEY.cls with the number of its class beside every image (as scripts/make_shards.py makes of folders)",
    "timm": "the class of every image",
}


class KNNProbe:
    """Top-1 kNN accuracy of a backbone on a labelled training and test set.

    For ``photos`` these are its own two splits; else ``data.root`` and ``data.val_root``, or two splits of a named set.
    Every process extracts the features of its share of the images.

    Parameters
    ----------
    config : Config
    device : torch.device

    Attributes
    ----------
    news : list of str
        What is new of the validation images, for who reads the log to take out: what the source passed over, and how
        many could not be read. (The loader says the same of the training images.)
    """

    def __init__(self, config: Config, device: torch.device):
        self.news: list[str] = []
        self._unreadable = 0
        self.k, self.size, self.device = config.run.knn_k, config.views.global_size, device
        self._train: _Labelled
        self._test: _Labelled
        if config.data.source == "photos":
            train, test = load_photos("train"), load_photos("test")
            self._train, self._test = _Labelled(train.images, train.labels), _Labelled(test.images, test.labels)
        else:
            sources = open_training(config.data), open_validation(config.data)
            _check_classes(config.data, *sources)
            self._train, self._test = (_Labelled(source, source.labels, config.data.workers) for source in sources)
            self.news += [f"validation images: {note}" for note in sources[1].notes]
        if self.k > len(self._train.labels):
            raise ConfigError(f"run.knn_k={self.k} is larger than the training set ({len(self._train.labels)} images)")

    @property
    def train_labels(self) -> Tensor:
        """Classes (n,) int64 of the training images, in their order."""
        return self._train.labels

    @property
    def described(self) -> dict[str, str]:
        """Digests of the validation images, as `vmflearn.train.runs.same_images.describe` makes of the others.

        Not of photographs, which are the same everywhere.
        """
        source = self._test.images
        if isinstance(source, Tensor):
            return {}
        classes = digest([list(source.class_names), source.labels])
        return {"validation names": source.names_digest(), "validation classes": classes}

    def __call__(self, backbone: nn.Module) -> float:
        """Accuracy of kNN in [0, 1], equal on every process."""
        return self.knn(*self.features(backbone))

    def knn(self, features: list[Tensor], labels: list[Tensor], look: Callable[[], None] = lambda: None) -> float:
        """Accuracy of kNN on what `features` gives; `look` as there."""
        right = []
        for rows, classes in zip(features[1].split(SEARCHED), labels[1].split(SEARCHED), strict=True):
            look()
            right.append(knn_predict(features[0], labels[0], rows, k=self.k) == classes)
        found = torch.cat(right)
        return int(found.sum()) / len(found)

    def features(
        self, backbone: nn.Module, look: Callable[[], None] = lambda: None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features (n, width) and classes (n,) of the training and the test images that can be read.

        Every process holds all of them. `look` is called before each part of the work, equally often on every process,
        and may raise to end it.
        """
        features, labels, width = [], [], backbone.num_features
        assert isinstance(width, int)
        for labelled in (self._train, self._test):
            mine = [torch.empty(0, width, device=self.device)]
            parts = labelled.share(self.size)
            for _ in range(math.ceil(len(labelled.indices(0)) / CHUNK)):  # the first process has the most
                look()
                part = next(parts, None)
                if part is None:
                    continue
                images, readable = part
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
        self._say_unreadable(len(self._test.labels) - len(labels[1]))
        return features, labels

    def _say_unreadable(self, count: int) -> None:
        """Say how many validation images could not be read, when it is more than before; DataError if none can."""
        of_all = f"{count} of {len(self._test.labels)} validation images cannot be read"
        if count == len(self._test.labels):
            raise DataError(f"{of_all}; mend them, or leave data.val_root and data.val_split out to train without kNN")
        if count > self._unreadable:
            self.news.append(f"{of_all}; kNN is measured without them")
            self._unreadable = count

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


def _check_classes(data: DataConfig, train: ImageSource, test: ImageSource) -> None:
    """ConfigError unless both sets have the same two classes or more, with the same numbers."""
    asks = "data.val_root" if data.val_root is not None else "data.val_split"
    places = [
        f"{data.name} ({split})" if data.source == "timm" else str(root)
        for root, split in ((data.root, data.split), (data.val_root, data.val_split or data.split))
    ]
    for place, source in zip(places, (train, test), strict=True):
        if not source.class_names:
            raise ConfigError(
                f"{asks} asks for kNN, which needs {WAY_TO_CLASSES[data.source]} in {place}; leave {asks} out to train "
                "without it" + "".join(f"; {note}" for note in source.notes)
            )
    if len(train.class_names) < 2:
        raise ConfigError(
            f"{asks} asks for kNN, and {places[0]} has one class, {train.class_names[0]}: "
            f"every answer would be right; leave {asks} out, or give images of two classes or more"
        )
    unlike = unlike_classes(train.class_names, test.class_names)
    if not unlike:
        return
    raise ConfigError(
        f"the validation images in {places[1]} must have the classes of {places[0]}, in their order: {unlike}"
    )


class _Labelled:
    """Images, in memory or in a folder, with their labels."""

    def __init__(self, images: Tensor | ImageSource, labels: Tensor, workers: int = 0):
        self.images, self.labels, self.workers = images, labels, workers

    def indices(self, rank: int) -> np.ndarray:
        """The images whose features a process extracts."""
        return np.arange(rank, len(self.labels), distributed.world_size())

    def share(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of this process as bytes, (up to CHUNK, 3, height, width), and which of them could be read."""
        mine = self.indices(distributed.rank())
        if isinstance(self.images, Tensor):
            for wanted in torch.from_numpy(mine).split(CHUNK):
                yield self.images[wanted], torch.ones(len(wanted), dtype=torch.bool)
        else:
            yield from WorkerLoader(
                Centred(self.images, size, round(size * 8 / 7)),
                workers=self.workers,
                sampler=mine.tolist(),
                batch_size=CHUNK,
            )
