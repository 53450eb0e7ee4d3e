"""The published layout, made small; what the real files hold is in the docstring of the module."""

import builtins
import pickle

import numpy as np
import pytest
from PIL import Image

from vmflearn.evaluate.revisited import open_revisited, read_judgements


def benchmark(folder, protocol=2, **changes):
    """Five images, two of them queries."""
    (folder / "jpg").mkdir(parents=True, exist_ok=True)
    for i in range(5):
        Image.new("RGB", (40, 30), (50 * i, 0, 0)).save(folder / "jpg" / f"all_souls_{i:06d}.jpg")
    content = {
        "imlist": [f"all_souls_{i:06d}" for i in range(3)],
        "qimlist": ["all_souls_000003", "all_souls_000004"],
        "gnd": [
            {"bbx": [10.4, 5.0, 30.6, 25.0], "easy": np.array([0]), "hard": np.array([2]), "junk": np.array([1])},
            {"bbx": np.array([0.0, 0, 40, 30]), "easy": [], "hard": [np.int64(1)], "junk": np.empty(0)},
        ],
        **changes,
    }
    path = folder / f"gnd_{folder.name}.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_published_layout_opens(tmp_path, protocol):
    benchmark(tmp_path / "roxford5k", protocol)
    found = open_revisited(tmp_path / "roxford5k")
    assert (found.name, len(found.images), len(found.queries)) == ("roxford5k", 3, 2)
    assert found.queries.path(0).name == "all_souls_000003.jpg"
    np.testing.assert_array_equal(found.boxes, [[10.4, 5, 30.6, 25], [0, 0, 40, 30]])
    assert [{key: list(rows) for key, rows in query.items()} for query in found.judgements] == [
        {"easy": [0], "hard": [2], "junk": [1]},
        {"easy": [], "hard": [1], "junk": []},
    ]
    assert found.query(0).size == (21, 20)  # 10 to 31, 5 to 25
    assert found.query(0, crop=False).size == (40, 30)


def test_arrays_as_numpy_1_and_python_2_wrote_them(tmp_path):
    path = benchmark(tmp_path / "rparis6k", 2)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old
    path.write_bytes(old)
    assert list(open_revisited(path.parent).judgements[0]["easy"]) == [0]
    # Python 2 wrote an array's bytes as a short string, whose characters are not all ASCII
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x01tcnumpy\ndtype\n"
        b"(U\x02i8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\xff\x00\x00\x00\x00\x00\x00\x00tb"
    )
    path.write_bytes(b"\x80\x02}(X\x06\x00\x00\x00imlistX\x07\x00\x00\x00qimlistX\x03\x00\x00\x00gnd" + array + b"u.")
    with pytest.raises(ValueError, match="gnd"):  # not a benchmark; but the array is read
        read_judgements(path)


class Calls:
    """A pickle that calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["exec", "open", "getattr", "eval"])
def test_nothing_in_the_file_is_run(tmp_path, name):
    witness = tmp_path / "witness"
    arguments = {"open": (str(witness), "w"), "getattr": ("", "join")}.get(name, (f"open({str(witness)!r}, 'w')",))
    path = benchmark(tmp_path / "roxford5k", gnd=Calls(getattr(builtins, name), *arguments))
    with pytest.raises(ValueError, match=rf"refused, and nothing in it was run: it asks for \w+\.{name}; "):
        open_revisited(path.parent)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gnd": []}, "gnd judges 0 queries, qimlist names 2"),
        ({"imlist": []}, "imlist is empty"),
        ({"imlist": ["../../etc/passwd"]}, "imlist names '../../etc/passwd', which is no image of jpg"),
        (
            {"qimlist": ["all_souls_000003"], "gnd": [{"bbx": [0, 0, 1, 1], "easy": [], "hard": []}]},
            "query 0 lacks junk",
        ),
        (
            {"qimlist": ["all_souls_000003"], "gnd": [{"bbx": [0, 0, 1, 1], "easy": [7], "hard": [], "junk": []}]},
            "query 0 names image 7 in easy; imlist has 3, from 0",
        ),
        (
            {"qimlist": ["all_souls_000003"], "gnd": [{"bbx": [0, 0, 1, 1], "easy": ["a"], "hard": [], "junk": []}]},
            "query 0 holds <U1 in easy, not numbers of images",
        ),
        (
            {"qimlist": ["all_souls_000003"], "gnd": [{"bbx": [0, 0], "easy": [], "hard": [], "junk": []}]},
            r"query 0 has the box \[0.0, 0.0\], not left",
        ),
    ],
)
def test_a_layout_that_is_not_the_published_one_is_named(tmp_path, changes, message):
    path = benchmark(tmp_path / "roxford5k", **changes)
    with pytest.raises(ValueError, match=message):
        open_revisited(path.parent)


def test_absent_images_are_named_and_counted(tmp_path):
    path = benchmark(tmp_path / "roxford5k")
    for i in (1, 2):
        (path.parent / "jpg" / f"all_souls_00000{i}.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"names 2 images in imlist that are not there, .*all_souls_000001\.jpg"
    ):
        open_revisited(path.parent)


def test_other_files_and_folders_are_named(tmp_path):
    path = benchmark(tmp_path / "roxford5k")
    with pytest.raises(FileNotFoundError, match=r"must hold one gnd_\*\.pkl, and holds 0; .* in it: roxford5k"):
        open_revisited(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"does not exist; give a folder that holds gnd_roxford5k\.pkl"):
        open_revisited(tmp_path / "absent")
    whole = path.read_bytes()
    for content in (whole[:40], b"", b"not a pickle", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"was refused, and nothing in it was run|must hold a dictionary"):
            open_revisited(path.parent)


def test_a_box_outside_its_image_is_named(tmp_path):
    query = {"easy": [0], "hard": [], "junk": []}
    gnd = [{"bbx": [-3.0, 5.0, 50.0, 25.0], **query}, {"bbx": [40.0, 0.0, 60.0, 10.0], **query}]
    found = open_revisited(benchmark(tmp_path / "roxford5k", gnd=gnd).parent)
    assert found.query(0).size == (40, 20)
    with pytest.raises(
        ValueError, match=r"box \[40.0, 0.0, 60.0, 10.0\] of the query .* nothing of its 40 x 30 pixels"
    ):
        found.query(1)
