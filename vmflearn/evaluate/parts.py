"""Features of many images computed part by part, each kept on disk when it is done: what a kill loses is one part.

Among several processes each computes every n-th part, and all of them get all rows. This is for descriptors that take
images in ways of their own, at several scales say.
"""

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vmflearn import distributed
from vmflearn.environment import write_whole
from vmflearn.evaluate.agreement import check_same
from vmflearn.weights.digest import digest

PART = 64
"""Images in a part."""

T = TypeVar("T")


def rows_in_parts(
    n: int,
    compute: Callable[[range], Tensor],
    *,
    what: str,
    cache: Path | None = None,
    key: Mapping[str, object] | None = None,
) -> Tensor:
    """Rows of n images, from the cache where it has them.

    Parameters
    ----------
    n : int
        At least 1.
    compute : callable
        Gives the rows (len(numbers), d) of a range of numbers.
    what : str
        For the progress bar.
    cache : Path, optional
        A folder that any number of such computations share; None keeps nothing.
    key : mapping
        All that decides on the rows: weights, images, settings.

    Returns
    -------
    Tensor
        (n, d) float32 on the CPU, the same on every process.

    Raises
    ------
    ValueError
        If processes are given different things.
    Exception
        What ``compute`` raises here; ElsewhereError where another process raised.
    """
    # Where the images lie is a matter of each process.
    check_same({name: value for name, value in {"images": n, **(key or {})}.items() if name != "folder"})
    folder = None if cache is None else cache / digest({"rows": n, "part": PART, **(key or {})})[:32]
    starts = range(0, n, PART)
    mine = starts[distributed.rank() :: distributed.world_size()]

    def work() -> dict[int, np.ndarray]:
        done: dict[int, np.ndarray] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tqdm(total=sum(len(_numbers(s, n)) for s in mine), desc=what, disable=quiet()) as bar:
            for start in mine:
                numbers = _numbers(start, n)
                kept = None if folder is None else folder / f"{start:08d}.npy"
                rows = _read(kept, len(numbers))
                if rows is None:
                    rows = compute(numbers).float().cpu().numpy()
                    if kept is not None:
                        _write(kept, rows)
                done[start] = rows
                bar.update(len(numbers))
        return done

    parts: dict[int, np.ndarray] = {}
    for found in distributed.gather_objects(distributed.all_or_none(work)):
        parts |= found
    return torch.from_numpy(np.concatenate([parts[start] for start in starts]))


def quiet() -> bool:
    """Whether no progress bar is shown: on processes but the first, and where nobody watches."""
    return distributed.rank() > 0 or not sys.stderr.isatty()


def _numbers(start: int, n: int) -> range:
    return range(start, min(start + PART, n))


def _read(path: Path | None, n: int) -> np.ndarray | None:
    """A part that was kept whole; None if there is none, or it cannot be read and is made again."""
    if path is None or not path.is_file():
        return None
    try:
        rows = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.ndim == 2 and len(rows) == n and np.isfinite(rows).all() else None


def _write(path: Path, rows: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, rows)
    write_whole(path, content.getvalue())


def read_ahead(load: Callable[[int], T], numbers: range, workers: int) -> Iterator[T]:
    """What ``load`` gives for each number in turn; with workers, as many threads load ahead (Pillow lets them)."""
    if not workers:
        yield from map(load, numbers)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(load, numbers)
