"""Labels that travel through a video along similar patches, as DINO's features are judged on DAVIS.

With unit features x_i of the patches of a frame, y_j of those of its context (the first frame and the last seven) and
soft labels l_j, the labels of a patch are a weighted mean of its most similar patches nearby,

    l_i = sum_j w_ij l_j / sum_j w_ij,     w_ij = exp(<x_i, y_j> / 0.1)  where j is at most 12 patches away in both
                                                  directions and <x_i, y_j> is not below the fifth largest of these,
                                                  over all frames of the context together; 0 elsewhere

(Jabri et al., 2020; Caron et al., 2021). Nothing is learned: what moves with an object is what the features say.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

CHUNK_ENTRIES = 2**26
"""Similarities at a time: 256 MiB in float32."""


def patch_labels(mask: NDArray[np.uint8], grid: tuple[int, int], n_objects: int) -> Tensor:
    """One-hot labels of patches, from the mask's nearest pixel.

    Parameters
    ----------
    mask
        (height, width): number of the object, 0 for none.
    grid
        Patches in a column and in a row, (h, w).
    n_objects
        Greatest number.

    Returns
    -------
    Tensor
        (h, w, 1 + n_objects) float32, on the CPU.
    """
    return F.one_hot(torch.from_numpy(_nearest(mask, grid)).long(), n_objects + 1).float()


def pixel_mask(labels: Tensor, patch_size: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The object of each pixel, from soft labels of patches.

    Labels are enlarged to pixels of the patches (bilinear), each object's are brought to the range 0 to 1, the
    greatest decides, and the result is resized to the frame by its nearest pixel.

    Parameters
    ----------
    labels
        (h, w, 1 + objects), not negative.
    patch_size
        Height and width of a patch.
    size
        Height and width of the frame.

    Returns
    -------
    ndarray
        Of that size.
    """
    factors = [float(side) for side in patch_size]
    large = F.interpolate(labels.movedim(-1, 0)[None], scale_factor=factors, mode="bilinear")[0]
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    # The published code divides 0 by 0 for an object whose labels are the same everywhere; here they stay as they are.
    large = torch.where(high > low, (large - low) / (high - low), large)
    return _nearest(large.argmax(dim=0).to(torch.uint8).cpu().numpy(), size)


def _nearest(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a mask to (height, width) as Pillow does: halfway between two pixels PyTorch takes another."""
    return np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def propagate_labels(
    features: Iterable[Tensor],
    first_labels: Tensor,
    *,
    n_last: int = 7,
    radius: int = 12,
    k: int = 5,
    temperature: float = 0.1,
) -> Iterator[Tensor]:
    """Carry the labels of a video's first frame through its other frames.

    Parameters
    ----------
    features
        Of each frame in turn, (h, w, d) floating point; rows need not have unit length. They are taken as they are
        needed: a long video need not lie in memory.
    first_labels
        (h, w, c) soft or one-hot labels of the first frame, see `patch_labels`.
    n_last
        Frames before the present one in its context, beside the first.
    radius
        Of the neighbourhood, in patches; 0 for no limit.
    k
        Similar patches that count; more where several are as similar as the last of them.
    temperature
        Of the weight of a patch, exp(cosine / temperature).

    Yields
    ------
    Tensor
        (h, w, c) float32: soft labels of the second frame, the third, ...

    Raises
    ------
    ValueError
        If a frame's features have another shape than the first's, or an argument is out of its range.
    """
    if n_last < 0 or radius < 0 or k < 1 or not temperature > 0:
        raise ValueError(
            f"n_last and radius must not be negative, k at least 1 and temperature positive, got n_last={n_last}, "
            f"radius={radius}, k={k}, temperature={temperature}"
        )
    frames = iter(features)
    first = next(frames, None)
    if first is None or first.ndim != 3 or first.shape[:2] != first_labels.shape[:2]:
        shape = None if first is None else tuple(first.shape)
        raise ValueError(f"the first frame's features {shape} and labels {(*first_labels.shape,)} have no common grid")
    near = _neighbourhood(first.shape[0], first.shape[1], radius).to(first.device) if radius else None
    start = (_directions(first), first_labels.float().flatten(0, 1).to(first.device))
    last: deque[tuple[Tensor, Tensor]] = deque(maxlen=n_last)
    for number, frame in enumerate(frames, 2):
        if frame.shape != first.shape:
            raise ValueError(f"frame {number} has features {(*frame.shape,)}, the first frame {(*first.shape,)}")
        x = _directions(frame)
        context = [start, *last]
        labels = _carry(x, torch.cat([y for y, _ in context]), torch.cat([m for _, m in context]), near, k, temperature)
        last.append((x, labels))
        yield labels.unflatten(0, frame.shape[:2])


def _directions(features: Tensor) -> Tensor:
    return F.normalize(features.float().flatten(0, 1), dim=1)


def _neighbourhood(height: int, width: int, radius: int) -> Tensor:
    """(h w, h w) bool: whether two patches are at most `radius` rows and columns apart."""
    rows, columns = ((torch.arange(side)[:, None] - torch.arange(side)).abs() <= radius for side in (height, width))
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(height * width, height * width)


def _carry(x: Tensor, context: Tensor, labels: Tensor, near: Tensor | None, k: int, temperature: float) -> Tensor:
    """Labels (n, c) of patches x (n, d) from those of a context (m, d) of m / n frames."""
    n_frames = len(context) // len(x)
    carried = []
    step = max(1, CHUNK_ENTRIES // len(context))
    for first in range(0, len(x), step):
        similarity = x[first : first + step] @ context.T
        if near is not None:
            similarity.masked_fill_(~near[first : first + step].repeat(1, n_frames), float("-inf"))
        least = similarity.topk(min(k, len(context)), dim=1).values[:, -1:]
        weights = (similarity / temperature).exp().masked_fill_(similarity < least, 0)
        carried.append(weights @ labels / weights.sum(dim=1, keepdim=True))
    return torch.cat(carried)
