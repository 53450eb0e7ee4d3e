"""One run at a time in a run folder: two would replace each other's records and remove each other's checkpoints."""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vmflearn.train.checkpoints.checkpoint import CheckpointError

PATIENCE = 3.0
"""Seconds to wait for a run that is just ending: one that was killed holds its files until its memory is given back."""

NAME = "lock"
"""The file that is locked; it says who holds it, and goes with the lock."""

_REFUSED = {errno.EACCES, errno.EAGAIN}
_held: set[Path] = set()
_guard = threading.Lock()


class FolderLock:
    """The right to write into a run folder, until `release` or the end of this process, however it ends.

    The kernel holds the lock (POSIX ``lockf``: processes that data workers are forked from keep theirs, and workers do
    not inherit it, so that none outlives the run). It does not tell threads of one process apart: `_held` does.

    Parameters
    ----------
    folder : Path
        Made if it is missing; removed by `release` if it was made here and is empty then.
    say : callable
        Told, in one line, where the file system knows no locks; the run goes on without.

    Raises
    ------
    CheckpointError
        If another run holds it (its process and machine are named), or the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.folder, self._path, self._file = folder.resolve(), folder / NAME, -1
        with _guard:
            if self.folder in _held:
                raise CheckpointError(_in_use(folder, f"another thread of this process, {os.getpid()}"))
            _held.add(self.folder)
        try:
            self._made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            self._lock(say)
        except OSError as error:
            self._forget()
            problem = "is a file" if folder.is_file() else f"cannot be written to ({error.strerror or error})"
            raise CheckpointError(f"the run folder {folder} {problem}; give another one with --run-dir") from None
        except BaseException:
            self._forget()
            raise

    def _lock(self, say: Callable[[str], None]) -> None:
        """Lock the file, or refuse; a file that its holder has removed in between is not the one."""
        end = time.monotonic() + PATIENCE
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                import fcntl

                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (ImportError, OSError) as error:
                if isinstance(error, OSError) and error.errno in _REFUSED:
                    holder = os.read(self._file, 200).decode(errors="replace").strip()
                    self._close()
                    if time.monotonic() > end:
                        raise CheckpointError(_in_use(self._path.parent, holder or "another process")) from None
                    time.sleep(0.1)
                    continue
                say(f"{self._path.parent} cannot be locked ({error}): take care that no other run is started there")
            if self._is_in_place():
                os.ftruncate(self._file, 0)
                os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return
            self._close()

    def _is_in_place(self) -> bool:
        """Whether the open file still has its name."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        return False

    def release(self) -> None:
        """Let others in."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._forget()
        if self._made:
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # refused unless it is empty

    def _forget(self) -> None:
        self._close()
        _held.discard(self.folder)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _in_use(folder: Path, holder: str) -> str:
    return (
        f"{folder} is in use: a run goes on in it ({holder}); wait for its end, stop it, or give another run folder "
        "with --run-dir"
    )
