"""Ctrl-C, SIGTERM and SIGUSR1: noted while steps are taken, so that the state can be saved; at once at other times."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vmflearn import distributed


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and lost nothing by it.

    ``signal`` is the signal's number (2 for Ctrl-C), ``saved`` whether the run has taken steps, and saved after them.
    """

    def __init__(self, number: int, message: str, *, saved: bool = False):
        super().__init__(message)
        self.signal, self.saved = number, saved


class StopRequest:
    """Whether this process has been asked to stop.

    Attributes
    ----------
    signal : int
        Number of the last signal; 0 if none has come.
    patient : bool
        Whether a signal is only noted; if not, `Interrupted` is raised where it comes.
    """

    def __init__(self) -> None:
        self.signal, self.patient = 0, False

    def agreed(self) -> int:
        """The signal that any process has received, 0 if none has; all processes ask at the same place."""
        return distributed.max_over_processes(self.signal)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Be patient within the block."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal:
            raise KeyboardInterrupt
        self.signal = number
        if not self.patient:
            raise Interrupted(number, "stopped outside of training, and nothing is lost: the same command continues")


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Catch the signals within the block; a second Ctrl-C interrupts at once."""
    stop = StopRequest()
    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, stop._note) for number in wanted}
    except ValueError:  # not in the main thread: whoever owns it handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
