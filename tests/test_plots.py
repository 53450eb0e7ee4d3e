import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from vmflearn.plots import COLORS, INK, book_style, component_scores, image_grid
from vmflearn.sphere import VonMisesFisherMixture
from vmflearn.sphere.choosing import Choice


def luminance(color):
    """Relative luminance as the Web Content Accessibility Guidelines define it."""
    rgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("color", [*COLORS, INK])
@pytest.mark.parametrize("page", ["#ffffff", "#14181e"])
def test_colours_stand_out_on_light_and_dark_pages(color, page):
    low, high = sorted([luminance(color), luminance(page)])
    assert (high + 0.05) / (
        low + 0.05
    ) > 2.5  # 3 is the guideline for graphics; thick lines and markers forgive a little


def test_book_style_sets_the_cycle():
    with mpl.rc_context():
        book_style()
        assert [entry["color"] for entry in mpl.rcParams["axes.prop_cycle"]] == list(COLORS)


def test_image_grid_shows_each_image_and_hides_the_rest():
    figure, axes = plt.subplots(2, 2)
    pictures = np.linspace(0, 1, 3 * 48).reshape(3, 4, 4, 3)
    image_grid(axes, pictures, ["a", "b", "c"])
    shown = [[np.asarray(image.get_array()) for image in axis.get_images()] for axis in axes.ravel()]
    assert [len(images) for images in shown] == [1, 1, 1, 0]
    assert all(np.array_equal(images[0], picture) for images, picture in zip(shown, pictures, strict=False))
    assert not any(axis.axison for axis in axes.ravel())
    assert [axis.get_title() for axis in axes.ravel()] == ["a", "b", "c", ""]
    plt.close(figure)


@pytest.mark.parametrize("criterion", ["bic", "aic", "held-out"])
def test_component_scores_are_drawn_in_order_and_the_smallest_is_marked(criterion):
    figure, axis = plt.subplots()
    choice = Choice(criterion, [3, 1, 2], np.array([-5.0, 4.0, -6.0]), 2, VonMisesFisherMixture(2))
    component_scores(axis, choice)
    line, mark = axis.get_lines()
    assert line.get_xydata().tolist() == [[1, 4], [2, -6], [3, -5]]
    assert mark.get_xydata().tolist() == [[2, -6]]
    assert axis.get_ylabel()
    plt.close(figure)
