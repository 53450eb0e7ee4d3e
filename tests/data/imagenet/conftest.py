"""ImageNet in miniature, in the layouts in which it is given out.

Three classes with the numbers that the real development kit gives them. Sorted, the synset ids are 0, 1 and 2; in the
order of those numbers the first two change places.
"""

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

IDS = {"n02119789": 1, "n02100735": 2, "n03255030": 1000}
WORDS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n02100735": "English setter",
    "n03255030": "dumbbell",
}
SYNSETS = sorted(IDS)
N_TRAIN = 4
"""Training images of each class."""
VALIDATION = ["n03255030", "n02119789", "n02100735", "n02119789", "n02100735"]
"""Classes of validation images 1, 2, ..."""


def jpeg(seed):
    """A small photograph of noise, as the bytes of a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def train_images():
    """{class: {file name: bytes}}; a class's numbers are not in the order of their text."""
    return {
        synset: {f"{synset}_{number}.JPEG": jpeg(100 * k + number) for number in (2, 10, 33, 4)}
        for k, synset in enumerate(SYNSETS)
    }


def val_images():
    """{file name: bytes}."""
    return {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(1000 + i) for i in range(1, len(VALIDATION) + 1)}


def expected():
    """{path below the new folder: bytes}."""
    files = {f"train/{s}/{name}": data for s, images in train_images().items() for name, data in images.items()}
    for (name, data), synset in zip(val_images().items(), VALIDATION, strict=True):
        files[f"val/{synset}/{name}"] = data
    return files


def tar_bytes(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def meta_mat():
    """As the real file: a column of structs, leaves first, then inner nodes of the hierarchy with their children."""
    names = [
        *("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"),
    ]
    rows = [
        (number, synset, WORDS[synset], "a thing", 0, np.zeros((1, 0)), 0, N_TRAIN) for synset, number in IDS.items()
    ]
    rows.append((1001, "n00001740", "entity", "that which is", 2, np.array([[1, 2]]), 19, 0))
    synsets = np.empty((len(rows), 1), dtype=[(name, object) for name in names])
    synsets[:, 0] = rows
    file = io.BytesIO()
    savemat(file, {"synsets": synsets})
    return file.getvalue()


def devkit(folder, synsets=VALIDATION):
    truth = "".join(f"{IDS[synset]}\n" for synset in synsets)
    members = {
        "ILSVRC2012_devkit_t12/readme.txt": b"read me",
        "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def class_tars():
    return {f"{synset}.tar": tar_bytes(images) for synset, images in train_images().items()}


@pytest.fixture
def small():
    """What is here, for the tests: their folder is no package."""
    return sys.modules[__name__]


@pytest.fixture
def archives(tmp_path):
    """The three files of image-net.org."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(class_tars()))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(val_images()))
    devkit(folder)
    return folder


@pytest.fixture
def kaggle(tmp_path):
    """Kaggle's download, unpacked."""
    folder = tmp_path / "kaggle"
    images = folder / "ILSVRC" / "Data" / "CLS-LOC"
    for synset, files in train_images().items():
        (images / "train" / synset).mkdir(parents=True)
        for name, data in files.items():
            (images / "train" / synset / name).write_bytes(data)
    for part in ("val", "test"):
        (images / part).mkdir()
    for name, data in val_images().items():
        (images / "val" / name).write_bytes(data)
    (images / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(jpeg(5))
    rows = list(zip(val_images(), VALIDATION, strict=True))[::-1]  # Kaggle's lines are in no order
    lines = [f"{name.removesuffix('.JPEG')},{synset} 85 1 499 272 {synset} 1 1 2 2 " for name, synset in rows]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]) + "\n")
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{s} {WORDS[s]}\n" for s in SYNSETS))
    return folder


@pytest.fixture
def kaggle_zip(kaggle):
    """Kaggle's download as it is."""
    path = kaggle.parent / "zip" / "imagenet-object-localization-challenge.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(kaggle.rglob("*")):
            archive.write(file, file.relative_to(kaggle).as_posix())
    return path


@pytest.fixture
def parquet(tmp_path):
    """Two shuffled files of train and one of validation, in groups of two rows."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    import pyarrow.parquet as pq

    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    labels = {synset: label for label, synset in enumerate(SYNSETS)}
    features = {"label": {"names": [WORDS[s] for s in SYNSETS], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    note = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    types = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())], metadata=note
    )

    def write(name, rows):
        columns = {
            "image": [{"bytes": d, "path": f"{Path(f).stem}_{s}.JPEG"} for s, f, d in rows],
            "label": [labels[s] for s, _, _ in rows],
        }
        pq.write_table(pa.table(columns, schema=types), folder / "data" / name, row_group_size=2)

    rows = [(s, name, data) for s, images in train_images().items() for name, data in images.items()]
    order = np.random.default_rng(0).permutation(len(rows))
    write("train-00000-of-00002.parquet", [rows[i] for i in order[:7]])
    write("train-00001-of-00002.parquet", [rows[i] for i in order[7:]])
    val = [(s, name, data) for s, (name, data) in zip(VALIDATION, val_images().items(), strict=True)]
    write("validation-00000-of-00001.parquet", val)
    return folder
