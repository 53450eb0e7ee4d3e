"""A trace holds the steps that were asked for, and the run's batches pass through untouched."""

import json

import pytest
import torch

from vmflearn.train.cost.profiling import WARM_UP, profiled

CPU = torch.device("cpu")


def run(folder, total, steps):
    said, seen = [], []
    for batch in profiled(range(total), folder, steps, CPU, said.append):
        with torch.profiler.record_function(f"our step {batch}"):
            torch.ones(2, 2) @ torch.ones(2, 2)
        seen.append(batch)
    return said, seen


def test_the_trace_holds_the_steps_after_the_warm_up(tmp_path):
    said, seen = run(tmp_path, total=WARM_UP + 6, steps=2)
    assert seen == list(range(WARM_UP + 6))
    trace = json.loads((tmp_path / "profile" / "process-0.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {name for name in names if name.startswith("our step")} == {f"our step {WARM_UP + i}" for i in range(2)}
    table = (tmp_path / "profile" / "process-0.txt").read_text()
    assert "aten::mm" in table
    (text,) = said
    assert "profile of 2 steps" in text
    assert "aten::mm" in text
    assert "process-0.json" in text


def test_a_run_that_is_too_short_says_so(tmp_path):
    said, seen = run(tmp_path, total=WARM_UP, steps=2)
    assert seen == list(range(WARM_UP))
    assert said == [f"no profile: the run ended in the {WARM_UP} steps of warm-up"]
    assert not (tmp_path / "profile").exists()


def test_a_run_that_ends_within_the_trace_leaves_what_there_is(tmp_path):
    (text,), _ = run(tmp_path, total=WARM_UP + 1, steps=5)
    assert text.startswith("profile of 1 steps")


def test_no_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1, not -1"):
        next(profiled([1], tmp_path, -1, CPU, print))
