"""Small data sets, decoded once: a set whose images have one size and fit lies in the training device's memory."""

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vmflearn.data.decoding import ImageSource, UnreadableImage
from vmflearn.devices import send
from vmflearn.train.config import ConfigError
from vmflearn.train.input.batches import MAX_UNREADABLE, Canvases, Unreadable, decode_batches

SHARE = 0.25
"""Share of the free memory that a cache may take."""
BATCH = 256


def cached(
    source: ImageSource, *, wanted: bool | str, max_side: int, workers: int, device: torch.device, seen: Unreadable
) -> Canvases | None:
    """Decode all images of a source, if they have one size and fit.

    Parameters
    ----------
    source
    wanted
        ``False``: no; ``True``: they must; "auto": if they do.
    max_side, workers
        As for `vmflearn.train.input.batches.decode_batches`; decoding shows a progress bar on a terminal.
    device
        Where the images will lie.
    seen
        Told of what cannot be read.

    Returns
    -------
    Canvases or None
        All images in their order, ``images`` on `device`; in place of an unreadable one, the next one that can be read.

    Raises
    ------
    ConfigError
        If they must, and they do not.
    DataError
        If too many images cannot be read.
    """
    problem = _too_large(source, max_side, device) if wanted else "not wanted"
    if not problem:
        whole = _decode(source, max_side, workers, seen)
        if whole is not None:
            return whole._replace(images=whole.images.to(device))
        problem = "the images have different sizes"
    if wanted is True:
        raise ConfigError(f"data.cache=true cannot be done: {problem}; set data.cache to auto or false")
    return None


def _decode(source: ImageSource, max_side: int, workers: int, seen: Unreadable) -> Canvases | None:
    """All images, or None as soon as two have different sizes."""
    parts: list[Canvases] = []
    loader = decode_batches(source, _InOrder(len(source)), max_side=max_side, workers=workers)
    with tqdm(total=len(source), desc="decoding", unit=" images", disable=None, leave=False) as bar:
        for batch in loader:
            seen.count(batch.problems)
            if not torch.equal(batch.sizes, (parts or [batch])[0].sizes[:1].expand_as(batch.sizes)):
                return None
            parts.append(batch)
            bar.update(len(batch.indices))
    images, shapes, sizes, indices = (torch.cat(tensors) for tensors in zip(*(p[:4] for p in parts), strict=True))
    return Canvases(images, shapes, sizes, indices, epoch=-1)


class _InOrder:
    """Every image once."""

    def __init__(self, n_images: int):
        self.n_images = n_images

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, self.n_images, BATCH):
            yield 0, np.arange(first, min(first + BATCH, self.n_images))


def _too_large(source: ImageSource, max_side: int, device: torch.device) -> str:
    """Why the images do not fit, judged by the first one that can be read; "" if they do."""
    for index in range(min(len(source), int(MAX_UNREADABLE * len(source)) + 2)):
        try:
            each = source.pixels(index, max_side)[0].size
            break
        except UnreadableImage:
            continue
    else:
        return "no image can be read"
    size, free = each * len(source), SHARE * _free_memory(device)
    return "" if size <= free else f"{size / 1e9:.3g} GB are more than {SHARE:.0%} of the free memory"


def _free_memory(device: torch.device) -> float:
    """Free bytes for this process: of the GPU, or its part of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return 4e9  # not told on this system
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def select(cache: Canvases, wanted: Tensor, epoch: int) -> Canvases:
    """Some of the cached images; like the loader's own batches, on the cache's device."""
    here = send(wanted, cache.images.device)
    return Canvases(cache.images[here], cache.shapes[wanted], cache.sizes[wanted], cache.indices[wanted], epoch)
