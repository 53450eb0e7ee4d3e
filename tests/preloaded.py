"""Python programs that begin with PyTorch and timm loaded, which takes a bare start longer than a small run takes.

A server imports them and does nothing else; each program is a process forked from it, with a number, an environment,
a folder and outputs of its own. It is signalled and killed like any other, and ends as Python ends. Tests of what
happens while a program is being loaded, and of torchrun itself, start a bare one.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIXED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
"""What PyTorch reads while it is loaded: the same for all programs."""


class Program:
    """A program that was started; what of `subprocess.Popen` the tests use."""

    def __init__(self, server, pid, outputs):
        self.server, self.pid, self.outputs, self.returncode = server, pid, outputs, None

    def poll(self):
        """Exit status, negative for a signal, or None while it goes on."""
        if self.returncode is None:
            self.returncode = self.server.ended(0).pop(self.pid, None)
        return self.returncode

    def wait(self, timeout=500):
        """Wait for its end; returns the exit status."""
        end = time.monotonic() + timeout
        while self.returncode is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.returncode = self.server.ended(0.2).pop(self.pid, None)
        return self.returncode

    def communicate(self, timeout=500):
        """Wait for its end; returns what it printed, and what it said on stderr."""
        self.wait(timeout)
        said = []
        for output in self.outputs:
            output.seek(0)
            said.append(output.read().decode())
            output.close()
        return tuple(said)

    def send_signal(self, number):
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that has everything loaded, and forks."""

    def __init__(self):
        self.socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = [sys.executable, __file__, str(its.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[its.fileno()], env={**os.environ, **FIXED})
        self.statuses = {}

    def ended(self, timeout):
        """Exit statuses by process number of what has ended since and was not asked for."""
        while select.select([self.socket], [], [], timeout)[0]:
            pid, status = json.loads(self._receive())
            self.statuses[pid], timeout = status, 0
        return self.statuses

    def start(self, words, cwd, env):
        """Start a program: a file and its arguments."""
        outputs = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 (read when it has ended)
        request = json.dumps([words, str(cwd), {**env, **FIXED}]).encode()
        self.ended(0)
        socket.send_fds(self.socket, [request], [output.fileno() for output in outputs])
        while True:  # another program may end before this one has begun
            pid, status = json.loads(self._receive())
            if status is None:
                return Program(self, pid, outputs)
            self.statuses[pid] = status

    def _receive(self):
        message = self.socket.recv(100)
        assert message, f"the server has ended with status {self.process.wait()}"
        return message


_servers = {}


def start(words, cwd=None, env=None):
    """Start a program: `words` is a file and its arguments."""
    if os.getpid() not in _servers:
        _servers[os.getpid()] = Server()
    words = [str(word) for word in words]
    return _servers[os.getpid()].start(words, cwd or Path.cwd(), os.environ if env is None else env)


def run(words, cwd=None, env=None, timeout=500):
    """Run a program to its end; what `subprocess.run` returns."""
    program = start(words, cwd, env)
    out, err = program.communicate(timeout)
    return subprocess.CompletedProcess(words, program.returncode, out, err)


def together(n, words, cwd=None, env=None, timeout=400):
    """Run a program as n processes that can join one group, told of one another as torchrun tells them.

    Returns what `subprocess.run` returns, outputs in the order of ranks. If one fails the others are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    group |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    env = {**(os.environ if env is None else env), **group}
    programs = [start(words, cwd, {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(n)]
    end = time.monotonic() + timeout
    while None in (statuses := [program.poll() for program in programs]):
        if any(statuses) or time.monotonic() > end:
            break
        time.sleep(0.05)
    failed = next(filter(None, statuses), 0)
    for program in programs:
        program.kill()
    said = [program.communicate() for program in programs]
    assert failed or None not in statuses, f"not done after {timeout} s: {said}"
    return subprocess.CompletedProcess(words, failed, *("".join(texts) for texts in zip(*said, strict=True)))


def serve(control):
    """Fork for each request, and tell of every end. Returns in the forked processes only: what to execute."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write)
    children = set()
    while True:
        ready = select.select([control, read], [], [])[0]
        if read in ready:
            os.read(read, 1000)
            for pid in list(children):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    children.remove(pid)
                    control.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())
        if control in ready:
            request, outputs, _, _ = socket.recv_fds(control, 1_000_000, 2)
            if not request:  # the tests are over
                sys.exit()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, output in enumerate(outputs, start=1):
                    os.dup2(output, number)
                for number in (*outputs, read, write):
                    os.close(number)
                control.close()
                return json.loads(request)
            children.add(pid)
            for output in outputs:
                os.close(output)
            control.send(json.dumps([pid, None]).encode())


if __name__ == "__main__":
    import timm  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    from vmflearn.train import load_config, pretrain  # noqa: F401

    with socket.socket(fileno=int(sys.argv[1])) as control_:
        words_, cwd_, env_ = serve(control_)
    os.environ.clear()
    os.environ.update(env_)
    os.chdir(cwd_)
    sys.argv, sys.path[0] = words_, str(Path(words_[0]).absolute().parent)
    runpy.run_path(words_[0], run_name="__main__")
