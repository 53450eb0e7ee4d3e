"""The paper's tables as data, each number with its table.

"The paper" is Govindarajan, Sidén, Roll and Lindsten, *DINO as a von Mises-Fisher mixture model*, ICLR 2023. The
numbers are its authors' claims, transcribed; nothing in this file was measured here. Accuracies are top-1 on ImageNet,
in per cent; a dash in the paper is `None`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

NORMALIZATIONS: tuple[str, ...] = ("none", "l2", "vmf")
"""Rows of Tables 1 and 8, by the names that `vmflearn.ssl.Prototypes` uses."""

CENTERINGS: tuple[str, ...] = ("logit", "probability")
"""Columns of Tables 1 and 8: the space in which the teacher is centred (Eq. 8 or Eq. 9)."""


@dataclass(frozen=True)
class Classification:
    """One row of Table 2: a pretrained backbone, judged on ImageNet.

    Attributes
    ----------
    backbone : str
        `"ViT-Base/16"` or `"ViT-Small/16"`.
    method : str
        How it was pretrained, as the paper spells it.
    knn : float
        kNN accuracy, per cent.
    linear_cls : float or None
        Linear classifier on the class token of the last block ([C] in the paper).
    linear_dino : float
        Linear classifier on DINO's choice of features ([D] in the paper).
    """

    backbone: str
    method: str
    knn: float
    linear_cls: float | None
    linear_dino: float


@dataclass(frozen=True)
class Utilization:
    """One row of Table 4, for one method: how many of the 65,536 prototypes differ.

    Two prototypes are duplicates when their cosine similarity is above 0.9.

    Attributes
    ----------
    backbone, method : str
        As in `Classification`.
    unique : int
        Prototypes left after duplicates are removed.
    largest_duplicate_set : int
        Size of the largest set of duplicates.
    """

    backbone: str
    method: str
    unique: int
    largest_duplicate_set: int


def _frozen(rows: Mapping[str, tuple[float, ...]]) -> Mapping[tuple[str, str], float]:
    """Read-only {(normalization, centering): accuracy} from rows as the paper prints them."""
    return MappingProxyType(
        {(n, c): value for n, values in rows.items() for c, value in zip(CENTERINGS, values, strict=True)}
    )


TABLE_1: Mapping[tuple[str, str], float] = _frozen(
    {"none": (70.18, 70.49), "l2": (69.51, 69.86), "vmf": (70.21, 70.87)}
)
"""Table 1: kNN accuracy of ViT-Small/16 after 100 epochs, average over two runs, by (normalization, centering).

Five of the six averages equal the mean of the two runs of Table 8 to the printed rounding. `("l2", "probability")`
does not: the runs are 70.18 and 70.17, their mean 70.175, and the paper prints 69.86. Which of the three numbers is
misprinted cannot be told from the paper; all are kept here as printed.
"""

TABLE_8: Mapping[int, Mapping[tuple[str, str], float]] = MappingProxyType(
    {
        0: _frozen({"none": (70.43, 70.74), "l2": (69.72, 70.18), "vmf": (70.51, 71.12)}),
        42: _frozen({"none": (69.93, 70.24), "l2": (69.30, 70.17), "vmf": (69.91, 70.62)}),
    }
)
"""Table 8: the two runs behind Table 1, {seed: {(normalization, centering): kNN accuracy}}."""

TABLE_2: tuple[Classification, ...] = (
    Classification("ViT-Base/16", "iBOT", 77.10, 79.33, 79.50),
    Classification("ViT-Base/16", "iBOT-vMF", 78.66, 80.20, 80.27),
    Classification("ViT-Base/16", "DINO", 76.11, 77.88, 78.17),
    Classification("ViT-Base/16", "DINO-vMF", 77.40, 78.67, 78.81),
    Classification("ViT-Base/16", "MSN", 73.33, 75.84, 74.80),
    Classification("ViT-Small/16", "DINO", 74.44, 76.09, 76.98),
    Classification("ViT-Small/16", "DINO-vMF", 74.74, 76.19, 76.97),
    Classification("ViT-Small/16", "MSN", 74.86, 76.20, 76.62),
    Classification("ViT-Small/16", "iBOT", 75.20, None, 77.90),
)
"""Table 2: ImageNet accuracy with the full data set. BEiT-v2, which has no kNN accuracy in the paper, is left out."""

TABLE_4: tuple[Utilization, ...] = (
    Utilization("ViT-Small/16", "DINO", 961, 2087),
    Utilization("ViT-Small/16", "DINO-vMF", 1122, 1226),
    Utilization("ViT-Base/16", "DINO", 775, 54877),
    Utilization("ViT-Base/16", "DINO-vMF", 928, 1208),
)
"""Table 4: prototype utilisation at a cosine similarity threshold of 0.9."""
