"""A real SLURM of two nodes on this machine, with GPUs in name only, that leaves nothing behind."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = f"{os.environ['PATH']}:/usr/sbin"
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=128 CoresPerSocket=128 Gres=gpu:8
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=128 CoresPerSocket=128 Gres=gpu:8
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """munged, slurmctld and two slurmd, all as root, in one folder."""

    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self):
        """Start the daemons, and wait until both nodes are idle."""
        for name in ("state", "gpus", "jobs"):
            (self.folder / name).mkdir()
        for i in range(8):  # a GPU without a device file is dropped
            os.mknod(self.folder / "gpus" / f"gpu{i}", 0o20600, os.makedev(1, 3))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o400)
        configuration = CONFIGURATION.format(folder=self.folder, ports=free_ports(3))
        (self.folder / "slurm.conf").write_text(configuration)
        gpus = "".join(f"NodeName=node{n} Name=gpu File={self.folder}/gpus/gpu[0-7]\n" for n in (1, 2))
        (self.folder / "gres.conf").write_text(gpus)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", "--foreground", "--force", *(f"--{k}={self.folder}/munge.{v}" for k, v in files.items()))
        wait_until((self.folder / "munge.socket").exists)
        self._start("slurmctld", "-D")
        for node in ("node1", "node2"):
            self._start("slurmd", "-D", "-N", node)
        wait_until(lambda: self.run("sinfo", "--noheader", "--format=%T %D", fails=True) == "idle 2\n", 60, self.logs)

    def stop(self):
        """End all jobs and all daemons."""
        self.run("scancel", "--user=root", fails=True)
        self.run("scancel", "--user=root", "--signal=KILL", fails=True)
        deadline = time.monotonic() + 20
        while self.run("squeue", "--noheader", "--states=all", "--format=%t", fails=True).count("CG"):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, *command):
        with (self.folder / "daemons.log").open("a") as log:
            self.daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment))

    def run(self, *command, fails=False, **variables):
        """Run one of SLURM's commands; returns what it prints."""
        done = subprocess.run(
            [str(word) for word in command],
            env={**self.environment, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert fails or done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *command, **variables):
        """Submit a batch job."""
        logs = self.folder / "jobs"
        number = int(self.run("sbatch", "--parsable", f"--output={logs}/%j.log", *command, **variables))
        return Job(self, number, logs / f"{number}.log")

    def logs(self):
        """What the daemons say."""
        return "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))


class Job:
    """A batch job: its state, and its output."""

    def __init__(self, cluster, number, log):
        self.cluster, self.number, self.log = cluster, number, log

    def __getattr__(self, name):
        """A field of `scontrol show job`, such as JobState."""
        return re.search(rf"\b{name}=(\S+)", self.cluster.run("scontrol", "show", "job", "-o", self.number))[1]

    def wait_for(self, *states):
        """Until the job is in one of these states."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        end = time.monotonic() + 240
        while (state := self.JobState) not in states:
            assert state not in over, f"{state}\n{self.text()}"
            assert time.monotonic() < end, f"{state}\n{self.text()}"
            time.sleep(0.1)
        return state

    def start_now(self):
        """Spare a job that was put back into the queue its two minutes of waiting."""
        self.wait_for("PENDING")
        self.cluster.run("scontrol", "update", f"jobid={self.number}", "StartTime=now+2")  # not in the second it ended

    def signal(self, *words):
        """Signal with scancel."""
        self.cluster.run("scancel", *words, self.number)

    def text(self):
        """What the job has said."""
        return self.log.read_text() if self.log.exists() else ""


def free_ports(n):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until(condition, seconds=20, said=lambda: ""):
    """Until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, said()
        time.sleep(0.1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The cluster; without its programs and root there is none."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]
    if missing or sys.platform != "linux" or os.geteuid() != 0:
        excuse = f"needs SLURM and munge, as root; missing: {', '.join(missing) or 'root'}"
        pytest.fail(excuse) if "VMFLEARN_REQUIRE_SLURM" in os.environ else pytest.skip(excuse)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
