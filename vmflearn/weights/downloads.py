"""Where DINO's published weights lie, under the names of ``torch.hub``, and fetching them where there is a network."""

import urllib.error
from os import PathLike
from pathlib import Path

import torch

SITE = "https://dl.fbaipublicfiles.com/dino"
FOLDERS = {
    "dino_vits16": "dino_deitsmall16_pretrain",
    "dino_vits8": "dino_deitsmall8_pretrain",
    "dino_vitb16": "dino_vitbase16_pretrain",
    "dino_vitb8": "dino_vitbase8_pretrain",
    "dino_resnet50": "dino_resnet50_pretrain",
}
TIMM_NAMES = {
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vits8": "vit_small_patch8_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dino_vitb8": "vit_base_patch8_224.dino",
}
"""The same weights in timm, without head: ``create_backbone(name, position_interpolation="dino", pretrained=True)``."""


def published_names() -> list[str]:
    """Names of DINO's published weights, as in ``torch.hub``: "dino_vits16" and so on."""
    return list(FOLDERS)


def published_url(name: str, *, full: bool = False, site: str = SITE) -> str:
    """Address of published weights.

    Parameters
    ----------
    name : str
        One of `published_names`.
    full : bool
        The full checkpoint, with student, teacher, heads and optimiser, instead of the teacher's backbone alone.
    site : str
        Where the folders lie; another one for a mirror.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in FOLDERS:
        raise ValueError(f"name must be one of {', '.join(FOLDERS)}, got {name!r}")
    return f"{site}/{FOLDERS[name]}/{FOLDERS[name]}{'_full_checkpoint' if full else ''}.pth"


def fetch_published(
    name: str, *, full: bool = False, folder: str | PathLike[str] | None = None, site: str = SITE
) -> Path:
    """Download published weights, unless they are there, for `load_published`.

    Parameters
    ----------
    name, full, site
        As in `published_url`.
    folder : path, optional
        Where to keep the file, made if missing; None: where ``torch.hub`` keeps its own.

    Returns
    -------
    Path
        The file, whole: an interrupted download leaves none.

    Raises
    ------
    ValueError
        If the name is unknown.
    ConnectionError
        If the file cannot be fetched.
    """
    url = published_url(name, full=full, site=site)
    path = (Path(torch.hub.get_dir()) / "checkpoints" if folder is None else Path(folder)) / url.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(
                f"{url} cannot be fetched ({reason}); copy the file there by other means, to {path}, or give its path "
                "to load_published"
            ) from None
    return path
