import json

from vmflearn.train.records import Records, read_metrics


def record(folder, first, last, start):
    records = Records(folder, start, 10, active=True)
    for step in range(first, last + 1):
        records.write({"step": step, "loss": step / 2}, {"images_per_second": 1.0}, show=False)
    records.close()


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    record(tmp_path, 1, 5, start=0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    record(tmp_path, 4, 6, start=3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": s, "loss": s / 2} for s in range(1, 7)]
    assert [line["step"] for line in read_metrics(tmp_path / "timing.jsonl")] == [1, 2, 3, 4, 5, 6]


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
