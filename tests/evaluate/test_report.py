import json
import os

import numpy as np
import pytest
from scipy.stats import bootstrap

from vmflearn.environment import write_whole
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.report import Report, check_output


def test_the_interval_of_a_share_is_that_of_many_drawings():
    right = np.arange(200) < 140
    low, high = bootstrap_interval(right)
    found = bootstrap(
        (right.astype(float),), np.mean, method="percentile", n_resamples=20000, random_state=0
    ).confidence_interval
    assert (low, high) == pytest.approx(found, abs=0.006)
    assert bootstrap_interval(np.ones(9, dtype=bool)) == (1.0, 1.0)


def test_scores_are_drawn_anew():
    scores = np.random.default_rng(0).random(60) ** 2
    found = bootstrap((scores,), np.mean, method="percentile", n_resamples=20000, random_state=1).confidence_interval
    assert bootstrap_interval(scores) == pytest.approx(found, abs=0.01)
    assert bootstrap_interval(scores) == bootstrap_interval(scores) != bootstrap_interval(scores, seed=1)
    assert bootstrap_interval(scores, level=0.5)[0] > bootstrap_interval(scores)[0]


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, "n at least 1"),
        ([[1.0]], 0.95, r"\(1, 1\)"),
        ([1.0], 1.0, "level must be"),
        ([np.nan], 0.9, "finite"),
    ],
)
def test_what_has_no_interval(values, level, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, level=level)


def test_a_report_is_a_table_and_json(tmp_path):
    rows = [
        {"k": 10, "top1": 0.5, "top1_low": 0.25, "top1_high": 0.75},
        {"k": 200, "top1": np.float64(0.123456), "other": None},
    ]
    report = Report("knn", rows, {"data": tmp_path, "seed": 3}, ["a note"], {"more": [1]})
    assert report.table().splitlines() == [
        "k    top1              other",
        "10   0.5 [0.25, 0.75]",
        "200  0.1235",
    ]
    report.write(tmp_path / "new" / "result.json")
    content = json.loads((tmp_path / "new" / "result.json").read_text())
    assert content["rows"][1] == {"k": 200, "top1": 0.123456, "other": None}
    assert content["settings"] == {"data": str(tmp_path), "seed": 3}
    assert (content["notes"], content["details"]) == (["a note"], {"more": [1]})
    assert {"git_commit", "torch", "device", "command"} <= set(content["environment"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]


def test_what_is_not_a_number_is_null(tmp_path):
    """JSON has no NaN: programs other than Python's refuse the whole file."""
    report = Report(
        "retrieval", [{"mAP": np.float32("nan")}], {}, details={"easy": [0.5, float("nan"), (1.0, -np.inf)]}
    )
    report.write(tmp_path / "result.json")
    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert (content["rows"], content["details"]) == ([{"mAP": None}], {"easy": [0.5, None, [1.0, None]]})


def test_a_place_for_no_result_is_refused(tmp_path):
    (tmp_path / "file").touch()
    check_output(tmp_path / "new" / "result.json")
    assert [*(tmp_path / "new").iterdir()] == []
    for place, reason in ((tmp_path, "it is a folder"), (tmp_path / "file" / "result.json", "File exists")):
        with pytest.raises(ValueError, match=f"--output {place} cannot be written .{reason}.: give another file"):
            check_output(place)


def test_two_that_write_one_file_do_not_take_each_others(tmp_path, monkeypatch):
    replace = os.replace

    def slow(source, target):
        monkeypatch.undo()
        monkeypatch.setattr(os, "getpid", lambda: 1)
        write_whole(tmp_path / "file", "another process's")
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    write_whole(tmp_path / "file", "ours")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "ours")]
