"""Figures used in more than one chapter, and the style that all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from vmflearn.sphere.choosing import Choice

COLORS = ("#1f6fb4", "#e08214", "#4d9e5f", "#c24b6e", "#7f7fd0", "#8a8a8a")
"""Six hues of rising then falling lightness: told apart in grey, and readable on a light and on a dark page."""

INK = "#808080"
"""Axes and labels: a mid grey that is legible on white and on near-black alike."""


def book_style() -> None:
    """Set matplotlib's defaults for the book: small, transparent, no frame that carries no information."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.0, 3.4),
            "figure.dpi": 100,
            "figure.facecolor": "none",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "none",
            "axes.facecolor": "none",
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": "medium",
            "axes.prop_cycle": cycler(color=COLORS) + cycler(linestyle=["-", "--", "-.", ":", "-", "--"]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": INK,
            "ytick.color": INK,
            "text.color": INK,
            "grid.color": INK,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "legend.labelcolor": INK,
            "lines.linewidth": 2.0,
            "font.size": 10.0,
        }
    )


def image_grid(axes: ArrayLike, images: ArrayLike, titles: list[str] | None = None) -> None:
    """Show one image an axis, without ticks.

    Parameters
    ----------
    axes : array of matplotlib axes
        As ``plt.subplots`` returns them; taken row by row.
    images : array (n, height, width, 3) or (n, height, width)
        Values in [0, 1] or bytes; two-dimensional images are shown in a perceptually uniform map.
    titles : list of str, optional
        One a picture.
    """
    flat: list[Axes] = list(np.asarray(axes, dtype=object).ravel())
    for i, axis in enumerate(flat):
        axis.set_axis_off()
        if i < len(images):  # type: ignore[arg-type]
            axis.imshow(np.asarray(images)[i], cmap="viridis", interpolation="nearest")
            if titles is not None:
                axis.set_title(titles[i], fontsize=8)


def component_scores(axis: Axes, choice: Choice) -> None:
    """Draw the scores of numbers of components, and mark the smallest.

    Parameters
    ----------
    axis : matplotlib axis
        Drawn on; its labels are set.
    choice : vmflearn.sphere.choosing.Choice
        As `vmflearn.sphere.choose_components` returns it.
    """
    order = np.argsort(choice.n_components)
    axis.plot(np.array(choice.n_components)[order], choice.scores[order], color=COLORS[0], marker="o", linestyle="-")
    axis.plot(choice.best, choice.scores.min(), color=COLORS[1], marker="o", markersize=10, linestyle="none")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = {"bic": "BIC", "aic": "AIC", "held-out": "loss of a row left out, nats"}
    axis.set(xlabel="number of components", ylabel=names[choice.criterion])
