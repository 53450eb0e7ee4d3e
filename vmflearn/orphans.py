"""A process ends with the one that has started it.

torchrun stops its processes when it is told to stop. If it is killed, nobody does: they train on, hold their devices,
and write into the folder in which the next attempt has started.
"""

import os
import sys
import threading
import time

PAUSE = 1.0
"""Seconds between two looks."""
STATUS = 3
"""Exit status of a process that was left behind, as of one that has lost another."""


def end_with_parent() -> None:
    """End this process, from now on, as soon as its parent is gone.

    A thread looks every second, because the process may be waiting for others that will never answer. It ends as by a
    kill, with one line and the status 3, and nothing is saved: a checkpoint is complete or does not count.
    """
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # an orphan is given another one
        time.sleep(PAUSE)
    print(
        f"error: the process that started this one ({parent}) is gone, so it ends too; the same command continues from "
        "the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(STATUS)
