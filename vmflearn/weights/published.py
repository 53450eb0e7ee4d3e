"""Published weights: DINO's, iBOT's and MSN's files, and this project's own, into a backbone and a head.

`load_published` gives these two, which is what features and clusters are made of; `load_whole` also what only training
needs: iBOT's token for masked patches, the prototypes that score its patches, and the centres.

Every tensor of the network must be in the file, with its shape, and every tensor of the file must have a place:
otherwise nothing is loaded, and the error lists the names. What shapes do not tell, the number of attention heads, is
said by the file, by whoever loads it, or assumed with a warning.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.prototypes import NORMALIZATIONS, Prototypes
from vmflearn.weights.architectures import HEAD_DIM
from vmflearn.weights.downloads import FOLDERS
from vmflearn.weights.formats import Part, centers_of, mask_token_of, method_of, parts_of, scores_patches
from vmflearn.weights.reading import read_weights

ARCHITECTURES = re.compile(r"(vit|deit)_(tiny|small|base|large)")
"""Transformers of DINO's and iBOT's code as their files name them, all with heads of 64."""


def load_published(
    path: str | PathLike[str],
    which: str = "teacher",
    normalization: str | None = None,
    *,
    num_heads: int | None = None,
) -> tuple[nn.Module, DINOHead | None]:
    """Load a published or an own checkpoint.

    ====================  ===========================================================  =====================
    file                  recognised by                                                gives
    ====================  ===========================================================  =====================
    DINO, full            ``student``, ``teacher``                                     backbone, head
    iBOT, full            the same; its ``masked_embed`` and the second last layer     backbone, head
                          (the patches') are checked, and given by `load_whole`
    MSN                   ``encoder`` (student), ``target_encoder``, ``prototypes``    backbone, head
    backbone alone        a flat dict of tensors, or one below ``state_dict`` or       backbone, None
                          ``model``
    of this project       ``student``, ``teacher`` and ``config``                      backbone, head
    exported backbone     ``*.safetensors`` with a ``*.json`` of the same name, or     backbone, None
                          with timm's ``config.json``
    ====================  ===========================================================  =====================

    Parameters
    ----------
    path : path
        The file. Nothing in it is run, and of its tensors only those asked for are read into memory.
    which : {"teacher", "student"}
        The network to take from a file that holds both. A backbone alone is what it is.
    normalization : {"none", "l2", "vmf"}, optional
        Score of the head's components, see `Prototypes`. None: "none" for DINO and iBOT, "l2" for MSN, and for an own
        run the one it was trained with. Files of DINO's form do not tell: say "vmf" where the normaliser was used.
    num_heads : int, optional
        Of a Vision Transformer whose file does not tell. None: as many as make heads of 64, as in all published files;
        a warning says so where the file may be another's.

    Returns
    -------
    backbone : nn.Module
        In evaluation mode, in float32 (float64 if the file is). The architecture is read off the tensors' shapes, or
        from an own file's configuration. A Vision Transformer's ``forward_features(images)`` gives all tokens after
        the final norm, class token first, and resizes positional embeddings as the published code does.
    head : DINOHead or None
        With the published prototypes, magnitudes included (MSN has none: ones).

    Raises
    ------
    ValueError
        If the file is missing, no file of weights, or asks to run anything; if a tensor is missing, unexpected,
        mis-shaped or of another kind of number (all are listed); if the architecture is not known, or has not
        ``num_heads``.

    Warns
    -----
    UserWarning
        If nothing tells the number of attention heads.
    """
    whole = _load(path, which, normalization, num_heads)
    return whole.backbone, whole.head


@dataclass(frozen=True)
class Published:
    """All that a file tells of one of its networks, and of its centres.

    Attributes
    ----------
    backbone : nn.Module
    head : DINOHead or None
    patch_prototypes : Prototypes or None
        What scores the patches in iBOT: those of ``head`` themselves where the file has them shared, which published
        files tell by holding equal tensors twice.
    mask_token : Tensor, (1, features), or None
        iBOT's, in place of masked patches; a published file has it for the student alone.
    centers : dict of Tensor
        The running centres, flat: ``centering`` that of the class tokens, ``patch_centering`` that of iBOT's patches.
    centering : str
        The space they are in, "logit" or "probability"; files of DINO's form have the first.
    method : str or None
        "dino", "ibot" or "msn"; None for a backbone alone.
    """

    backbone: nn.Module
    head: DINOHead | None
    patch_prototypes: Prototypes | None
    mask_token: Tensor | None
    centers: dict[str, Tensor]
    centering: str
    method: str | None

    @property
    def shared(self) -> bool:
        """Whether one set of prototypes scores class tokens and patches."""
        return self.head is not None and self.patch_prototypes is self.head.prototypes


def load_whole(
    path: str | PathLike[str],
    which: str = "teacher",
    normalization: str | None = None,
    *,
    num_heads: int | None = None,
) -> Published:
    """Load all that a checkpoint tells of a network, the centres included.

    Parameters, errors and warnings are those of `load_published`. A part that the file has and that fits no network is
    an error there too: a token of another width than the features, patch prototypes of another sphere than the head's.

    Returns
    -------
    Published
    """
    return _load(path, which, normalization, num_heads)


def _load(path: str | PathLike[str], which: str, normalization: str | None, num_heads: int | None) -> Published:
    if which not in ("teacher", "student"):
        raise ValueError(f"which must be 'teacher' or 'student', got {which!r}")
    if normalization not in (None, *NORMALIZATIONS):
        raise ValueError(f"normalization must be None or one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    path = Path(path)
    content = read_weights(path)
    try:
        told = tells_heads(path, content)
        heads = None if told else num_heads
        parts = parts_of(path, content, which, normalization, heads)
        backbone, head, patch_prototypes = _assemble(parts)
        token = mask_token_of(content, which, backbone)
        found = heads_of(backbone)
        if num_heads not in (None, found):
            raise ValueError(f"num_heads={num_heads}, and the file's network has {found or 'none'}")
    except ValueError as error:
        raise ValueError(f"path={path}: {error}") from None
    if not told and found is not None and num_heads is None:
        warnings.warn(
            f"path={path} does not tell the number of attention heads: {found} heads of {HEAD_DIM} were taken, as in "
            f"published files; say num_heads={found}, or what it is",
            stacklevel=3,
        )
    if patch_prototypes is None and head is not None and scores_patches(content):
        patch_prototypes = head.prototypes
    centers, space = centers_of(content)
    return Published(backbone, head, patch_prototypes, token, centers, space, method_of(content))


def heads_of(backbone: nn.Module) -> int | None:
    """Attention heads of a Vision Transformer; None for another network."""
    blocks: Any = getattr(backbone, "blocks", None)
    return getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None


def tells_settings(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file holds the settings of its network, or has them beside it: a run's, and an exported backbone."""
    return path.suffix == ".safetensors" or isinstance(content.get("config"), dict)


def tells_heads(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file tells its number of attention heads, by settings or by whose it is."""
    if tells_settings(path, content) or "encoder" in content or "target_encoder" in content:
        return True
    if "student" in content or "teacher" in content:
        return bool(ARCHITECTURES.fullmatch(str(getattr(content.get("args"), "arch", ""))))
    return path.name in {f"{folder}.pth" for folder in FOLDERS.values()}


def _assemble(parts: Mapping[str, Part]) -> tuple[nn.Module, DINOHead | None, Prototypes | None]:
    """Build the modules and fill them, or say everything that is wrong at once."""
    modules: dict[str, Any] = {}
    problems = []
    for name, part in parts.items():
        try:
            module = part.build()
        except (TypeError, ValueError) as error:
            problems.append(str(error))
        else:
            problems += part.problems(module)
            modules[name] = module
    backbone, head, patches = (modules.get(name) for name in ("backbone", "head", "patches"))
    if head is not None and backbone is not None and head.in_dim != backbone.num_features:
        problems.append(f"mis-shaped: the head takes {head.in_dim} features, the backbone has {backbone.num_features}")
    if head is not None and patches is not None and head.prototypes.bottleneck_dim != patches.bottleneck_dim:
        problems.append(
            f"mis-shaped: the patches' prototypes have {patches.bottleneck_dim} dimensions, those of the class tokens "
            f"{head.prototypes.bottleneck_dim}"
        )
    if problems or backbone is None:
        raise ValueError(f"the file does not fit and nothing was loaded. {'; '.join(problems)}")
    for name, module in modules.items():
        dtypes = {tensor.dtype for tensor in parts[name].tensors.values()}
        module.to(torch.float64 if torch.float64 in dtypes else torch.float32)
        module.load_state_dict(parts[name].tensors)
        module.eval()
    return backbone, head, patches
