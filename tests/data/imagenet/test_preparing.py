"""Each layout in which ImageNet is given out ends as the same files, with labels that torchvision agrees with."""

import os
import tarfile

import pytest
import torchvision.datasets.imagenet as torchvisions

from vmflearn.data.imagenet import preparing
from vmflearn.data.imagenet.preparing import prepare
from vmflearn.data.shard_writing import write_shards
from vmflearn.data.shards import open_shards
from vmflearn.data.sources import open_images

LAYOUTS = ["archives", "kaggle", "kaggle_zip", "parquet"]


def contents(folder):
    """Files below a folder that are no program's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_ends_as_the_same_folders(small, layout, request, tmp_path):
    source = request.getfixturevalue(layout)
    prepare(source, tmp_path / "out", subset=True)
    found = contents(tmp_path / "out")
    head, *lines = found.pop("classes.tsv").decode().splitlines()
    assert head == "label\tsynset\tILSVRC2012_ID\twords"
    numbers = {s: small.IDS[s] if layout == "archives" else "" for s in small.SYNSETS}  # the others do not state them
    assert lines == [f"{i}\t{s}\t{numbers[s]}\t{small.WORDS[s]}" for i, s in enumerate(small.SYNSETS)]
    assert found == small.expected()
    assert open_images(tmp_path / "out" / "val").class_names == tuple(small.SYNSETS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_ends_as_shards_with_the_same_labels(small, layout, request, tmp_path):
    prepare(request.getfixturevalue(layout), tmp_path / "out", shard_size=3, subset=True)
    for part in ("train", "val"):
        source = open_shards(tmp_path / "out" / part)
        assert source.class_names == tuple(small.SYNSETS)
        found = {source.read(i).numpy().tobytes(): small.SYNSETS[int(source.labels[i])] for i in range(len(source))}
        prepare(request.getfixturevalue(layout), tmp_path / "folders", subset=True)
        folder = open_images(tmp_path / "folders" / part)
        assert found == {
            folder.read(i).numpy().tobytes(): small.SYNSETS[int(folder.labels[i])] for i in range(len(folder))
        }
        assert len(found) == len(folder)


@pytest.mark.parametrize("layout", ["archives", "kaggle", "kaggle_zip"])
def test_shards_are_those_of_the_folders_byte_for_byte(layout, request, tmp_path):
    source = request.getfixturevalue(layout)
    prepare(source, tmp_path / "out", subset=True)
    prepare(source, tmp_path / "shards", shard_size=5, subset=True)
    for part in ("train", "val"):
        write_shards(tmp_path / "out" / part, tmp_path / "again" / part, shard_size=5)
        assert contents(tmp_path / "again" / part) == contents(tmp_path / "shards" / part)


def test_labels_are_not_the_development_kits_numbers(small, archives, tmp_path, monkeypatch):
    """Validation image 2 is a kit fox, class 1 of the kit: the least number there, and not the first of the ids."""
    parts, _ = prepare(archives, tmp_path / "out", shard_size=10, subset=True)
    source = open_shards(tmp_path / "out" / "val")
    labels = {source.path(i).name[10:-5]: int(source.labels[i]) for i in range(len(source))}
    naive = {s: label for label, s in enumerate(sorted(small.IDS, key=small.IDS.__getitem__))}
    monkeypatch.setattr(torchvisions, "_verify_archive", lambda *_: None)  # the miniature has another checksum
    torchvisions.parse_devkit_archive(archives)
    _, synsets = torchvisions.load_meta_file(archives)
    assert synsets == small.VALIDATION
    for number, synset in enumerate(synsets, start=1):
        assert labels[f"ILSVRC2012_val_{number:08}"] == sorted(set(synsets)).index(synset)
    assert labels["ILSVRC2012_val_00000002"] == 1 != naive["n02119789"]
    assert parts[1].class_names == ("n02100735", "n02119789", "n03255030")
    lines = (tmp_path / "out" / "classes.tsv").read_text().splitlines()
    assert lines[2] == "1\tn02119789\t1\tkit fox, Vulpes macrotis"


def test_train_tars_that_lie_unpacked(small, archives, tmp_path):
    (archives / "ILSVRC2012_img_train.tar").unlink()
    (archives / "train").mkdir()
    for name, data in small.class_tars().items():
        (archives / "train" / name).write_bytes(data)
    prepare(archives, tmp_path / "out", subset=True)
    found = contents(tmp_path / "out")
    del found["classes.tsv"]
    assert found == small.expected()


def test_kaggles_inner_folder(small, kaggle, tmp_path):
    prepare(kaggle / "ILSVRC", tmp_path / "out", subset=True)
    found = contents(tmp_path / "out")
    del found["classes.tsv"]
    assert found == small.expected()


def test_kaggles_list_decides_where_validation_images_were_sorted(small, kaggle, tmp_path):
    """Scripts sort them into class folders; here all into one."""
    val = kaggle / "ILSVRC/Data/CLS-LOC/val"
    (val / small.SYNSETS[0]).mkdir()
    for name in small.val_images():
        (val / name).rename(val / small.SYNSETS[0] / name)
    prepare(kaggle, tmp_path / "out", subset=True)
    found = contents(tmp_path / "out")
    del found["classes.tsv"]
    assert found == small.expected()


def test_a_development_kit_that_is_unpacked(small, archives, tmp_path):
    with tarfile.open(archives / "ILSVRC2012_devkit_t12.tar.gz") as tar:
        tar.extractall(archives, filter="data")
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    prepare(archives, tmp_path / "out", subset=True)
    assert len(contents(tmp_path / "out" / "val")) == len(small.VALIDATION)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_after_a_stop_only_the_rest_is_written(small, layout, request, tmp_path, monkeypatch):
    source, out = request.getfixturevalue(layout), tmp_path / "out"
    write, written = preparing._write, []

    def stopped(part, index, temporary, final):
        if len(written) == 7:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(final)
        write(part, index, temporary, final)

    monkeypatch.setattr(preparing, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, subset=True)
    first = set(written)
    written[:] = [None] * 8  # never 7 again
    prepare(source, out, subset=True)
    assert not first & set(written)
    assert not (out / "train" / ".writing").exists()
    found = contents(out)
    del found["classes.tsv"]
    assert found == small.expected()


def test_a_file_of_another_size_is_written_again(small, archives, tmp_path):
    prepare(archives, tmp_path / "out", subset=True)
    name = f"train/{small.SYNSETS[0]}/{small.SYNSETS[0]}_10.JPEG"
    (tmp_path / "out" / name).write_bytes(b"cut")
    prepare(archives, tmp_path / "out", subset=True)
    assert (tmp_path / "out" / name).read_bytes() == small.expected()[name]


def test_files_of_an_unpacked_download_are_linked_and_copied_where_they_cannot_be(small, kaggle, tmp_path, monkeypatch):
    prepare(kaggle, tmp_path / "linked", subset=True)
    name = f"train/{small.SYNSETS[0]}/{small.SYNSETS[0]}_2.JPEG"
    original = kaggle / "ILSVRC/Data/CLS-LOC" / name
    assert os.path.samefile(tmp_path / "linked" / name, original)

    def other_disk(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    prepare(kaggle, tmp_path / "copied", subset=True)
    assert not os.path.samefile(tmp_path / "copied" / name, original)
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked")


def test_counts_are_checked(small, archives, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"train part has 12 images of 3 classes, not 1,281,167 of 1,000: .* by --subset"
    ):
        prepare(archives, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(preparing, "COUNTS", {"train": 12, "val": 5})
    monkeypatch.setattr(preparing, "N_CLASSES", 3)
    assert prepare(archives, tmp_path / "out")[1] == []
    images = small.train_images()
    images["n02119789"].popitem()
    short = {f"{synset}.tar": small.tar_bytes(files) for synset, files in images.items()}
    (archives / "ILSVRC2012_img_train.tar").write_bytes(small.tar_bytes(short))
    with pytest.raises(ValueError, match=r"11 images of 3 classes, not 12 of 3 \(n02119789 has 3 of 4\)"):
        prepare(archives, tmp_path / "short")
    _, notes = prepare(archives, tmp_path / "short", subset=True)
    assert len(notes) == 1
    assert notes[0].startswith("the train part has 11 images")


def test_a_part_alone_and_a_class_that_val_lacks(small, archives, tmp_path):
    """Labels of both parts are of all classes, so that they mean the same."""
    name = "ILSVRC2012_val_00000001.JPEG"
    (archives / "ILSVRC2012_img_val.tar").write_bytes(small.tar_bytes({name: small.val_images()[name]}))
    prepare(archives, tmp_path / "both", shard_size=10, subset=True)
    assert open_shards(tmp_path / "both" / "val").labels.tolist() == [2]
    (archives / "ILSVRC2012_img_val.tar").unlink()
    _, notes = prepare(archives, tmp_path / "train only", subset=True)
    assert notes[-1] == "there is no val part in the source, and none is made"
    assert not (tmp_path / "train only" / "val").exists()


def test_a_folder_that_holds_something_else_is_left_alone(archives, kaggle, tmp_path):
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="train is not empty and was not begun by this command"):
        prepare(archives, tmp_path / "out", subset=True)
    assert contents(tmp_path / "out") == {"train/mine.txt": b"mine"}
    prepare(archives, tmp_path / "again", subset=True)
    prepare(kaggle, tmp_path / "again", subset=True)  # the same files: nothing to do
    image = kaggle / "ILSVRC/Data/CLS-LOC/train/n02100735/n02100735_2.JPEG"
    whole = image.read_bytes()
    image.unlink()  # the file in the new folder is the same one
    image.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="train was begun with other files than these"):
        prepare(kaggle, tmp_path / "again", subset=True)
    image.write_bytes(whole)
    (kaggle / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG").unlink()
    with pytest.raises(ValueError, match="val was begun with other files than these"):
        prepare(kaggle, tmp_path / "again", subset=True)
