"""Training images for linear classifiers as DINO augments them: a random crop of a random shape, mirrored or not."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vmflearn.data.decoding import ImageSource, UnreadableImage


class Augmented(Dataset):
    """Views of the images of a source, each determined by seed, epoch and image alone.

    Parameters
    ----------
    source : ImageSource
    size : int
        Side of a view.
    seed, epoch : int
    """

    def __init__(self, source: ImageSource, size: int, seed: int, epoch: int) -> None:
        self.source, self.size, self.seed, self.epoch = source, size, seed, epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int, bool]:
        """Pixels (3, size, size) uint8, the image's number, and whether it could be read: zeros if not."""
        from torchvision.transforms import v2

        try:
            image = self.source.read(index)
        except UnreadableImage:
            return torch.zeros(3, self.size, self.size, dtype=torch.uint8), index, False
        crop = v2.Compose([v2.RandomResizedCrop(self.size, antialias=True), v2.RandomHorizontalFlip()])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 100_003 + self.epoch) * 10_000_019 + index)
            return crop(image), index, True
