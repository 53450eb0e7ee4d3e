"""Shards made here, and shards as others make them, read in any order."""

import hashlib
import io
import json
import pickle
import shutil
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from vmflearn.data.decoding import UnreadableImage
from vmflearn.data.shard_writing import write_shards
from vmflearn.data.shards import open_shards
from vmflearn.data.sources import open_images


def picture(i):
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (9 + i, 12, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    for i in range(11):
        path = tmp_path / "images" / f"class {i % 3}" / f"näme.{i:02}.{'JPEG' if i % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    return tmp_path / "images"


def foreign(path, members, close=True):
    """A tar file as any other program writes it, members in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            tar.addfile(info, io.BytesIO(data))


def png(i):
    buffer = io.BytesIO()
    picture(i).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_shards_hold_what_the_folder_holds_in_its_order(tmp_path, folder, size):
    manifest = write_shards(folder, tmp_path / "shards", shard_size=size)
    assert [shard["images"] for shard in manifest["shards"]] == [min(size, 11 - i) for i in range(0, 11, size)]
    source, want = open_shards(tmp_path / "shards"), open_images(folder)
    assert len(source) == manifest["images"] == 11
    assert source.class_names == want.class_names
    assert torch.equal(source.labels, want.labels)
    assert source.notes == []
    for i in (7, 0, 10, 3):
        assert torch.equal(source.read(i), want.read(i))
    with pytest.raises(IndexError):
        source.read(11)


def test_other_programs_read_the_shards(tmp_path, folder):
    """As a plain tar file: pairs KEY.jpg, KEY.cls, keys without dots and each its own, bytes as in the folder."""
    write_shards(folder, tmp_path / "shards", shard_size=100)
    want = open_images(folder)
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        members = tar.getmembers()
        keys = [member.name.split(".", 1) for member in members]
        assert [kind for _, kind in keys] == [t for p in range(11) for t in (want.path(p).suffix.lower()[1:], "cls")]
        assert [key for key, _ in keys[::2]] == [key for key, _ in keys[1::2]]
        assert len({key for key, _ in keys}) == 11
        for i in range(11):
            assert tar.extractfile(members[2 * i]).read() == want.path(i).read_bytes()
            assert int(tar.extractfile(members[2 * i + 1]).read()) == want.labels[i]


def test_a_folder_without_classes(tmp_path, folder):
    picture(3).save(folder / "loose.png")
    write_shards(folder, tmp_path / "shards")
    source = open_shards(tmp_path / "shards")
    assert source.class_names == ()
    assert source.labels.tolist() == [-1] * 12


def test_foreign_shards_are_indexed_once(tmp_path):
    root = tmp_path / "set"
    long = "a/" + "x" * 130  # a name that needs an extra header
    foreign(
        root / "b.tar", [("k1.cls", b"2\n"), ("k1.png", png(1)), (f"{long}.seg.png", png(2)), (f"{long}.cls", b"0")]
    )
    foreign(root / "a.tar", [("k1.txt", b"words"), ("k1.png", png(0)), ("k1.cls", b"1")])
    for opened in range(2):
        source = open_shards(root)
        assert (root / "index.npy").exists()
        assert source.labels.tolist() == [1, 2, 0]  # a.tar first
        assert source.class_names == ("0", "1", "2")
        for i in range(3):
            assert torch.equal(source.read(i), torch.tensor(np.asarray(picture(i))).permute(2, 0, 1)), opened
    assert source.path(0) == root / "a.tar" / "k1.png"
    foreign(root / "c.tar", [("k.png", png(1))])
    with pytest.raises(ValueError, match=r"1 shards, c\.tar among them, are not in the manifest; delete index\.npy"):
        open_shards(root)


def test_foreign_shards_with_an_image_without_a_class_have_none(tmp_path):
    foreign(tmp_path / "a.tar", [("k.png", png(0)), ("k.cls", b"1"), ("l.png", png(1))])
    source = open_shards(tmp_path)
    assert (source.class_names, source.labels.tolist()) == ((), [-1, -1])


def test_a_foreign_shard_that_was_cut_off_is_named_and_read_as_far_as_it_goes(tmp_path):
    foreign(tmp_path / "a.tar", [(f"{i}.png", png(i)) for i in range(6)])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2 - 3000])
    source = open_shards(tmp_path)
    assert 0 < len(source) < 6
    assert f"{tmp_path / 'a.tar'} is truncated" in source.notes[0]
    for i in range(len(source)):
        source.read(i)
    assert open_shards(tmp_path).notes == source.notes


def test_damage_to_a_shard_is_found_at_the_images_it_hits(tmp_path, folder):
    write_shards(folder, tmp_path / "shards", shard_size=6)
    source, want = open_shards(tmp_path / "shards"), open_images(folder)
    entry = source._index[2]
    with (tmp_path / "shards" / "shard-000000.tar").open("r+b") as file:
        file.seek(entry["offset"] + entry["length"] // 2)
        file.write(bytes([file.read(1)[0] ^ 1]))
    with pytest.raises(UnreadableImage, match=r"shard-000000\.tar/000000002-n_me_06\.png: the shard is corrupt"):
        open_shards(tmp_path / "shards").read(2)
    second = tmp_path / "shards" / "shard-000001.tar"
    second.write_bytes(second.read_bytes()[: source._index[8]["offset"] + 5])
    damaged = open_shards(tmp_path / "shards")
    assert "shard-000001.tar has" in damaged.notes[0]
    assert torch.equal(damaged.read(7), want.read(7))
    with pytest.raises(UnreadableImage, match=r"shard-000001\.tar/.*: the shard is truncated: 5 of the image's"):
        damaged.read(8)
    second.unlink()
    assert "is missing" in open_shards(tmp_path / "shards").notes[0]
    with pytest.raises(UnreadableImage, match=r"shard-000001\.tar/offset-\d+: .*No such file"):
        open_shards(tmp_path / "shards").read(8)


@pytest.mark.parametrize("damage", ["index", "manifest", "format"])
def test_an_index_that_cannot_be_trusted_is_refused(tmp_path, folder, damage):
    root = tmp_path / "shards"
    write_shards(folder, root)
    if damage == "index":
        data = bytearray((root / "index.npy").read_bytes())
        data[-20] ^= 1
        (root / "index.npy").write_bytes(data)
    elif damage == "manifest":
        (root / "manifest.json").write_text("{")
    else:
        manifest = json.loads((root / "manifest.json").read_text())
        (root / "manifest.json").write_text(json.dumps({**manifest, "format": "other 7"}))
    with pytest.raises(ValueError, match=r"cannot be used: .*; delete index\.npy and manifest\.json"):
        open_shards(root)


def test_what_is_no_set_of_shards(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give a folder that holds tar files"):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no \*\.tar in .*make_shards\.py"):
        open_shards(tmp_path)
    foreign(tmp_path / "a.tar", [("notes.txt", b"")])
    with pytest.raises(FileNotFoundError, match="no images in the 1 shards"):
        open_shards(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(ValueError, match="is not a plain tar file"):
        open_shards(tmp_path)
    foreign(tmp_path / "a.tar", [("k.png", png(0)), ("k.cls", b"cat")])
    with pytest.raises(ValueError, match=r"k\.cls must hold a class as a number, not b'cat'"):
        open_shards(tmp_path)


def test_the_source_travels_between_processes(tmp_path, folder):
    write_shards(folder, tmp_path / "shards")
    source = pickle.loads(pickle.dumps(open_shards(tmp_path / "shards")))
    assert torch.equal(source.read(5), open_images(folder).read(5))


def test_names_have_one_digest_wherever_the_images_lie(tmp_path, folder):
    """That of the relative paths, joined by NUL: a copy and shards have it too, another name or order has not."""
    listing = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    found = open_images(folder).names_digest()
    assert found == hashlib.sha256("\0".join(listing).encode()).hexdigest()
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    assert open_images(copied).names_digest() == found
    write_shards(folder, tmp_path / "shards", shard_size=3)
    shards = open_shards(tmp_path / "shards")
    assert shards.names_digest() == found
    for name in ("manifest.json", "index.npy"):  # as if they came from elsewhere
        (tmp_path / "shards" / name).unlink()
    foreign = open_shards(tmp_path / "shards").names_digest()
    assert foreign not in ("", found)
    assert open_shards(tmp_path / "shards").names_digest() == foreign
    first = copied / listing[0]
    first.rename(first.with_stem(f"{first.stem}_"))
    assert open_images(copied).names_digest() != found


def rewritten(root, **changes):
    manifest = json.loads((root / "manifest.json").read_text())
    manifest |= changes
    (root / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": None}, "no key 'class_names'"),
        ({"class_names": [1, 2, 3]}, "a class is called 1, which is no text"),
        ({"class_names": ["a", "b"]}, r"the labels of index\.npy are 0 to 2, and the manifest has 2"),
        ({"class_names": []}, r"the labels of index\.npy are 0 to 2, and the manifest has 0"),
        ({"class_names": None, "notes": None}, "no key"),
        ({"notes": None}, "no key 'notes'"),
        ({"shards": []}, r"the shards of index\.npy are 0 to 0, and the manifest has 0"),
        ({"shards": [{"name": "shard-000000.tar", "images": 11}]}, "no key 'bytes'"),
        (
            {"shards": [{"name": "shard-000000.tar", "bytes": "7"}]},
            "shard-000000.tar has '7' bytes, which is no number",
        ),
        ({"shards": [{"name": "../x.tar", "bytes": 7}]}, "'../x.tar' is not the name of a tar file in this folder"),
        ({"shards": [{"name": "/x.tar", "bytes": 7}]}, "'/x.tar' is not the name"),
        ({"shards": [{"name": "..", "bytes": 7}]}, "'..' is not the name"),
        ({"shards": [{"name": 7, "bytes": 7}]}, "7 is not the name"),
    ],
)
def test_a_manifest_that_does_not_say_what_it_must_is_refused(tmp_path, folder, changes, words):
    write_shards(folder, tmp_path / "shards", shard_size=100)
    rewritten(tmp_path / "shards", **changes)
    with pytest.raises(ValueError, match=rf"cannot be used: {words}.*; delete index\.npy and manifest\.json"):
        open_shards(tmp_path / "shards")


def test_a_set_written_before_opens_as_it_was(tmp_path):
    """Format 1, an index of foreign shards with a gap in the class numbers, which then was a class without images."""
    foreign(tmp_path / "a.tar", [("k.png", png(0)), ("k.cls", b"0"), ("l.png", png(1)), ("l.cls", b"2")])
    rows = np.zeros(2, dtype=[("shard", "<i4"), *((name, "<i8") for name in ("offset", "length", "label", "crc32"))])
    with tarfile.open(tmp_path / "a.tar") as tar:
        for row, label, member in zip(rows, (0, 2), tar.getmembers()[::2], strict=True):
            row["offset"], row["length"], row["label"], row["crc32"] = member.offset_data, member.size, label, -1
    np.save(tmp_path / "index.npy", rows)
    shard = {"name": "a.tar", "images": 2, "bytes": (tmp_path / "a.tar").stat().st_size}
    manifest = {"format": "vmflearn shards 1", "images": 2, "index_crc32": zlib.crc32(rows.tobytes()), "notes": []}
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "class_names": ["0", "1", "2"], "shards": [shard]}))
    source = open_shards(tmp_path)
    assert (source.class_names, source.labels.tolist(), source.notes) == (("0", "1", "2"), [0, 2], [])
    assert torch.equal(source.read(1), torch.tensor(np.asarray(picture(1))).permute(2, 0, 1))


def test_shards_of_two_parts_are_refused(tmp_path):
    for name in ("imagenet1k-train-0000", "imagenet1k-train-0001", "imagenet1k-validation-00"):
        foreign(tmp_path / f"{name}.tar", [("k.png", png(0))])
    with pytest.raises(
        ValueError, match=r"holds imagenet1k-train-0000\.tar and imagenet1k-validation-00\.tar, shards of"
    ):
        open_shards(tmp_path)


def test_files_that_are_no_shards_are_passed_over(tmp_path):
    foreign(tmp_path / "a.tar", [("k.png", png(0))])
    for name in ("._a.tar", "b.tar.gz", "C.TAR", "notes.txt"):
        (tmp_path / name).write_bytes(b"none")
    (tmp_path / "d.tar").mkdir()
    source = open_shards(tmp_path)
    assert len(source) == 1
    assert source.notes == [
        "skipped because only files that end in .tar are shards (unpack compressed ones): C.TAR and 1 more"
    ]


def test_the_way_out_of_archives_is_told(tmp_path):
    """ImageNet as it is downloaded: a tar file of tar files; and a folder above the shards."""
    foreign(tmp_path / "set" / "a.tar", [("n01440764.tar", b"inner"), ("n01443537.tar", b"inner")])
    with pytest.raises(
        FileNotFoundError, match=r"holds archives, n01440764\.tar among them; unpack each .*prepare_imagenet\.py"
    ):
        open_shards(tmp_path / "set")
    with pytest.raises(
        FileNotFoundError, match=rf"no \*\.tar in .*; give the folder that holds them: {tmp_path / 'set'}$"
    ):
        open_shards(tmp_path)
