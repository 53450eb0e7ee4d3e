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
    """One row of Table 2 or 11: a pretrained backbone, judged on ImageNet.

    Attributes
    ----------
    backbone : str
        `"ViT-Base/16"`, `"ViT-Small/16"` or `"ViT-Small/8"`.
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

TABLE_11: tuple[Classification, ...] = (
    Classification("ViT-Small/8", "DINO", 69.98, 72.75, 74.24),
    Classification("ViT-Small/8", "DINO-vMF", 70.41, 72.91, 74.14),
)
"""Table 11: ImageNet accuracy of ViT-Small/8 after 40 epochs."""

_B, _S = "ViT-Base/16", "ViT-Small/16"


def _by_method(
    columns: tuple[str, ...], rows: Mapping[tuple[str, str], tuple[float, ...]]
) -> Mapping[tuple[str, str], Mapping[str, float]]:
    """Read-only {(backbone, method): {column: value}}."""
    return MappingProxyType(
        {key: MappingProxyType(dict(zip(columns, values, strict=True))) for key, values in rows.items()}
    )


TABLE_3 = _by_method(
    ("1 img/cls", "2 imgs/cls", "5 imgs/cls", "1% imgs"),
    {
        (_B, "DINO"): (41.8, 51.9, 61.4, 67.2),
        (_B, "MSN"): (49.8, 58.9, 65.5, 69.1),
        (_B, "DINO-vMF"): (50.3, 59.3, 66.1, 70.4),
        (_B, "iBOT"): (46.0, 56.0, 64.7, 69.9),
        (_B, "iBOT-vMF"): (51.6, 61.1, 68.3, 72.3),
        (_S, "DINO"): (38.9, 48.9, 58.5, 64.5),
        (_S, "MSN"): (47.1, 55.8, 62.8, 67.2),
        (_S, "DINO-vMF"): (39.2, 49.4, 59.1, 65.0),
    },
)
"""Table 3: ImageNet accuracy with few labels, as MSN evaluates it; the first three are means over three splits."""

TABLE_5 = _by_method(
    ("Acft.", "Cal101", "C10", "C100", "DTD", "Flwrs.", "Food", "Pets", "SUN", "Avg."),
    {
        (_B, "DINO"): (57.7, 94.5, 96.9, 86.3, 74.8, 96.0, 81.6, 93.9, 68.5, 83.4),
        (_B, "DINO-vMF"): (57.3, 94.5, 97.1, 86.3, 74.8, 95.7, 82.5, 94.6, 68.7, 83.5),
        (_B, "iBOT"): (55.9, 94.7, 97.6, 87.4, 74.4, 95.4, 82.7, 93.8, 69.4, 83.5),
        (_B, "iBOT-vMF"): (58.1, 95.5, 98.0, 88.0, 74.7, 94.8, 83.6, 93.9, 70.2, 84.1),
        (_B, "MSN"): (51.0, 92.8, 96.9, 85.3, 73.7, 92.8, 80.0, 93.9, 66.8, 81.5),
        (_S, "DINO"): (53.8, 93.1, 96.2, 83.5, 74.7, 94.7, 79.7, 93.8, 66.8, 81.8),
        (_S, "DINO-vMF"): (56.0, 93.7, 96.0, 83.9, 74.1, 95.0, 80.1, 93.9, 66.6, 82.1),
        (_S, "MSN"): (51.6, 93.1, 95.9, 82.9, 72.0, 93.3, 77.8, 92.8, 65.5, 80.5),
    },
)
"""Table 5: linear classification after transfer to other data, per cent; the last column is the average as printed."""

TABLE_6 = _by_method(
    ("RPar M", "RPar H", "ROx M", "ROx H"),
    {
        (_B, "DINO"): (63.7, 35.8, 34.3, 10.8),
        (_B, "DINO-vMF"): (66.7, 39.5, 37.3, 12.5),
        (_B, "iBOT"): (64.1, 36.6, 35.2, 13.4),
        (_B, "iBOT-vMF"): (65.4, 38.1, 38.1, 13.8),
        (_B, "MSN"): (56.3, 29.3, 31.8, 11.8),
        (_S, "DINO"): (63.1, 34.5, 34.6, 13.0),
        (_S, "DINO-vMF"): (62.1, 33.4, 34.5, 12.6),
        (_S, "MSN"): (61.5, 33.3, 36.6, 15.1),
    },
)
"""Table 6: image retrieval, mean average precision on Paris and Oxford, medium and hard."""

TABLE_7 = _by_method(
    ("J&F", "J", "F"),
    {
        (_B, "DINO"): (62.4, 60.8, 64.0),
        (_B, "DINO-vMF"): (63.4, 61.6, 65.2),
        (_B, "iBOT"): (62.7, 61.8, 63.7),
        (_B, "iBOT-vMF"): (63.1, 61.9, 64.2),
        (_B, "MSN"): (58.0, 56.1, 60.0),
        (_S, "DINO"): (61.8, 60.2, 63.4),
        (_S, "DINO-vMF"): (62.7, 60.9, 64.5),
        (_S, "MSN"): (59.6, 57.6, 61.6),
    },
)
"""Table 7: video object segmentation on DAVIS-2017, means of region and boundary quality and of both."""
