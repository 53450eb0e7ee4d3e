import json
import os

import pytest

from vmflearn.train.runs.records import FILES, Records, mend, read_metrics


def record(folder, first, last, start):
    mend(folder, start, None, pytest.fail)
    records = Records(folder, start, 10, active=True)
    for step in range(first, last + 1):
        records.write({"step": step, "loss": step / 2}, {"images_per_second": 1.0}, show=False)
    records.close()


def steps(folder, name="metrics.jsonl"):
    return [line["step"] for line in read_metrics(folder / name)]


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    record(tmp_path, 1, 5, start=0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    record(tmp_path, 4, 6, start=3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": s, "loss": s / 2} for s in range(1, 7)]
    assert steps(tmp_path, "timing.jsonl") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [b'{"step": 3, "lo', b"\0" * 40, b'{"step": 3, "loss": "\xff"}', b"{}", b"[3]"])
def test_damaged_lines_are_named_and_set_aside(tmp_path, name, damage):
    record(tmp_path, 1, 6, start=0)
    lines = (tmp_path / name).read_bytes().splitlines()
    spoilt = b"\n".join([*lines[:2], damage, *lines[3:5], damage, *lines[5:]]) + b"\n"
    (tmp_path / name).write_bytes(spoilt)
    with pytest.raises(ValueError, match=rf"{name}, line 3 is damaged"):
        read_metrics(tmp_path / name)
    said = []
    mend(tmp_path, 6, 6, said.append)
    (line,) = said
    assert f"{name}: line 3, 6, between steps 2 and 4 and between steps 5 and 6, is damaged (" in line
    assert f"left out; the file is kept as {name}.damaged" in line
    assert (tmp_path / name).read_bytes() == b"\n".join([*lines[:2], *lines[3:]]) + b"\n"
    assert (tmp_path / f"{name}.damaged").read_bytes() == spoilt
    (tmp_path / name).write_bytes(damage + b"\n")
    mend(tmp_path, 6, None, said.append)  # a second time: nothing that was kept is replaced
    assert "after step 0" in said[-1]
    assert (tmp_path / f"{name}.damaged").read_bytes() == spoilt
    assert (tmp_path / f"{name}.damaged-2").read_bytes() == damage + b"\n"


def test_missing_lines_at_the_end_are_said(tmp_path):
    record(tmp_path, 1, 3, start=0)
    (tmp_path / "timing.jsonl").unlink()
    said = []
    mend(tmp_path, 6, 6, said.append)
    assert said == [
        f"{tmp_path / 'metrics.jsonl'}: the lines after step 3, up to step 6, are missing",
        f"{tmp_path / 'timing.jsonl'}: the lines after step 0, up to step 6, are missing",
    ]


def test_whole_files_are_left_alone(tmp_path):
    record(tmp_path, 1, 3, start=0)
    before = [(tmp_path / name).stat() for name in FILES]
    mend(tmp_path, 3, 3, pytest.fail)
    after = [(tmp_path / name).stat() for name in FILES]
    assert [(s.st_ino, s.st_mtime_ns) for s in after] == [(s.st_ino, s.st_mtime_ns) for s in before]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_named_with_what_to_do(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    records = Records(tmp_path, 0, 10, active=True)
    records.write({"step": 1, "loss": 0.5}, {}, show=False)
    with pytest.raises(OSError, match=r"records in .* could not be written \(No space left on device\); make room and"):
        records.flush()
    with pytest.raises(OSError, match=r"records in .* could not be written \(No space left on device\); make room and"):
        records.write({"step": 2, "loss": [0.5] * 10_000}, {}, show=False)
    records.close()


def test_only_the_first_process_writes(tmp_path):
    records = Records(tmp_path, 0, 10, active=False)
    records.write({"step": 1}, {}, show=True)
    records.say("nothing")
    records.advance()
    records.flush()
    records.close()
    assert list(tmp_path.iterdir()) == []


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    records = Records(tmp_path, 0, 10, active=True)
    records.write({"step": 3, "loss": 1.23456}, {"images_per_second": 99.6}, show=True)
    records.close()
    assert capsys.readouterr().out == "step 3/10  loss 1.235  images/s 100\n"
