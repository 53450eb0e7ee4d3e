"""Household expenditures of forty people who live alone: a small, real set of directions.

What somebody spends in all says how rich they are; how they *share it out* is a direction. Dividing each row by its
length puts the forty people on the sphere, where a mixture of von Mises-Fisher components can look for groups.

Source: data set ``household`` of the R package HSAUR3 (T. Hothorn and B. S. Everitt, "A Handbook of Statistical
Analyses Using R", 3rd edition, Chapman & Hall/CRC 2014); expenditures in Hong Kong dollars of twenty single women and
twenty single men. K. Hornik and B. Grün ("movMF: An R Package for Fitting Mixtures of von Mises-Fisher Distributions",
Journal of Statistical Software 58(10), 2014) fit vMF mixtures to the columns housing, food and service, and publish
log-likelihoods and concentrations, which makes the table a known answer too.
"""

from typing import NamedTuple

import numpy as np

_FEATURE_NAMES = ("housing", "food", "service")

_FEMALE = (
    (820, 114, 154), (184, 74, 20), (921, 66, 455), (488, 80, 115), (721, 83, 104),
    (614, 55, 193), (801, 56, 214), (396, 59, 80), (864, 65, 352), (845, 64, 414),
    (404, 97, 47), (781, 47, 452), (457, 103, 108), (1029, 71, 189), (1047, 90, 298),
    (552, 91, 158), (718, 104, 304), (495, 114, 74), (382, 77, 147), (1090, 59, 177),
)  # fmt: skip

_MALE = (
    (497, 591, 291), (839, 942, 365), (798, 1308, 584), (892, 842, 395), (1585, 781, 1740),
    (755, 764, 438), (388, 655, 233), (617, 879, 719), (248, 438, 65), (1641, 440, 2063),
    (1180, 1243, 813), (619, 684, 204), (253, 422, 48), (661, 739, 188), (1981, 869, 1032),
    (1746, 746, 1594), (1865, 915, 1767), (238, 522, 75), (1199, 1095, 344), (1524, 964, 1410),
)  # fmt: skip


class Household(NamedTuple):
    """What `load_household` returns.

    Attributes
    ----------
    X : ndarray, (40, 3) float64
        Rows of unit length.
    gender : ndarray, (40,) int64
        0 = woman, 1 = man.
    feature_names : tuple of str
        Of the columns of X.
    """

    X: np.ndarray
    gender: np.ndarray
    feature_names: tuple[str, ...]


def load_household() -> Household:
    """Directions of household expenditure, from the R package HSAUR3 (data set ``household``).

    Returns
    -------
    Household
        A named tuple ``(X, gender, feature_names)``: ``X`` (40, 3) float64, the amounts for housing, food and service
        divided by the row's Euclidean length; ``gender`` (40,) int64, 0 for women (rows 0 to 19) and 1 for men;
        ``feature_names`` = ``("housing", "food", "service")``.

    Notes
    -----
    From "A Handbook of Statistical Analyses Using R" by T. Hothorn and B. S. Everitt, 3rd edition, Chapman & Hall/CRC
    2014.

    Examples
    --------
    >>> from vmflearn.data.household import load_household
    >>> X, gender, feature_names = load_household()
    >>> X.shape, gender.sum()
    ((40, 3), np.int64(20))
    """
    amounts = np.array(_FEMALE + _MALE, dtype=np.float64)
    directions = amounts / np.linalg.norm(amounts, axis=1, keepdims=True)
    gender = np.repeat(np.array([0, 1], dtype=np.int64), [len(_FEMALE), len(_MALE)])
    return Household(directions, gender, _FEATURE_NAMES)
