"""The sets that have no published parts, in their published folders made small, and which accuracy is published."""

import pytest
import torch
from PIL import Image

from vmflearn.data.small_sets import PER_CLASS, SETS, open_small_set


def write(folder, name, n):
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (1, 1), (i, 0, 0)).save(folder / name.format(i))


@pytest.fixture
def root(tmp_path):
    """Two classes of Caltech101 (36 and 33 images) and of SUN397 (110 and 104)."""
    for word, n in (("accordion", 36), ("yin_yang", 33), ("BACKGROUND_Google", 2)):
        write(tmp_path / "caltech101" / "101_ObjectCategories" / word, "image_{:04d}.jpg", n)
        # torchvision looks for the file's number, counted from 1
        for path in sorted((tmp_path / "caltech101" / "101_ObjectCategories" / word).iterdir(), reverse=True):
            number = int(path.stem.removeprefix("image_"))
            path.rename(path.with_name(f"image_{number + 1:04d}.jpg"))
    for word, n in (("abbey", 110), ("zoo", 104)):
        write(tmp_path / "SUN397" / word[0] / word, "sun_{:04d}.jpg", n)
    (tmp_path / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/z/zoo\n")
    return tmp_path


def pixels(source):
    """Which image of its class each is, with its label."""
    return [(int(label), int(source.pixels(i)[0][0, 0, 0])) for i, label in enumerate(source.labels.tolist())]


@pytest.mark.parametrize(("name", "train", "test"), [("caltech101", [30, 30], [6, 3]), ("sun397", [50, 50], [50, 50])])
def test_drawn_parts_share_no_image_and_depend_on_the_seed(root, name, train, test):
    found = open_small_set(name, root, seed=0)
    assert torch.bincount(found.train.labels).tolist() == train
    assert torch.bincount(found.test.labels).tolist() == test
    assert found.validation is None
    rows = [{(int(y), str(s.path(i))) for i, y in enumerate(s.labels)} for s in (found.train, found.test)]
    assert len(rows[0]) == sum(train)
    assert len(rows[1]) == sum(test)
    assert not rows[0] & rows[1]
    again, other = open_small_set(name, root, seed=0), open_small_set(name, root, seed=1)
    assert pixels(again.train) == pixels(found.train) != pixels(other.train)
    assert again.train.names_digest() == found.train.names_digest()
    digests = {part.names_digest() for each in (found, other) for part in (each.train, each.test)}
    assert len(digests) == 4, "features of one part or seed would be taken for another's"


def test_labels_are_those_of_the_images(root):
    """Through the drawing: what is read is of the class that is said."""
    found = open_small_set("sun397", root)
    for source in (found.train, found.test):
        for i in range(0, len(source), 7):
            assert int(source.labels[i]) == source._source.labels[int(str(source.path(i)).rpartition("/")[2])]


def test_accuracies_are_published_as_means_of_classes_for_four_of_them():
    """Kornblith et al. (2019), Table 1: mean per class for these, images for the others."""
    assert set(PER_CLASS) == {"aircraft", "caltech101", "flowers", "pets"} < set(SETS)
