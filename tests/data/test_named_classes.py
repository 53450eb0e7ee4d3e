"""Classes of named data sets, from what timm's readers and torchvision's sets say of themselves."""

from types import SimpleNamespace

import pytest

from vmflearn.data.named import _classes


def test_a_reader_names_classes_by_their_numbers():
    """A set of the Hugging Face hub has such a reader; names come in the order of the numbers, not of the alphabet."""
    reader = SimpleNamespace(class_to_idx={"ant": 2, "bee": 0, "cat": 1}, iter_targets=lambda: iter([2, 2, 0]))
    names, labels = _classes("torch/some", SimpleNamespace(), reader)
    assert names == ["bee", "cat", "ant"]
    assert labels == [2, 2, 0]


def test_synonyms_are_one_class_and_names_may_be_missing():
    names, labels = _classes(
        "torch/some", SimpleNamespace(targets=[1, 0], classes=[("tench", "Tinca"), ("goldfish",)]), None
    )
    assert (names, labels) == (["tench", "goldfish"], [1, 0])
    assert list(_classes("torch/some", SimpleNamespace(_labels=[0, 3]), None)[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (SimpleNamespace(targets=[[0, 1], [1, 1]]), r"labels of shape \(2, 2\), not one class an image"),
        (SimpleNamespace(), "does not list the classes of its images"),
    ],
)
def test_sets_without_one_class_an_image_are_refused(dataset, words):
    with pytest.raises(ValueError, match=words):
        _classes("torch/some", dataset, None)
