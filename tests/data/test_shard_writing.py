import os
import shutil

import numpy as np
import pytest
from PIL import Image

from vmflearn.data import shard_writing
from vmflearn.data.shard_writing import write_shards
from vmflearn.data.shards import open_shards


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_after_a_kill_the_same_call_makes_the_same_bytes(tmp_path, folder, monkeypatch):
    write_shards(folder, tmp_path / "whole", shard_size=3)
    whole = contents(tmp_path / "whole")
    add, calls = shard_writing._add, 0

    def killed(*arguments):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        add(*arguments)

    monkeypatch.setattr(shard_writing, "_add", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shards(folder, tmp_path / "part", shard_size=3)
    assert set(contents(tmp_path / "part")) == {"making.json", "shard-000000.tar", "shard-000001.tar"}
    with pytest.raises(ValueError, match="of another shard size"):
        write_shards(folder, tmp_path / "part", shard_size=4)
    written = []
    monkeypatch.setattr(shard_writing, "_add", lambda tar, name, data: (written.append(name), add(tar, name, data)))
    write_shards(folder, tmp_path / "part", shard_size=3)
    assert len(written) == 4  # the two shards that were missing
    assert contents(tmp_path / "part") == whole
    written.clear()
    write_shards(folder, tmp_path / "part", shard_size=3)
    assert not written


def test_a_full_disk_leaves_nothing_half_written(tmp_path, folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_writing, "_add", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(folder, tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {"making.json"}
    monkeypatch.undo()
    write_shards(folder, tmp_path / "out")
    assert len(open_shards(tmp_path / "out")) == 10


def test_foreign_folders_are_refused_and_left_alone(tmp_path, folder):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no shards begun by this command"):
        write_shards(folder, out)
    assert contents(out) == {"thesis.txt": b"mine"}
    for inside in (folder, folder / "shards"):
        with pytest.raises(ValueError, match="lies inside of"):
            write_shards(folder, inside)
    write_shards(folder, tmp_path / "shards")
    shutil.copy(folder / "0.png", folder / "another.png")
    with pytest.raises(ValueError, match="holds shards of other images"):
        write_shards(folder, tmp_path / "shards")
    with pytest.raises(ValueError, match="shard_size must be at least 1 image, got 0"):
        write_shards(folder, tmp_path / "new", shard_size=0)


def test_a_shard_that_was_damaged_before_the_end_is_named(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(shard_writing, "write_index", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_shards(folder, tmp_path / "out", shard_size=5)
    monkeypatch.undo()
    path = tmp_path / "out" / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"shard-000001\.tar holds \d images, not 5; delete it"):
        write_shards(folder, tmp_path / "out", shard_size=5)
    path.unlink()
    write_shards(folder, tmp_path / "out", shard_size=5)


def test_a_shard_that_holds_fewer_images_is_named(tmp_path, folder, monkeypatch):
    """A whole tar, of which nothing is damaged: three of the images are not in it."""
    write_shards(folder, tmp_path / "fewer", shard_size=2)
    monkeypatch.setattr(shard_writing, "write_index", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_shards(folder, tmp_path / "out", shard_size=5)
    monkeypatch.undo()
    shutil.copy(tmp_path / "fewer" / "shard-000000.tar", tmp_path / "out" / "shard-000001.tar")
    with pytest.raises(ValueError, match=r"shard-000001\.tar holds 2 images, not 5; delete it"):
        write_shards(folder, tmp_path / "out", shard_size=5)


def test_an_image_that_was_replaced_makes_other_shards(tmp_path, folder):
    write_shards(folder, tmp_path / "out")
    (folder / "3.png").write_bytes((folder / "4.png").read_bytes() + b"longer")
    with pytest.raises(ValueError, match="holds shards of other images"):
        write_shards(folder, tmp_path / "out")


def test_an_image_that_was_moved_to_another_class_makes_other_shards(tmp_path, folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder / ("a" if path.stem < "5" else "b") / path.name)
    write_shards(folder, tmp_path / "out")
    (folder / "a" / "4.png").rename(folder / "b" / "4.png")
    with pytest.raises(ValueError, match="holds shards of other images"):
        write_shards(folder, tmp_path / "out")


def test_the_second_of_two_at_once_is_told_so(tmp_path, folder, monkeypatch):
    add, told = shard_writing._add, []

    def add_beside_another(*arguments):
        if not told:
            with pytest.raises(ValueError, match=r"another process is writing to .*out; wait for it") as caught:
                write_shards(folder, tmp_path / "out")
            told.append(caught)
        add(*arguments)

    monkeypatch.setattr(shard_writing, "_add", add_beside_another)
    write_shards(folder, tmp_path / "out")
    assert len(open_shards(tmp_path / "out")) == 10
    write_shards(folder, tmp_path / "out")  # the lock is gone with the call


def test_what_was_passed_over_in_the_folder_is_kept_in_the_manifest(tmp_path, folder):
    (folder / "._0.png").write_bytes(b"none")
    manifest = write_shards(folder, tmp_path / "out")
    assert manifest["notes"] == ["skipped because the name begins with a dot: ._0.png"]
    assert open_shards(tmp_path / "out").notes == manifest["notes"]


def test_what_an_older_conversion_left_half_done_is_no_shard(tmp_path, folder):
    write_shards(folder, tmp_path / "out")
    (tmp_path / "out" / ".shard-000001.tar").write_bytes(b"part")
    assert len(open_shards(tmp_path / "out")) == 10


def test_names_that_are_no_text_are_taken(tmp_path, folder):
    (folder / "3.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    write_shards(folder, tmp_path / "out")
    assert len(open_shards(tmp_path / "out")) == 10


def test_an_output_folder_that_is_a_looped_link_is_one_line(tmp_path, folder):
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(OSError, match=r"out"):
        write_shards(folder, tmp_path / "out")
