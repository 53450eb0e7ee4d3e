"""Writing beside the training: what is written is the state as it was, one at a time, and failures come out."""

import threading

import pytest
import torch

from vmflearn.train.checkpoints import writer as checkpoint_writer
from vmflearn.train.checkpoints.checkpoint import CheckpointError, load_newest, save_checkpoint
from vmflearn.train.checkpoints.writer import CheckpointWriter, snapshot


@pytest.fixture
def held(monkeypatch):
    """A gate that writing waits at, and the steps that have passed it."""
    gate, passed = threading.Event(), []

    def slow(folder, step, state, **options):
        assert gate.wait(10)
        passed.append(step)
        return save_checkpoint(folder, step, state, **options)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", slow)
    return gate, passed


def test_the_state_is_that_of_the_call_though_training_goes_on(tmp_path, held):
    gate, passed = held
    weights = torch.arange(4.0)
    writer = CheckpointWriter(tmp_path)
    writer.save(1, {"step": 1, "deep": [{"weights": weights}]}, best=True)
    weights += 100  # the next step
    writer.check()  # does not wait
    assert passed == []
    gate.set()
    writer.wait()
    assert load_newest(tmp_path, pytest.fail)["deep"][0]["weights"].tolist() == [0, 1, 2, 3]
    assert (tmp_path / "best.pt").exists()
    writer.close()


def test_one_waits_for_the_one_before_and_closing_for_the_last(tmp_path, held):
    gate, passed = held
    writer = CheckpointWriter(tmp_path)
    writer.save(1, {"step": 1})
    threading.Timer(0.05, gate.set).start()
    writer.save(2, {"step": 2})
    assert passed[0] == 1
    writer.close()
    assert passed == [1, 2]
    assert load_newest(tmp_path, pytest.fail)["step"] == 2


def test_a_failure_is_raised_once(tmp_path):
    blocked = tmp_path / "folder"
    blocked.write_text("a file where the folder should be")
    writer = CheckpointWriter(blocked)
    writer.save(1, {"step": 1})
    writer.close()
    with pytest.raises(CheckpointError, match="could not be written"):
        writer.check()
    writer.check()
    writer = CheckpointWriter(blocked)
    blocked.unlink()
    writer.save(2, {"step": 2})
    writer.wait()
    assert load_newest(blocked, pytest.fail)["step"] == 2
    writer.close()


def test_a_snapshot_shares_nothing():
    state = {"a": torch.zeros(2, requires_grad=True), "b": [(torch.ones(1), "text", 3)], "c": None}
    copied = snapshot(state)
    with torch.no_grad():
        state["a"] += 1
        state["b"][0][0].zero_()
    assert copied["a"].tolist() == [0, 0]
    assert copied["b"] == [(torch.ones(1), "text", 3)]
    assert copied["c"] is None
    assert not copied["a"].requires_grad
