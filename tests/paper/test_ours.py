"""Results placed beside the paper's: values, means of runs and intervals by hand, and each wrong file in one line."""

import json

import pytest

from vmflearn.paper.ours import OursError, read_ours

ROWS = [
    {"k": 10, "top1": 0.741, "top1_low": 0.737, "top1_high": 0.745},
    {"k": 20, "top1": 0.7439, "top1_low": 0.74, "top1_high": 0.748},
]


@pytest.fixture
def write(tmp_path):
    def write(text, rows=ROWS, name="knn.json"):
        (tmp_path / name).write_text(json.dumps({"protocol": "knn", "rows": rows, "settings": {}}))
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_a_value_is_found_by_table_row_and_column(write):
    ours = read_ours(write("2:\n  ViT-Small/16 DINO-vMF:\n    kNN: knn.json k=20\n"))
    result = ours.results[2]["ViT-Small/16 DINO-vMF"]["kNN"]
    assert ours.label == "mine"
    assert (result.value, result.low, result.high) == pytest.approx((74.39, 74.0, 74.8))
    assert result.spread is None


def test_a_value_has_its_own_interval_and_none_of_another(write):
    rows = [
        {"mAP": 0.5, "mAP_low": 0.4, "mAP_high": 0.7, "top1": 0.6, "top1_low": 0.55, "top1_high": 0.65, "mP@5": 0.9}
    ]
    found = {}
    for name in ("mAP", "top1", "mP@5"):
        path = write(f"6:\n  ViT-Small/16 DINO:\n    ROx M: r.json {name}\n", rows, "r.json")
        result = read_ours(path).results[6]["ViT-Small/16 DINO"]["ROx M"]
        found[name] = (result.value, result.interval and tuple(round(end, 9) for end in result.interval))
    assert found == {"mAP": (50, (40, 70)), "top1": (60, (55, 65)), "mP@5": (90, None)}


def test_runs_are_averaged(write):
    path = write("9:\n  DINO:\n    kNN: [knn.json k=20, knn.json k=10, knn.json k=10]\n")
    result = read_ours(path).results[9]["ViT-Small/16 DINO"]["kNN"]
    assert result.value == pytest.approx((74.39 + 74.1 + 74.1) / 3)
    assert result.spread == pytest.approx(0.29 / 3**0.5)  # of (a, b, b): |a - b| / sqrt(3)
    assert result.interval == pytest.approx((result.value - 0.58 / 3**0.5, result.value + 0.58 / 3**0.5))


def test_what_was_judged_is_told(write, tmp_path):
    path = write("9:\n  DINO:\n    kNN: [knn.json k=20, judged.json]\n")
    settings = {"checkpoint": "runs/a (teacher)", "digest": "0123456789abcdef"}
    (tmp_path / "judged.json").write_text(json.dumps({"rows": [{"top1": 0.5}], "settings": settings}))
    result = read_ours(path).results[9]["ViT-Small/16 DINO"]["kNN"]
    assert result.sources == ("knn.json k=20", "judged.json, of runs/a (teacher), weights 01234567")


def test_counts_stay_counts(write):
    path = write(
        "4:\n  ViT-Small/16 DINO:\n    largest set: 'pro.json threshold=0.90 largest'\n",
        [{"threshold": 0.9, "largest": 2087}, {"threshold": 0.99, "largest": 3}],
        "pro.json",
    )
    result = read_ours(path).results[4]["ViT-Small/16 DINO"]["largest set"]
    assert (result.value, result.interval) == (2087, None)


def test_a_row_of_ones_own_and_a_path_with_blanks(write, tmp_path):
    (tmp_path / "my runs").mkdir()
    path = write("6:\n  ViT-Tiny mine:\n    ROx H: '\"my runs/r.json\" map'\n", [{"map": 0.5}], "my runs/r.json")
    assert read_ours(path).results[6]["ViT-Tiny mine"]["ROx H"].value == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.yaml must hold tables by their numbers, not None"),
        ("[", "mine.yaml is not YAML"),
        ("16:\n  a: {kNN: knn.json}", "names a table 16; the paper's are 1 to 15"),
        ("two:\n  a: {kNN: knn.json}", "names a table two"),
        ("2:\n  DINO: {kNN: knn.json}", "DINO may be ViT-Base/16 DINO or ViT-Small/16 DINO; give the whole name"),
        ("2:\n  a: {knn: knn.json}", r"table 2 has no column 'knn'; its columns are kNN, Lin\. \[C\]"),
        ("2:\n  a: knn.json", "table 2, a must hold columns by their names, not 'knn.json'"),
        ("2:\n  a: {kNN: knn.json}", r"2 of the 2 rows of .*knn.json are meant by no condition; .* k is 10, 20"),
        ("2:\n  a: {kNN: knn.json k=200}", "0 of the 2 rows .* are meant by k=200"),
        ("2:\n  a: {kNN: knn.json k=x}", "0 of the 2 rows"),
        ("2:\n  a: {kNN: knn.json k=20 top5}", "top5 is not there; the row has k, top1, top1_low, top1_high"),
        ("2:\n  a: {kNN: knn.json k=20 top1 top5}", "names several values, top1 and top5; give one"),
        ("2:\n  a: {kNN: knn.json k=20 k}", "k is 20, not a share from 0 to 1"),
        ("2:\n  a: {kNN: none.json}", "none.json cannot be read: No such file"),
        ("2:\n  a: {kNN: mine.yaml}", "mine.yaml is no result of scripts/evaluate.py --output"),
        ("2:\n  a: {kNN: 'knn.json \"k=20'}", "cannot be divided into words"),
        ("2:\n  a: {kNN: []}", "must be FILE.json"),
        ("2:\n  a: {kNN: x.json}\n  a: {kNN: y.json}", "has the key a twice"),
    ],
)
def test_what_is_wrong_is_one_line(write, text, message):
    with pytest.raises(OursError, match=message) as caught:
        read_ours(write(text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OursError, match=r"no\.yaml cannot be read: No such file"):
        read_ours(tmp_path / "no.yaml")
