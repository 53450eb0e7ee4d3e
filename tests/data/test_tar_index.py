"""Pairs of images and classes in tar files of others; the tar program itself makes the links."""

import io
import subprocess
import tarfile

import pytest
from PIL import Image

from vmflearn.data.shards import open_shards

_BUFFER = io.BytesIO()
Image.new("RGB", (2, 2), "red").save(_BUFFER, "PNG")
PNG = _BUFFER.getvalue()


def pack(path, *members):
    """A tar file; members are names, or names and contents. An image is a picture unless it is given."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            name, data = member if isinstance(member, tuple) else (member, PNG)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def opened(root, *members):
    """Names, classes and notes of a set of one shard."""
    pack(root / "a.tar", *members)
    source = open_shards(root)
    names = [source.path(i).relative_to(root / "a.tar").as_posix() for i in range(len(source))]
    classes = [source.class_names[label] if label >= 0 else None for label in source.labels.tolist()]
    return names, classes, source.notes


def test_a_key_ends_at_the_last_dot(tmp_path):
    members = ["img_v1.0_001.jpg", ("img_v1.0_001.cls", b"1"), "img_v1.0_002.jpg", ("img_v1.0_002.cls", b"0")]
    assert opened(tmp_path, *members) == (members[::2], ["1", "0"], [])


def test_a_further_picture_of_a_key_is_no_image(tmp_path):
    members = ["000001.jpg", ("000001.cls", b"0"), "000001.seg.png", "2.seg.png", "2.jpg", ("2.cls", b"1")]
    names, classes, notes = opened(tmp_path, *members)
    assert (names, classes) == (["000001.jpg", "2.jpg"], ["0", "1"])
    reason = "its key has a picture of a shorter name (KEY.seg.png beside KEY.jpg)"
    assert notes == [f"skipped because {reason}: 000001.seg.png and 1 more"]


def test_a_picture_is_no_further_one_of_another_folder(tmp_path):
    members = [
        "7.jpg",
        ("7.cls", b"0"),
        "cats/7.left.jpg",
        ("cats/7.cls", b"1"),
        "dogs/7.right.jpg",
        ("dogs/7.cls", b"2"),
    ]
    assert opened(tmp_path, *members) == (members[::2], ["0", "1", "2"], [])


def test_a_further_picture_with_a_class_of_its_own_is_an_image(tmp_path):
    members = ["v1.jpg", ("v1.cls", b"0"), "v1.0.jpg", ("v1.0.cls", b"1")]
    assert opened(tmp_path, *members) == (["v1.jpg", "v1.0.jpg"], ["0", "1"], [])


def test_the_only_picture_of_a_key_may_have_a_longer_name(tmp_path):
    assert opened(tmp_path, "a.b.view.png", ("a.b.cls", b"0"))[:2] == (["a.b.view.png"], ["0"])


def test_a_class_in_capitals_counts(tmp_path):
    assert opened(tmp_path, "A.JPG", ("A.CLS", b"1"), ("b.Cls", b"0\n"), "b.png") == (
        ["A.JPG", "b.png"],
        ["1", "0"],
        [],
    )


def test_keys_have_their_folder(tmp_path):
    """A class is that of the image beside it: the same number in another folder is another key."""
    members = ["cats/0001.jpg", ("cats/0001.cls", b"0"), ("dogs/0001.cls", b"1"), "./dogs/0001.jpg"]
    assert opened(tmp_path, *members)[1:] == (["0", "1"], [])
    assert opened_again(tmp_path, "v.1/7.jpg", ("v.1/7.cls", b"0"), "v/7.jpg", ("v/7.cls", b"1"))[1:] == (
        ["0", "1"],
        [],
    )


def opened_again(root, *members):
    for path in root.iterdir():
        path.unlink()
    return opened(root, *members)


def test_hidden_members_are_passed_over(tmp_path):
    members = ["._x.jpg", "x.jpg", ("x.cls", b"0"), ".ipynb_checkpoints/x.jpg", "y.jpg", ("y.cls", b"1"), "._x.cls"]
    names, classes, notes = opened(tmp_path, *members)
    assert (names, classes) == (["x.jpg", "y.jpg"], ["0", "1"])
    assert notes == ["skipped because the name begins with a dot: ._x.cls and 2 more"]


def test_every_loss_is_counted(tmp_path):
    members = ["x.jpg", ("x.cls", b"0"), "l.jpg", "m.jpg", ("n.cls", b"3"), "o.gif"]
    names, classes, notes = opened(tmp_path, *members)
    assert (names, classes) == (["x.jpg", "l.jpg", "m.jpg"], [None] * 3)
    assert notes == [
        "no image has a class, because 2 of 3 images, a.tar/l.jpg among them, have no KEY.cls",
        "skipped because a class has no image in its shard: n.cls",
        "skipped because files that end in .gif are not read (convert them, to .png say): o.gif",
    ]
    assert open_shards(tmp_path).notes == notes  # of the index, too


@pytest.mark.parametrize(
    "members", [("k.jpg", "k.png"), ("k.jpg", "j.jpg", "k.jpg"), ("k.a.png", "k.b.png", ("k.cls", b"0"))]
)
def test_a_key_with_two_images_is_refused(tmp_path, members):
    with pytest.raises(ValueError, match=r"a\.tar has two members k\.\S+ and k\.\S+, and a key has one image: which"):
        opened(tmp_path, *members)


def test_a_key_with_two_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"two members k\.cls and k\.CLS, and a key has one class"):
        opened(tmp_path, "k.jpg", ("k.cls", b"0"), ("k.CLS", b"1"))


def test_great_class_numbers_make_no_great_manifest(tmp_path):
    number = 3_000_000  # enough to be seen, were a name made for each number
    members = ["a.jpg", ("a.cls", str(number).encode()), "b.jpg", ("b.cls", b"7"), "c.jpg", ("c.cls", b"7")]
    _, classes, notes = opened(tmp_path, *members)
    assert classes == [str(number), "7", "7"]
    assert open_shards(tmp_path).labels.tolist() == [1, 0, 0]
    assert notes == [f"class numbers go up to {number:,} with gaps; the 2 that occur are the classes, in their order"]
    assert (tmp_path / "manifest.json").stat().st_size < 1000


@pytest.mark.parametrize("text", [b"1" + b"0" * 30, b"9" * 5000])
def test_numbers_that_fit_no_index_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"a\.tar/a\.cls must hold a class as a number of at most 18 digits, not b'"):
        opened(tmp_path, "a.jpg", ("a.cls", text))


def test_links_in_a_tar_file_are_read(tmp_path):
    """As GNU tar stores files with several names."""
    (tmp_path / "set" / "b").mkdir(parents=True)
    for name, data in (("a.png", PNG), ("a.cls", b"0"), ("c.cls", b"1"), ("b/d.cls", b"2")):
        (tmp_path / "set" / name).write_bytes(data)
    (tmp_path / "set" / "c.png").hardlink_to(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "b" / "d.png").symlink_to("../c.png")
    (tmp_path / "set" / "e.png").symlink_to("nowhere.png")
    (tmp_path / "set" / "f.png").symlink_to("f.png")
    names = ["./a.png", "./a.cls", "./c.png", "./c.cls", "./b/d.png", "./b/d.cls", "./e.png", "./f.png"]
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", tmp_path / "set", *names], check=True)
    source = open_shards(tmp_path)
    assert source.labels.tolist() == [0, 1, 2]
    assert source.notes == ["skipped because it is no file, or a link to none in its tar file: e.png and 1 more"]
    for i in range(3):
        assert source.read(i)[:, 0, 0].tolist() == [255, 0, 0]


def test_a_file_stored_with_holes_is_not_misread(tmp_path):
    with (tmp_path / "x.bmp").open("wb") as file:
        file.write(PNG)
        file.truncate(2**20)
    (tmp_path / "y.png").write_bytes(PNG)
    subprocess.run(["tar", "-cSf", tmp_path / "a.tar", "-C", tmp_path, "x.bmp", "y.png"], check=True)
    source = open_shards(tmp_path)
    assert len(source) == 1
    assert source.notes == ["skipped because it is stored with holes (tar --sparse), which are not read: x.bmp"]


@pytest.mark.parametrize("damage", ["cut", "header", "joined"])
def test_an_end_before_the_end_is_noticed(tmp_path, damage):
    """A tar file ends for Python wherever a header cannot be read, without a word."""
    path = pack(tmp_path / "a.tar", "a.png", "b.png", "c.png")
    data, block = path.read_bytes(), 512 + 512 * -(-len(PNG) // 512)
    if damage == "cut":
        path.write_bytes(data[: 2 * block])
    elif damage == "header":
        path.write_bytes(data[: 2 * block + 150] + b"xxxx" + data[2 * block + 154 :])
    else:
        path.write_bytes(data + data)
    source = open_shards(tmp_path)
    words = {
        "cut": "has no end mark",
        "header": f"is damaged at byte {2 * block:,}",
        "joined": "holds more after its end",
    }
    assert len(source) == (3 if damage == "joined" else 2)
    assert words[damage] in source.notes[0]
