"""Folders as people have them: timm's order, links, hidden names, what is no file, and parts of a set side by side."""

import contextlib
import os
import random
import socket
import tempfile
from pathlib import Path

import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets

from vmflearn.data.sources import FILE_TYPES, open_images


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(source):
    return [source.path(i).relative_to(source.root).as_posix() for i in range(len(source))]


def test_files_and_classes_have_the_order_of_timms_reader(tmp_path):
    rng, words = random.Random(0), ["a", "B", "ß", "7", "10", "002", "x-", "_", " ", "é", "٣"]
    names = {"".join(rng.choices(words, k=3)).lower() for _ in range(40)}
    folders = sorted(names)[::3]
    rng.shuffle(folders)
    for folder in folders:
        touch(tmp_path, *(f"{folder}/{name}{rng.choice(FILE_TYPES)}" for name in sorted(names)[::2]))
    touch(tmp_path, "outer.9/inner 10/y.PNG", "outer.9/inner 9/y.jpeg", "outer.9/notes.txt")
    want, numbers = find_images_and_targets(str(tmp_path), types=FILE_TYPES)
    source = open_images(tmp_path)
    assert [(str(source.path(i)), int(source.labels[i])) for i in range(len(source))] == want
    assert {name: i for i, name in enumerate(source.class_names)} == numbers


@pytest.mark.parametrize("backwards", [False, True])
def test_names_that_differ_in_case_or_zeros_alone_have_one_order_on_every_disk(tmp_path, backwards):
    names = ["0001", "001", "01", "1", "Cat", "cat"]
    for name in reversed(names) if backwards else names:
        touch(tmp_path, f"{name}/B.png", f"{name}/b.png")
    source = open_images(tmp_path)
    assert source.class_names == tuple(names)
    assert listed(source) == [f"{name}/{file}" for name in names for file in ("B.png", "b.png")]


def test_a_superscript_is_a_letter(tmp_path):
    touch(tmp_path, "²/a.png", "10/a.png", "m²/³.png", "m10/²2.png")
    assert open_images(tmp_path).class_names == ("10", "m10", "m²", "²")


def test_names_with_a_dot_are_passed_over_and_counted(tmp_path):
    touch(tmp_path, "a/x.png", "a/._x.png", "b/._y.png", "b/y.png", ".ipynb_checkpoints/x-checkpoint.png")
    touch(tmp_path, "lost+found/z.png", ".DS_Store", "a/.txt")
    source = open_images(tmp_path)
    assert (source.class_names, listed(source)) == (("a", "b"), ["a/x.png", "b/y.png"])
    assert source.notes == ["skipped because the name begins with a dot: .ipynb_checkpoints and 2 more"]
    hidden = tmp_path / ".cache" / "set"
    touch(hidden, "a/x.png")
    assert len(open_images(hidden)) == 1  # what lies above the folder is the user's business


def test_endings_that_are_not_read_are_counted(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.gif", "b/3.GIF", "b/4.jfif", "b/5.txt")
    assert open_images(tmp_path).notes == [
        "skipped because files that end in .gif are not read (convert them, to .png say): a/2.gif and 1 more",
        "skipped because files that end in .jfif are not read (convert them, to .png say): b/4.jfif",
    ]
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no images in .*; skipped because files that end in \.gif"):
        open_images(tmp_path)


def test_what_is_no_file_is_passed_over(tmp_path):
    touch(tmp_path, "a/1.png", "b.png/2.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    (tmp_path / "a" / "3.png").symlink_to("2.png")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("a/4.png")
    source = open_images(tmp_path)
    assert listed(source) == ["a/1.png", "b.png/2.png"]
    assert source.notes == ["skipped because it is a pipe, a socket or a device and not a file: a/2.png and 2 more"]
    os.unlink(tmp_path / "b.png" / "2.png")
    os.unlink(tmp_path / "a" / "1.png")
    with pytest.raises(FileNotFoundError, match="no images in"):
        open_images(tmp_path)


def test_a_folder_with_no_more_than_a_folder_called_like_an_image(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in"):
        open_images(tmp_path)


def test_classes_may_be_links(tmp_path):
    touch(tmp_path / "there", "cats/1.png", "dogs/2.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "feline").symlink_to(tmp_path / "there" / "cats")
    (tmp_path / "here" / "canine").symlink_to("../there/dogs")
    (tmp_path / "here" / "gone").symlink_to("../there/gone")
    source = open_images(tmp_path / "here")
    assert source.class_names == ("canine", "feline")
    assert listed(source) == ["canine/2.png", "feline/1.png"]
    assert source.notes == ["skipped because the link leads nowhere: gone"]
    (tmp_path / "root").symlink_to("here")
    assert open_images(tmp_path / "root").class_names == ("canine", "feline")


def test_links_that_loop_lead_to_no_image_twice(tmp_path):
    root = tmp_path / "images"
    touch(root, *(f"{c}/{i}.png" for c in "abc" for i in range(3)))
    touch(tmp_path, "elsewhere/e/1.png")
    for at, to in (("a/self", "."), ("b/up", ".."), ("above", "../.."), ("c/d", "../a"), ("out", "../elsewhere")):
        (root / at).symlink_to(to)
    (tmp_path / "elsewhere" / "back").symlink_to(root / "b")
    source = open_images(root)
    assert listed(source) == [f"{c}/{i}.png" for c in "abc" for i in range(3)] + ["out/e/1.png"]
    assert source.notes == ["skipped because the link leads to a folder that is read already: a/self and 4 more"]


def test_a_link_whose_file_is_gone_is_found_when_it_is_read(tmp_path):
    touch(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to("nowhere.png")
    assert listed(open_images(tmp_path)) == ["1.png", "2.png"]


def test_a_folder_that_this_user_may_not_read_is_refused():
    with tempfile.TemporaryDirectory() as place:  # not tmp_path, which another user may not enter
        root, me = Path(place), os.geteuid()
        touch(root, "a/1.png", "b/2.png")
        root.chmod(0o755)
        (root / "b").chmod(0)
        try:
            if me == 0:
                os.seteuid(65534)
            with pytest.raises(
                PermissionError, match=r"/b/? cannot be read \(Permission denied\); its images would be"
            ):
                open_images(root)
        finally:
            os.seteuid(me)
            (root / "b").chmod(0o700)


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("train/n1/a.JPEG", "val/n1/b.JPEG"), "train, {}/val"),
        (("Data/CLS-LOC/train/n1/a.JPEG", "Data/CLS-LOC/val/b.JPEG", "Data/CLS-LOC/test/c.JPEG"), "Data/CLS-LOC/train"),
        (("Training/a/1.png", "Validation/a/2.png"), "Training, {}/Validation"),
        (("TRAIN/a/1.png", "TEST/a/2.png"), "TRAIN, {}/TEST"),
        (("val/a/1.png", "test/a/2.png"), "test, {}/val"),
        (("train/a/1.png", "valid/a/2.png"), "train, {}/valid"),
        (("train2017/1.jpg", "val2017/2.jpg"), "train2017, {}/val2017"),
        (("imagenet_train/a/1.jpg", "imagenet_val/a/2.jpg"), "imagenet_train, {}/imagenet_val"),
    ],
)
def test_parts_of_a_set_beside_each_other_are_refused(tmp_path, names, given):
    touch(tmp_path, *names)
    wanted = f"parts of one data set, .*; give one of them: {tmp_path}/{given.format(tmp_path)}"
    with pytest.raises(ValueError, match=wanted):
        open_images(tmp_path)
    assert len(open_images((tmp_path / names[0]).parent)) == 1


def test_a_train_is_a_class_too(tmp_path):
    touch(tmp_path, "train/1.png", "bus/2.png", "test_tube/3.png", "valley/4.png", "val/notes.txt")
    assert open_images(tmp_path).class_names == ("bus", "test_tube", "train", "valley")


def test_folders_that_are_no_class_of_their_own_are_said_to_be_so(tmp_path):
    touch(tmp_path, "n1/images/a.png", "n2/images/b.png", "n3/images/c.png")
    (note,) = open_images(tmp_path).notes
    assert note.startswith(
        "the class images is made of 3 folders, n1/images and n2/images among them: of nested folders"
    )
    touch(tmp_path, "stray.png", "stray_2.png")
    source = open_images(tmp_path)
    assert source.class_names == ()
    assert source.notes == ["no image has a class, because stray.png and 1 more lie in no class folder"]


def test_tar_files_are_no_images_and_the_way_out_is_told(tmp_path):
    touch(tmp_path, "n01440764.tar", "._n01440764.tar")
    with pytest.raises(
        FileNotFoundError, match=r"n01440764\.tar is an archive: unpack each .* \(scripts/prepare_imagenet\.py "
    ):
        open_images(tmp_path)
