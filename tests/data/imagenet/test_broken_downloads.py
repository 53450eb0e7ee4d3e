"""What is wrong with a download is one line that names the file and says what to do."""

import io
import sys
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from vmflearn.data.imagenet.preparing import prepare

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"


def refuses(source, tmp_path, message):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        prepare(source, tmp_path / "out", subset=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", [TRAIN, VAL])
def test_an_archive_that_is_cut_short_anywhere(archives, tmp_path, part):
    """At every block: within a header, an image, an inner end mark or between members."""
    data = (archives / part).read_bytes()
    with tarfile.open(archives / part) as tar:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in tar)
    for length in [*range(0, end + 512, 512), 100, 700, end - 100]:
        (archives / part).write_bytes(data[:length])
        refuses(archives, tmp_path, rf"{part}.* again")
    (archives / part).write_bytes(data[: end + 1024])  # both blocks of the end mark, without tar's padding
    prepare(archives, tmp_path / "whole", subset=True)


def test_a_class_that_was_cut_short_before_it_was_packed(small, archives, tmp_path):
    """The last one: behind it are zeros, which could pass for the rest of an image and for an end."""
    classes = small.class_tars()
    name, whole = classes.popitem()
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        end = max(member.offset_data + member.size for member in tar)
    for length in range(0, end, 512):
        (archives / TRAIN).write_bytes(small.tar_bytes({**classes, name: whole[:length]}))
        refuses(
            archives, tmp_path, rf"{name} in .*{TRAIN} is (cut short|damaged|no plain tar).*; download {TRAIN} again"
        )


def test_a_class_whose_header_is_damaged(archives, tmp_path):
    data = bytearray((archives / TRAIN).read_bytes())
    with tarfile.open(archives / TRAIN) as tar:
        outer = tar.getmember("n02119789.tar")
    at = data.index(b"n02119789_33.JPEG", outer.offset_data)
    data[at] ^= 1  # the header's checksum no longer fits
    (archives / TRAIN).write_bytes(data)
    refuses(archives, tmp_path, rf"n02119789\.tar in .*{TRAIN} is damaged at byte [\d,]+; download {TRAIN} again")


def test_archives_that_are_no_archives(small, archives, tmp_path):
    (archives / TRAIN).write_bytes(b"<html>not found</html>")
    refuses(archives, tmp_path, f"{TRAIN} is no plain tar file .*; download {TRAIN} again")
    (archives / TRAIN).write_bytes(small.tar_bytes({"a.txt": b"", "b/n1.tar": b""}))
    refuses(archives, tmp_path, rf"holds no tar files of classes such as n01440764\.tar; it is not {TRAIN}")
    (archives / TRAIN).write_bytes(small.tar_bytes(small.class_tars()))
    (archives / VAL).write_bytes(small.tar_bytes({"a.txt": b""}))
    refuses(archives, tmp_path, f"holds no images; it is not {VAL}")


def test_val_without_its_classes(small, archives, kaggle, tmp_path):
    small.devkit(archives, ["n02119789"] * 3)
    refuses(archives, tmp_path, r"image ILSVRC2012_val_00000004\.JPEG is none of the 3 whose class is known")
    (archives / DEVKIT).unlink()
    refuses(archives, tmp_path, f"holds {VAL} and no {DEVKIT}, the development kit")
    (kaggle / "LOC_val_solution.csv").unlink()
    refuses(kaggle, tmp_path, r"holds validation images and no LOC_val_solution\.csv")
    (kaggle / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,fox 1 2 3 4\n")
    refuses(kaggle, tmp_path, r"has a line that names no image and class: \['ILSVRC2012_val_00000001', 'fox 1 2 3 4'\]")


def test_development_kits_that_are_damaged(small, archives, tmp_path, monkeypatch):
    whole = (archives / DEVKIT).read_bytes()
    (archives / DEVKIT).write_bytes(whole[:200])
    refuses(archives, tmp_path, f"{DEVKIT} cannot be read: .*; download it again")
    (archives / DEVKIT).write_bytes(b"<html>")
    refuses(archives, tmp_path, f"{DEVKIT} cannot be read")
    other = io.BytesIO()
    savemat(other, {"synsets": np.arange(3)})
    for content in (b"no mat file", other.getvalue()):
        monkeypatch.setattr(small, "meta_mat", lambda content=content: content)
        small.devkit(archives)
        refuses(archives, tmp_path, r"meta\.mat of the development kit .* cannot be read \(.*\); download it again")
    monkeypatch.undo()
    monkeypatch.setitem(small.IDS, "n02119789", 7)
    kit = small.meta_mat()
    monkeypatch.undo()
    monkeypatch.setattr(small, "meta_mat", lambda: kit)
    small.devkit(archives)
    refuses(archives, tmp_path, r"ground truth of .* names class 1, which its meta\.mat does not have")


def test_sources_that_hold_nothing_or_too_much(archives, kaggle, tmp_path):
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", tmp_path, f"no ImageNet in .*: looked for {TRAIN}, ")
    refuses(tmp_path / "nowhere", tmp_path, "nowhere does not exist")
    refuses(archives / TRAIN, tmp_path, "is a file; give the folder that holds it")
    (kaggle / VAL).touch()
    refuses(kaggle, tmp_path, "holds ImageNet as archives and as Kaggle's folder; move one of them elsewhere")


def test_zip_files_that_are_damaged(kaggle_zip, tmp_path):
    data = kaggle_zip.read_bytes()
    kaggle_zip.write_bytes(data[:-100])
    refuses(kaggle_zip, tmp_path, r"\.zip is no zip file, or is cut short .*; download it again")
    at = data.index(b"PK\3\4", data.index(b"n02119789_10.JPEG"))  # the end of that image's bytes
    kaggle_zip.write_bytes(data[: at - 20] + b"\0" * 10 + data[at - 10 :])
    with pytest.raises(ValueError, match=r"n02119789_10\.JPEG in .* is damaged .*; download it again"):
        prepare(kaggle_zip, tmp_path / "out", subset=True)


def test_an_image_twice(small, archives, tmp_path):
    images = small.train_images()["n02119789"]
    twice = small.tar_bytes(images)[
        : -(-len(images["n02119789_2.JPEG"]) // 512) * 512 + 512
    ]  # the first member once more
    rest = small.tar_bytes(images)
    (archives / TRAIN).write_bytes(small.tar_bytes({"n02119789.tar": twice + rest}))
    refuses(archives, tmp_path, r"the train part holds n02119789/n02119789_2\.JPEG twice")


def test_parquet_files_that_are_damaged(small, parquet, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = parquet / "data" / "train-00000-of-00002.parquet"
    table = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-50])
    refuses(parquet, tmp_path, r"train-00000-of-00002\.parquet is no whole parquet file")
    pq.write_table(table.rename_columns(["image", "class"]), path)
    refuses(parquet, tmp_path, "has no column label; it has image, class")
    rows = table.to_pylist()
    rows[0]["label"] = (rows[0]["label"] + 1) % 3
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    refuses(parquet, tmp_path, r"gives the label \d to n\d{8} and to n\d{8}|classes with two labels")
    rows[0]["image"]["path"] = "photo.jpg"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    refuses(parquet, tmp_path, r"has a row with path 'photo\.jpg' and label \d; expected a label, and a file name")


def test_parquet_files_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "train-00000-of-00001.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refuses(tmp_path, tmp_path, "is a parquet file, and reading it needs pyarrow: pip install pyarrow")
