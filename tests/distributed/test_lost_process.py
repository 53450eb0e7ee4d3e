"""One process of two is killed, torchrun starts both again, and they must find one another.

In an environment that holds nothing but PyTorch and NumPy, where processes start so fast that, without
`vmflearn.rendezvous`, the new ones read addresses of the old ones and wait for ever; and over a network, between two
hosts played by network namespaces, which share nothing but a cable.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESS = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from vmflearn.rendezvous import fresh_store
folder, store = Path(sys.argv[1]), next(dist.rendezvous("env://"))
dist.init_process_group("gloo", store=fresh_store(*store), rank=store[1], world_size=store[2])
over = torch.zeros(1)
while not over:
    over += (folder / "enough").exists()
    dist.all_reduce(over, op=dist.ReduceOp.MAX)
    (folder / f"new-{store[1]}").write_text(str(os.getpid()))
    os.replace(folder / f"new-{store[1]}", folder / f"process-{store[1]}")  # never there without its number
    time.sleep(0.02)
dist.destroy_process_group()
"""
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=1", "--max-restarts=2"]
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def python(tmp_path_factory, bare_environment):
    """Python of an environment with PyTorch and NumPy only."""
    return bare_environment(tmp_path_factory.mktemp("bare") / "env", ["torch", "numpy"])[1]


@pytest.fixture(scope="module")
def hosts():
    """Two hosts with a cable between them: the words that run a command there, and the addresses."""
    names = [f"vmflearn-{os.getpid()}-{i}" for i in (0, 1)]
    cable = [f"vmf{os.getpid() % 10**6}{i}" for i in "ab"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True).returncode == 0

    try:
        made = shutil.which("ip") is not None and all(ip("netns", "add", name) for name in names)
        made = made and ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for i, name in enumerate(names if made else []):
            made = made and ip("link", "set", cable[i], "netns", name)
            made = made and ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", cable[i])
            made = made and ip("-n", name, "link", "set", cable[i], "up") and ip("-n", name, "link", "set", "lo", "up")
        if not made:
            pytest.skip("network namespaces cannot be made here")
        yield [(["ip", "netns", "exec", name], f"10.77.0.{i + 1}", cable[i]) for i, name in enumerate(names)]
    finally:
        if shutil.which("ip"):
            for name in names:
                ip("netns", "delete", name)  # and the cable with it


def finish(commands, folder, variables):
    """Start commands, kill one process that they have started, and wait for their end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "log").open("w") as log:
        agents = [
            subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env={**environment, **more})
            for command, more in zip(commands, variables, strict=True)
        ]
    try:
        while not all((folder / f"process-{i}").exists() for i in (0, 1)):
            assert all(agent.poll() is None for agent in agents), (folder / "log").read_text()
            time.sleep(0.05)
        os.kill(int((folder / "process-1").read_text()), signal.SIGKILL)
        time.sleep(1)
        (folder / "enough").touch()
        for agent in agents:
            assert agent.wait(timeout=100) == 0, (folder / "log").read_text()
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait(timeout=60)


def test_in_an_environment_with_little_else(tmp_path, python):
    (tmp_path / "process.py").write_text(PROCESS)
    command = [python, *TORCHRUN, "--standalone", "--nproc-per-node=2", tmp_path / "process.py", tmp_path]
    finish([command], tmp_path, [{}])


def test_between_two_hosts(tmp_path, python, hosts):
    (tmp_path / "process.py").write_text(PROCESS)
    place = ["--nnodes=2", "--rdzv-id=test", "--rdzv-backend=c10d", f"--rdzv-endpoint={hosts[0][1]}:29500"]
    commands, variables = [], []
    for i, (within, address, cable) in enumerate(hosts):
        own = [f"--rdzv-conf=is_host={i == 0}", f"--local-addr={address}"]
        commands.append([*within, python, *TORCHRUN, *place, *own, tmp_path / "process.py", tmp_path])
        variables.append({"GLOO_SOCKET_IFNAME": cable})
    finish(commands, tmp_path, variables)
