"""How a training command ends: its exit status, and one line on why."""

import pytest

from vmflearn.distributed import ElsewhereError
from vmflearn.train import CheckpointError, ConfigError
from vmflearn.train.runs import launch
from vmflearn.train.runs.stop import Interrupted

ENDS = [
    (None, 0, ""),
    (ConfigError("run.epochs=0"), 2, "error: run.epochs=0\n"),
    (CheckpointError("no part"), 2, "error: no part\n"),
    (ElsewhereError("process 0 could not go on"), 2, "error: process 0 could not go on\n"),
    (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
    (
        RuntimeError("Connection closed by peer [127.0.0.1]\nmore"),
        3,
        "error: another process was lost (Connection closed by peer [127.0.0.1]); torchrun --max-restarts starts all "
        "of them again from the last checkpoint, as does the same command\n",
    ),
    (Interrupted(15, "stopped at step 3"), 143, "stopped at step 3\n"),
    (KeyboardInterrupt(), 130, "interrupted at once; the same command continues from the last checkpoint\n"),
]


def ending(error):
    """Work that ends with an error, or well."""

    def work():
        if error is not None:
            raise error

    return work


@pytest.fixture
def peer_gone(monkeypatch):
    """What several processes alone meet (they do in tests/distributed/test_chaos.py)."""
    monkeypatch.setattr(launch, "_lost_peer", lambda error: "closed by peer" in str(error))


@pytest.mark.usefixtures("peer_gone")
@pytest.mark.parametrize(("error", "status", "said"), ENDS, ids=[type(error).__name__ for error, *_ in ENDS])
def test_each_end_has_its_status_and_one_line(error, status, said, capsys):
    assert launch.run_command(ending(error)) == status
    assert capsys.readouterr() == ("", said)


def test_the_same_words_on_one_process_are_no_lost_process():
    with pytest.raises(RuntimeError, match="closed by peer"):
        launch.run_command(ending(RuntimeError("Connection closed by peer")))


def test_the_batch_job_is_told_that_all_is_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VMFLEARN_SAVED", str(tmp_path / "saved"))
    launch.run_command(ending(Interrupted(10, "stopped, nothing done")))
    assert not (tmp_path / "saved").exists()
    launch.run_command(ending(Interrupted(10, "stopped at step 3", saved=True)))
    assert (tmp_path / "saved").exists()
