"""Worker processes of a loader: how they start, what they do not hear, and when they end.

They are forked, but from a server that does nothing else (`multiprocessing`'s "forkserver"), which has imported PyTorch
once for all of them. Forked from the training process itself they would start in no time; but it has threads (of
autograd, of a checkpoint's writer, of TensorBoard, of CUDA), a lock that one of them holds at that moment stays locked
in the child for ever, and Python 3.12 and later warn of it. Started afresh ("spawn"), where there is no such server,
each imports PyTorch for itself. ``python benchmarks/input_pipeline.py --workers`` measures all three.

What a worker works on is pickled for it, so an index of a million images belongs into tensors: these are not copied,
but lie in memory that all processes share.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How workers start: the choice for all of them."""
IMPORTS = "vmflearn.data.worker_imports"
"""What their server imports, unless a loader says otherwise before it runs."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class WorkerLoader(DataLoader):
    """PyTorch's loader, with workers that outlive a signal to the whole process group: the trainer saves first.

    Parameters
    ----------
    dataset : Dataset
        Can be pickled, and is of a class that can be imported: workers know nothing of the program they work for, so
        that a script without ``if __name__ == "__main__"`` is not run again by each of them.
    workers : int
        0: this process does their work.
    imports : str
        The module that the server imports, if this is the first loader that needs it.
    **settings
        As for ``torch.utils.data.DataLoader``.
    """

    def __init__(self, dataset: Dataset, *, workers: int, imports: str = IMPORTS, **settings: Any):
        super().__init__(
            dataset,
            num_workers=workers,
            multiprocessing_context=START_METHOD if workers else None,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # or it would take its seed, which nothing here uses, from the model's stream
            **settings,
        )
        self._server_imports = imports

    def __iter__(self) -> Any:
        """Start the workers, and iterate over the batches.

        Raises
        ------
        ValueError
            If the data set cannot be handed to workers.
        """
        if not self.num_workers:
            return super().__iter__()
        with _no_main():
            if START_METHOD == "forkserver":
                _start_server(self._server_imports)
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Got pickle error")  # PyTorch's, before the error itself
                    return super().__iter__()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                # Python 3.13's message for a local class no longer names pickle.
                if not any(frame.name == "dump" for frame in traceback.extract_tb(error.__traceback__)):
                    raise
                raise ValueError(
                    f"the images cannot be handed to worker processes ({error}): put their class into a module that "
                    "can be imported and let it hold what can be pickled, or set data.workers=0"
                ) from error


def _start_server(imports: str) -> None:
    """Let the server of the workers run, if it does not yet; what it inherits, it and its workers never hear.

    Signals to this thread wait meanwhile, and are not lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # the server would start it, and it ends by unblocking two of the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.set_forkserver_preload([imports])
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_main() -> Iterator[None]:
    """Hide the program's main module, which each worker would otherwise import."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin(worker: int) -> None:
    """What a worker does first: ignore signals, and end with the process that it works for."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """PyTorch's workers end when their parent is another; that of a forked server's children is the server."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
