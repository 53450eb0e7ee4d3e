"""A closed room for code that nobody has read: no network, read-only files, process numbers of its own (Linux).

`room(scratch, hidden)` gives the words to put before a command, or none where the system does not let a user make
namespaces. In the room only the folder `scratch` can be written, folders `hidden` are empty, folders in `copies` show
what stands in for them, and the privileges that made the room are gone before the command starts. When the command
ends, so does everything that it has started.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--ipc", "--mount", "--pid", "--mount-proc", "--kill-child"]
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
KEEP = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21}
SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38


def room(scratch: Path, hidden: list[Path], copies: dict[Path, Path] | None = None) -> list[str]:
    """Words before a command that runs it in a closed room; empty where there can be none.

    `copies` tells for folders which other one, in `scratch`, is to be found and written there in the room.
    """
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return []
    stand_ins = {str(path.resolve()): str(copy.resolve()) for path, copy in (copies or {}).items()}
    told = json.dumps([str(scratch.resolve()), [str(path.resolve()) for path in hidden if path.is_dir()], stand_ins])
    words = [*UNSHARE, sys.executable, str(Path(__file__).resolve()), told]
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if tried.returncode == 0 else []


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """The system call of this name; OSError names the target."""
    words = [None if word is None else word.encode() for word in (source, target, kind, options)]
    if libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def close_the_files(scratch: str, hidden: list[str], copies: dict[str, str]) -> None:
    """Make every file system read-only but `scratch` and `copies`, and the folders `hidden` empty."""
    mount(None, "/", None, RECURSIVE | PRIVATE)
    mount(scratch, scratch, None, BIND)
    for folder, copy in copies.items():
        mount(copy, folder, None, BIND)
    for folder in hidden:
        mount("none", folder, "tmpfs", 0, "size=4k")
    mount("none", "/dev/shm", "tmpfs", 0, "size=1g")  # shared memory of the room's own
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target, options = line.split()[4].encode().decode("unicode_escape"), line.split()[5].split(",")
        if target in (scratch, "/dev/shm", *copies) or target == "/proc" or target.startswith("/proc/"):
            continue
        flags = sum(KEEP.get(option, 0) for option in options)
        mount(None, target, None, REMOUNT | BIND | READ_ONLY | flags)


def start_loopback() -> None:
    """The only network of the room: a process can talk to another one in it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
        fcntl.ioctl(plug, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))


def main() -> None:
    close_the_files(*json.loads(sys.argv[1]))
    os.chdir(json.loads(sys.argv[1])[0])  # not the folder of this name in the file system below
    start_loopback()
    for capability in range(64):  # gone for good with the next program
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    main()
