"""What the operating system says of the worker processes: who forked them, what they ignore, when they end."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from vmflearn.data.shard_writing import write_shards
from vmflearn.data.shards import open_shards
from vmflearn.data.sources import open_images
from vmflearn.data.workers import WorkerLoader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Processes(torch.utils.data.Dataset):
    """Each item is (worker, its parent) as the worker sees them."""

    def __getitem__(self, index):
        return os.getpid(), os.getppid()


def status(pid, field):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def alive(pid):
    return Path(f"/proc/{pid}").exists() and status(pid, "State") != "Z"


def batches(workers=2, n=100):
    loader = WorkerLoader(Processes(), workers=workers, sampler=range(n), batch_size=1)
    return ((int(pid), int(parent)) for pid, parent in loader)


def test_workers_are_forked_from_a_process_without_threads():
    torch.ones(2, requires_grad=True).sum().backward()  # autograd has a thread from now on
    found = [next(it) for it in (batches(), batches())]
    (server,) = {parent for _, parent in found}  # one for all loaders
    assert server != os.getpid()
    assert status(server, "Threads") == "1"


def test_signals_to_all_processes_leave_workers_and_their_server_alone():
    it = batches()
    before = [next(it) for _ in range(4)]
    for pid in {pid for pair in before for pid in pair}:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
    assert {next(it) for _ in range(20)} == set(before)
    assert all(alive(pid) for pair in before for pid in pair)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()  # and this process hears all of them


def test_without_workers_this_process_reads():
    assert [*batches(workers=0, n=2)] == [(os.getpid(), os.getppid())] * 2


def test_what_workers_cannot_be_handed_is_named():
    class Local(torch.utils.data.Dataset):
        pass

    class Locked(Processes):
        def __reduce__(self):
            raise pickle.PicklingError("it is not to be pickled")

    for images in (Local(), Locked()):
        with pytest.raises(ValueError, match=r"cannot be handed to worker processes .*module.* data\.workers=0"):
            iter(WorkerLoader(images, workers=1))


SCRIPT = """
import sys, time
from pathlib import Path
from vmflearn.data.sources import open_images
from vmflearn.train.input.batches import decode_batches
with Path(sys.argv[2]).open("a") as log: print("the program runs", file=log)
it = iter(decode_batches(open_images(sys.argv[1]), [(0, [0])] * 1000, max_side=0, workers=2))
next(it)
print(*[worker.pid for worker in it._workers], flush=True)
time.sleep(600)
"""


def test_a_killed_program_without_a_main_guard_ran_once_and_leaves_nothing_behind(tmp_path):
    """With warnings as errors too: Python 3.12 warns of a fork beside threads."""
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    script, log = tmp_path / "program.py", tmp_path / "log"
    script.write_text(SCRIPT)
    options = ["-W", "error:This process:DeprecationWarning"]
    with subprocess.Popen(
        [sys.executable, *options, script, tmp_path, log], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        workers = [int(word) for word in process.stdout.readline().split()]
        process.kill()
        _, err = process.communicate()
    assert len(workers) == 2, err
    server = [*{int(status(pid, "PPid")) for pid in workers if alive(pid)} - {1}]
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in workers + server):
        assert time.monotonic() < deadline, "workers outlive the program that they work for"
        time.sleep(0.05)
    assert log.read_text() == "the program runs\n"


class WithoutTensors(pickle.Pickler):
    """Pickles all but tensors, which processes share."""

    def persistent_id(self, value):
        return "tensor" if isinstance(value, torch.Tensor) else None


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_a_worker_is_handed_no_copy_of_the_index(tmp_path, kind):
    sizes = []
    for n in (3, 40):
        root = tmp_path / f"images-of-{n:02}"
        root.mkdir()
        for i in range(n):
            Image.new("L", (1, 1)).save(root / f"{i:03}.png")
        write_shards(root, tmp_path / f"shards-of-{n:02}", shard_size=50)
        source = open_images(root) if kind == "folder" else open_shards(tmp_path / f"shards-of-{n:02}")
        assert len(source) == n
        with (tmp_path / "pickle").open("wb") as file:
            WithoutTensors(file).dump(source)
        sizes.append((tmp_path / "pickle").stat().st_size)
    assert sizes[0] == sizes[1]
