import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from vmflearn.train.checkpoints.checkpoint import (
    CheckpointError,
    checkpoint_path,
    differences,
    load_newest,
    save_checkpoint,
)


def state(step):
    return {"step": step, "weights": torch.arange(5000.0) + step}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_and_the_best_stay(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, state(step), best=step == 2)
    assert names(tmp_path) == ["best.pt", "step-00000003.pt", "step-00000004.pt"]
    assert load_newest(tmp_path, pytest.fail)["step"] == 4
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 2


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_newest(tmp_path / "absent", pytest.fail) is None


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_cut_checkpoint_gives_way_to_the_one_before(tmp_path, kept):
    save_checkpoint(tmp_path, 1, state(1))
    newest = save_checkpoint(tmp_path, 2, state(2))
    whole = newest.read_bytes()
    newest.write_bytes(whole[: int(kept * len(whole))])
    said = []
    loaded = load_newest(tmp_path, said.append)
    assert loaded["step"] == 1
    assert torch.equal(loaded["weights"], state(1)["weights"])
    assert len(said) == 2
    assert "step-00000002.pt cannot be read" in said[0]
    assert "going back to step-00000001.pt" in said[1]
    assert "step-00000002.damaged" in names(tmp_path)


def test_a_changed_byte_is_found_though_the_archive_can_be_read(tmp_path):
    save_checkpoint(tmp_path, 1, state(1))
    newest = save_checkpoint(tmp_path, 2, state(2))
    content = bytearray(newest.read_bytes())
    at = bytes(content).index(state(2)["weights"].numpy().tobytes()[400:440])  # within the weights
    content[at] ^= 1
    newest.write_bytes(content)
    assert not torch.equal(torch.load(newest, weights_only=True)["weights"], state(2)["weights"])  # PyTorch reads on
    said = []
    assert load_newest(tmp_path, said.append)["step"] == 1
    assert "step-00000002.pt cannot be read (its content has changed since it was written" in said[0]


def test_what_is_read_is_what_was_saved_and_older_checkpoints_without_a_digest_are_taken(tmp_path):
    save_checkpoint(tmp_path, 1, state(1))
    assert set(load_newest(tmp_path, pytest.fail)) == {"step", "weights"}
    torch.save(state(2), checkpoint_path(tmp_path, 2))
    assert load_newest(tmp_path, pytest.fail)["step"] == 2


def test_nothing_readable_is_an_error_that_keeps_the_files(tmp_path):
    save_checkpoint(tmp_path, 1, state(1)).write_bytes(b"")
    for _ in range(2):  # also the second time: starting afresh would wipe the records
        with pytest.raises(CheckpointError, match=r"none of the checkpoints .* another run folder"):
            load_newest(tmp_path, lambda line: None)
    assert names(tmp_path) == ["step-00000001.pt"]


def test_a_foreign_pickle_is_not_executed(tmp_path):
    path = checkpoint_path(tmp_path, 1)
    script = f"import os, torch\nclass Evil:\n    def __reduce__(self): return os.mkdir, ({str(tmp_path / 'x')!r},)\n"
    subprocess.run([sys.executable, "-c", f"{script}torch.save(Evil(), {str(path)!r})"], check=True)
    with pytest.raises(CheckpointError):
        load_newest(tmp_path, lambda line: None)
    assert not (tmp_path / "x").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, state(1))
    # A limit on the size of files makes the kernel refuse the write half-way, as a full disk does.
    script = textwrap.dedent(f"""
        import resource, signal, sys, torch
        from pathlib import Path
        from vmflearn.train.checkpoints.checkpoint import CheckpointError, save_checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, {resource.RLIM_INFINITY}))
        try:
            save_checkpoint(Path({str(tmp_path)!r}), 2, {{"weights": torch.zeros(50000)}})
        except CheckpointError as error:
            print(error)
            sys.exit(3)
    """)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 3, run.stderr
    assert "step-00000002.pt could not be written (File too large)" in run.stdout
    assert "earlier checkpoints are intact" in run.stdout
    assert names(tmp_path) == ["step-00000001.pt"]
    assert load_newest(tmp_path, pytest.fail)["step"] == 1


def test_differences_name_every_setting():
    old = {"seed": 0, "run": {"epochs": 2, "device": "cpu"}}
    new = {"seed": 0, "run": {"epochs": 3, "device": "cpu", "extra": 1}}
    assert differences(old, new) == ["run.epochs: 2 -> 3", "run.extra: (absent) -> 1"]


def test_a_setting_that_the_checkpoint_does_not_know_counts_as_its_default():
    saved = {"run": {"epochs": 3}, "seed": 1}
    defaults = {"run": {"epochs": 100, "compile": False}, "seed": 0, "data": {"cache": "auto"}}
    same = {"run": {"epochs": 3, "compile": False}, "seed": 1, "data": {"cache": "auto"}}
    assert differences(saved, same, defaults) == []
    other = {"run": {"epochs": 3, "compile": True}, "seed": 1, "data": {"cache": True}}
    assert differences(saved, other, defaults) == ["data.cache: auto -> True", "run.compile: False -> True"]
    assert differences(saved, same) == ["data: (absent) -> {'cache': 'auto'}", "run.compile: (absent) -> False"]
