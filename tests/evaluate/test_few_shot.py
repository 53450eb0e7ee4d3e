import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from vmflearn.data.photo_source import PhotoImages
from vmflearn.data.sources import open_images
from vmflearn.evaluate.few_shot import draw_per_class, few_shot_hits, prepare, rows_named, strength_of
from vmflearn.evaluate.transfer import cross_validation, transfer, validation_part


def clouds(n, seed, classes=4, d=6):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % classes
    return centres[y] + torch.randn(n, d, generator=generator) + 0.5, y


@pytest.mark.parametrize(("reading", "penalty"), [("msn", 0.075), ("msn", 0.0025), ("dino", 0.01)])
def test_it_is_the_published_objective_in_scikit_learn(reading, penalty):
    (x, y), (x_test, y_test) = clouds(40, 0), clouds(60, 1)

    def rows(features):
        values = features.double().numpy()
        values = values - values.mean(axis=1, keepdims=True) if reading == "msn" else values
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    strength = 1 / penalty if reading == "msn" else 1 / (penalty * 40)
    theirs = LogisticRegression(C=strength, fit_intercept=False, solver="newton-cg", tol=1e-8).fit(rows(x), y.numpy())
    hits = few_shot_hits(x, y, x_test, y_test, penalty=penalty, reading=reading)
    assert hits.tolist() == (theirs.predict(rows(x_test)) == y_test.numpy()).tolist()
    np.testing.assert_allclose(prepare(x, reading), rows(x), atol=1e-12)
    assert strength_of(penalty, 40, reading) == pytest.approx(strength)
    assert 0.4 < hits.double().mean() < 1


def test_drawn_images_are_so_many_of_each_class():
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0, 1])
    rows = draw_per_class(labels, 2, seed=0)
    assert torch.bincount(labels[rows]).tolist() == [2, 2, 2]
    assert len(set(rows.tolist())) == 6
    assert any(draw_per_class(labels, 2, seed=s).tolist() != rows.tolist() for s in (1, 2))
    with pytest.raises(ValueError, match="4 images of each class were asked for, and class 0 has 3"):
        draw_per_class(labels, 4, seed=0)
    with pytest.raises(ValueError, match="1 image or more"):
        draw_per_class(labels, 0, seed=0)
    assert draw_per_class(labels, 2, seed=0, n_classes=3).tolist() == rows.tolist()
    with pytest.raises(ValueError, match="2 images of each class were asked for, and class 3 has 0"):
        draw_per_class(labels, 2, seed=0, n_classes=4)


def test_a_published_list_gives_the_rows_it_names(tmp_path):
    source = PhotoImages("test")
    (tmp_path / "list.txt").write_text("7\n400\n\n3\n")
    assert rows_named(source, tmp_path / "list.txt").tolist() == [3, 7, 400]
    (tmp_path / "list.txt").write_text("7\nn01440764_10026.JPEG\n")
    with pytest.raises(ValueError, match="names 1 images that are not there, n01440764_10026"):
        rows_named(source, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no image"):
        rows_named(source, tmp_path / "list.txt")


def test_a_list_of_another_editor_is_read_and_what_is_no_text_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf7\r\n400\r\n")
    assert rows_named(PhotoImages("test"), tmp_path / "list.txt").tolist() == [7, 400]
    (tmp_path / "list.txt").write_bytes(b"7\n\x80")
    with pytest.raises(ValueError, match=r"list\.txt is no text: it must name images, one a line"):
        rows_named(PhotoImages("test"), tmp_path / "list.txt")


def test_a_name_that_several_images_have_is_none(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name)
    source = open_images(tmp_path / "train")
    (tmp_path / "list.txt").write_text("2.png\n")
    assert rows_named(source, tmp_path / "list.txt").tolist() == [2]
    (tmp_path / "list.txt").write_text("2.png\n1.png\n")
    with pytest.raises(ValueError, match=r"names 1\.png, and 2 images have that name: it cannot tell which"):
        rows_named(source, tmp_path / "list.txt")


def test_few_shot_refuses():
    (x, y), (x_test, y_test) = clouds(8, 0), clouds(4, 1)
    with pytest.raises(ValueError, match="lambda must be positive, got 0"):
        few_shot_hits(x, y, x_test, y_test, penalty=0)
    with pytest.raises(ValueError, match="test_labels must be 0 or more"):
        few_shot_hits(x, y, x_test, y_test - 1, penalty=1)
    with pytest.raises(ValueError, match="reading must be one of msn, dino, got 'other'"):
        few_shot_hits(x, y, x_test, y_test, penalty=1, reading="other")


def test_transfer_chooses_as_a_loop_over_scikit_learn_does():
    (x, y), (x_test, _) = clouds(60, 2), clouds(50, 3)
    folds, penalties = cross_validation(y, 5, seed=1), [1e-2, 1.0, 30.0]
    result = transfer(x.double(), y, x_test.double(), folds=folds, penalties=penalties)

    def fit(rows, penalty):
        solver = LogisticRegression(C=1 / penalty, solver="newton-cg", tol=1e-8, max_iter=1000)
        return solver.fit(x[rows].double().numpy(), y[rows].numpy())

    want = {
        p: np.mean([fit(kept, p).score(x[~kept].double().numpy(), y[~kept].numpy()) for kept in folds])
        for p in penalties
    }
    assert result.validation == pytest.approx(want, abs=1e-15)
    assert result.penalty == max(want, key=lambda p: (want[p], p))
    assert (
        result.predicted.tolist()
        == fit(torch.ones(60, dtype=torch.bool), result.penalty).predict(x_test.double().numpy()).tolist()
    )


def test_of_equally_good_penalties_the_strongest_is_taken():
    x = torch.cat([torch.full((10, 1), -1.0), torch.full((10, 1), 1.0)])  # no penalty tells these apart wrongly
    y = (torch.arange(20) >= 10).long()
    result = transfer(x, y, x, folds=cross_validation(y, 2), penalties=[0.01, 10.0, 0.1])
    assert result.validation == {10.0: 1.0, 0.1: 1.0, 0.01: 1.0}
    assert result.penalty == 10.0


def test_accuracies_that_rounding_tells_apart_are_equally_good():
    """The same five accuracies of folds, added in another order: 0.7999999999999999 at a penalty of 10, 0.8 at 3."""
    x, y = torch.randn(15, 3, generator=torch.Generator().manual_seed(38)).double(), torch.arange(15) % 2
    result = transfer(x, y, x, folds=cross_validation(y, 5, seed=38), penalties=[100.0, 10.0, 3.0, 1.0, 0.01])
    found = result.validation
    assert found[100.0] < found[10.0] < found[3.0] < found[10.0] + 1e-15
    assert result.penalty == 10.0


def test_folds_and_parts_are_drawn_by_their_seed():
    labels = torch.arange(60) // 20  # in the order of their classes, as folders give them
    assert not torch.equal(cross_validation(labels, 5, seed=0), cross_validation(labels, 5, seed=1))
    parts = [validation_part(60, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])
    assert (torch.bincount(labels[~parts[0]], minlength=3) > 0).all(), "not one class after the other"


def test_folds_hold_each_image_back_once():
    labels = torch.tensor([0] * 7 + [1] * 12 + [2] * 3)
    folds = cross_validation(labels, 4)
    assert (~folds).sum(dim=0).tolist() == [1] * 22
    assert {int((~fold & (labels == 1)).sum()) for fold in folds} == {3}
    part = validation_part(50)
    assert part.shape == (1, 50)
    assert int((~part).sum()) == 10
    with pytest.raises(ValueError, match="n_folds must be 2 to the number of images, 22, got 23"):
        cross_validation(labels, 23)
    with pytest.raises(ValueError, match="a fold has no images to validate on"):
        transfer(torch.zeros(4, 2), torch.arange(4) % 2, torch.zeros(1, 2), folds=torch.ones(1, 4, dtype=torch.bool))
