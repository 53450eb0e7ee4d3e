"""Checkpoints written beside the training: a step waits for a copy of the state, not for the disk."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from vmflearn.train.checkpoints.checkpoint import save_checkpoint


class CheckpointWriter:
    """Writes one checkpoint at a time, in a thread.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, step: int, state: dict[str, Any], *, best: bool = False) -> None:
        """Copy a state to the processor's memory, and have the copy written; waits for the checkpoint before.

        Raises
        ------
        CheckpointError
            If the one before could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(save_checkpoint, self.folder, step, snapshot(state), best=best)

    def check(self) -> None:
        """Raise CheckpointError if the checkpoint being written has failed; does not wait."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return once all is on the disk; CheckpointError if it is not."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let what is being written come to its end, and raise nothing."""
        self._thread.shutdown(wait=True)


def snapshot(state: Any) -> Any:
    """The same nested dictionaries and lists with copies of all tensors, on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value) for value in state)
    return state
