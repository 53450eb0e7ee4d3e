"""One run in a folder at a time: other processes, threads, forks, kills, and file systems that know no locks."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from vmflearn.train.checkpoints.checkpoint import CheckpointError
from vmflearn.train.runs import lock as folder_lock
from vmflearn.train.runs.lock import FolderLock

fcntl = pytest.importorskip("fcntl")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.2)


def holder(folder):
    """A process that holds the lock, with a child that was forked from it and outlives it, as a data worker may."""
    script = textwrap.dedent(f"""
        import os, time
        from pathlib import Path
        from vmflearn.train.runs.lock import FolderLock
        lock = FolderLock(Path({str(folder)!r}), print)
        child = os.fork()
        if child:
            print(child, flush=True)
        time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path):
    process, child = holder(tmp_path / "run")
    try:
        who = rf"run is in use: .*\(process {process.pid} on {re.escape(socket.gethostname())}\).*--run-dir"
        with pytest.raises(CheckpointError, match=who):
            FolderLock(tmp_path / "run", pytest.fail)
        process.kill()
        process.wait()
        os.kill(child, 0)  # lives on
        assert (tmp_path / "run" / "lock").exists()
        FolderLock(tmp_path / "run", pytest.fail).release()
        assert not (tmp_path / "run" / "lock").exists()
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_second_run_in_one_process_is_refused_and_one_after_the_other_is_not(tmp_path):
    for _ in range(2):
        lock = FolderLock(tmp_path / "run", pytest.fail)
        with pytest.raises(CheckpointError, match=f"in use: .*another thread of this process, {os.getpid()}"):
            FolderLock(tmp_path / "run" / ".." / "run", pytest.fail)
        lock.release()
        assert not (tmp_path / "run").exists()  # nothing was put there


def test_a_folder_that_cannot_be_one_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for place, words in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "run", "cannot be written to")):
        for _ in range(2):  # the refusal leaves nothing locked
            with pytest.raises(CheckpointError, match=f"the run folder {place} {words}.*--run-dir"):
                FolderLock(place, pytest.fail)


def test_a_file_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    said = []
    FolderLock(tmp_path, said.append).release()
    assert len(said) == 1
    assert "cannot be locked ([Errno 37] No locks available): take care" in said[0]
    assert tmp_path.exists()
