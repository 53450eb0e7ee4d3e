"""Colours of a batch of crops, every crop with parameters of its own.

The operations are those of torchvision, on values in [0, 1], written for a factor an image instead of one factor a
call. An operation is carried out only on the images that drew it, and the four of the colour jitter in the order
each image drew; there is no loop over images, so that the same lines serve the CPU and a GPU.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vmflearn.devices import send
from vmflearn.views.crops import Draws

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601
BLUR_RADIUS = 8  # four times the greatest sigma drawn
BAND = 32  # rows of a blur at a time


def photometric(crops: Tensor, draws: Draws) -> Tensor:
    """Jitter, grey, blur, solarise and normalise a batch of crops.

    Parameters
    ----------
    crops
        (batch, 3, size, size) float32 in [0, 1]; left as it is.
    draws
        A row for each crop; everything but the geometry is used.

    Returns
    -------
    Tensor
        (batch, 3, size, size) float32, normalised with the mean and standard deviation of ImageNet.

    Raises
    ------
    ValueError
        If `crops` is not a batch of colour images or its length is not that of `draws`.
    """
    if crops.ndim != 4 or crops.shape[1] != 3:
        raise ValueError(f"crops must have shape (batch, 3, size, size), got {tuple(crops.shape)}")
    if len(crops) != len(draws):
        raise ValueError(f"crops and draws must be of one length, got {len(crops)} and {len(draws)}")
    out = crops.clone()
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for step in range(4):
        for which, operation in enumerate(operations):
            drew = draws.jitter & (draws.order[:, step] == which)
            _apply(operation, out, drew, draws.factors[:, which])
    _apply(greyscale, out, draws.grey)
    _apply(gaussian_blur, out, draws.blur, draws.sigma)
    _apply(solarize, out, draws.solarize)
    mean, std = _imagenet(out)
    return out.sub_(mean).div_(std)


def _apply(operation: Callable[..., Tensor], images: Tensor, drew: Tensor, *parameters: Tensor) -> None:
    """Replace the images that drew an operation by its result, in place."""
    rows = torch.nonzero(drew).squeeze(1)
    if len(rows):
        chosen = [send(parameter[rows], images.device) for parameter in parameters]
        rows = send(rows, images.device)
        images.index_copy_(0, rows, operation(images.index_select(0, rows), *chosen))


def normalize(images: Tensor) -> Tensor:
    """(x - mean) / std with the mean and standard deviation of ImageNet, channel by channel."""
    mean, std = _imagenet(images)
    return (images - mean) / std


def _imagenet(images: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (send(torch.tensor(x, dtype=images.dtype), images.device) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return mean[:, None, None], std[:, None, None]


def luma(images: Tensor) -> Tensor:
    """Brightness (batch, 1, h, w) that the eye sees: 0.2989 r + 0.587 g + 0.114 b."""
    red, green, blue = images.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def greyscale(images: Tensor) -> Tensor:
    """The luma in all three channels."""
    return luma(images).expand(-1, 3, -1, -1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale: factor x, cut to [0, 1]; `images` (batch, 3, h, w), `factor` (batch,)."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a grey: factor x + (1 - factor) m, cut to [0, 1], where m is the image's mean luma."""
    return _blend(images, luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luma: factor x + (1 - factor) luma(x), cut to [0, 1]."""
    return _blend(images, luma(images), factor)


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(others.expand_as(images), images, factor[:, None, None, None]).clamp_(0, 1)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the colour circle by `factor` (batch,) turns, at constant value and chroma.

    With value v = max(r, g, b), chroma c = v - min(r, g, b) and hue h in [0, 6), each colour is
    v - c clamp(2 - d, 0, 1), where d is the distance on the circle of length 6 from h to that colour's opposite: 3, 5,
    1 for red, green, blue.
    """
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Which colour is the greatest, as weights of exactly 0 and 1: on a CPU several times quicker than torch.where.
    below_red, below_green = (value - red).sign_(), (value - green).sign_()
    is_red, is_green, is_blue = 1 - below_red, below_red * (1 - below_green), below_red * below_green
    hue = is_red.mul_(green - blue).add_(is_green * (blue - red)).add_(is_blue * (red - green))
    hue /= chroma + (1 - chroma.sign())  # a grey has no hue, and needs none: c = 0 leaves v
    hue += is_green.mul_(2).add_(is_blue.mul_(4))
    hue += 6 * factor[:, None, None]
    opposite = send(torch.tensor([3, 5, 1], dtype=hue.dtype), hue.device)
    distance = hue[:, None] - opposite[:, None, None]
    distance -= (distance / 6).round_().mul_(6)
    amount = distance.abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma[:, None])
    return torch.sub(value[:, None], amount, out=amount)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation (batch,) of its own for each image, borders reflected.

    The kernel exp(-d^2 / (2 sigma^2)), |d| <= 8, is written as a matrix B (batch, size, size) for rows and columns,
    and the blur is B_h x B_w^T. Images smaller than nine pixels shorten the kernel to what reflection can serve.
    """
    rows, columns = (_blur_matrix(sigma, n)[:, None] for n in images.shape[-2:])
    down = [rows[..., out, :][..., near] @ images[..., near, :] for out, near in _bands(images.shape[-2])]
    half = torch.cat(down, dim=-2)
    along = [half[..., near] @ columns[..., out, :][..., near].mT for out, near in _bands(images.shape[-1])]
    return torch.cat(along, dim=-1)


def _bands(n: int) -> list[tuple[slice, slice]]:
    """Rows of a blur matrix, and the columns where these are not zero: the matrix is a band around its diagonal."""
    starts = range(0, n, BAND)
    return [(slice(i, i + BAND), slice(max(0, i - BLUR_RADIUS), i + BAND + BLUR_RADIUS)) for i in starts]


def _blur_matrix(sigma: Tensor, n: int) -> Tensor:
    """Matrices (batch, n, n) of a blur with reflected borders; every row sums to one."""
    radius = min(BLUR_RADIUS, n - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)  # (batch, 2 radius + 1)
    source = (torch.arange(n, device=sigma.device)[:, None] + offsets).abs()  # (n, 2 radius + 1); -1 is pixel 1 again
    source = (n - 1) - ((n - 1) - source).abs()  # and n is pixel n - 2
    matrix = torch.zeros(len(sigma), n, n, device=sigma.device)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, n, -1))


def solarize(images: Tensor) -> Tensor:
    """Invert what is one half or brighter: 1 - x where x >= 1/2."""
    return torch.where(images >= 0.5, 1 - images, images)
