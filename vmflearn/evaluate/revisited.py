"""The revisited Oxford and Paris benchmarks as they are published: a folder of images and a pickle of judgements.

``roxford5k`` (and ``rparis6k``) holds ``gnd_roxford5k.pkl`` and the images in ``jpg/``. The pickle is a dictionary of
``imlist``, the names of the images that are searched, ``qimlist``, those of the queries, and ``gnd``: for each query
the numbers of its ``easy``, ``hard`` and ``junk`` images and ``bbx``, the box (left, top, right, bottom) of the
building in pixels. Names have no ending.
"""

import codecs
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vmflearn.data.scanning import existing_folder
from vmflearn.data.sources import FolderImages

ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): codecs.encode,  # how Python 3 writes the bytes of an array for Python 2,
    ("__builtin__", "bytes"): bytes,  # and those of an empty one
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
}
"""What the pickle may build besides containers, texts and numbers: those of numpy, by the names of all its versions."""
for _core in ("numpy.core", "numpy._core"):
    ALLOWED[f"{_core}.multiarray", "_reconstruct"] = np.empty(0).__reduce__()[0]
    ALLOWED[f"{_core}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    ALLOWED[f"{_core}.numeric", "_frombuffer"] = np.empty(1).__reduce_ex__(5)[0]

LISTS = ("easy", "hard", "junk")
_NAMES = ("imlist", "qimlist")


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, texts, numbers and arrays of numpy, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


@dataclass(frozen=True)
class Revisited:
    """A benchmark.

    Attributes
    ----------
    name : str
        ``roxford5k``, say.
    images, queries : FolderImages
        What is searched, and what is asked for.
    boxes : ndarray, (queries, 4) float64
        Left, top, right and bottom of each query's building.
    judgements : list of dict
        For each query the numbers of its ``easy``, ``hard`` and ``junk`` images.
    """

    name: str
    images: FolderImages
    queries: FolderImages
    boxes: NDArray[np.float64]
    judgements: list[dict[str, NDArray[np.int64]]]

    def query(self, index: int, *, crop: bool = True) -> Image.Image:
        """A query as an image; the official protocol cuts it to its box before anything else is done.

        Raises
        ------
        ValueError
            If the image cannot be read, or the box holds no pixel of it.
        """
        image = Image.fromarray(self.queries.pixels(index)[0])
        if not crop:
            return image
        left, top, right, bottom = (round(float(side)) for side in self.boxes[index])
        inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise ValueError(
                f"the box {self.boxes[index].tolist()} of the query {self.queries.path(index)} holds nothing of its "
                f"{image.width} x {image.height} pixels"
            )
        return image.crop(inside)


def open_revisited(folder: str | Path) -> Revisited:
    """Open a benchmark; images are looked up, and none is read.

    Raises
    ------
    FileNotFoundError
        If the folder, its pickle or an image that the pickle names is not there.
    ValueError
        If the pickle is damaged, asks for anything that judgements do not need (which is then not done), or is not laid
        out as above.
    """
    folder = existing_folder(folder, "benchmark", "gnd_roxford5k.pkl or gnd_rparis6k.pkl, and the images in jpg")
    found = sorted(folder.glob("gnd_*.pkl"))
    if len(found) != 1:
        inside = sorted(path.parent.name for path in folder.glob("*/gnd_*.pkl"))
        hint = f"; give one of the folders in it: {', '.join(inside)}" if inside else ""
        raise FileNotFoundError(f"{folder} must hold one gnd_*.pkl, and holds {len(found)}{hint}")
    content = read_judgements(found[0])
    name = found[0].stem.removeprefix("gnd_")
    sources = {key: FolderImages(folder / "jpg", [f"{image}.jpg" for image in content[key]]) for key in _NAMES}
    for key, source in sources.items():
        absent = [source.path(i) for i in range(len(source)) if not source.path(i).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{found[0]} names {len(absent):,} images in {key} that are not there, {absent[0]} first: unpack the "
                "images of the benchmark into jpg"
            )
    boxes = np.array([query["bbx"] for query in content["gnd"]], dtype=np.float64)
    judgements = [{key: query[key] for key in LISTS} for query in content["gnd"]]
    return Revisited(name, sources["imlist"], sources["qimlist"], boxes, judgements)


def read_judgements(path: Path) -> dict[str, Any]:
    """Contents of the pickle: ``imlist`` and ``qimlist`` as lists of texts, ``gnd`` with arrays.

    Raises
    ------
    ValueError
        As `open_revisited`.
    """
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="latin1").load()  # Python 2 wrote arrays as text
    except OSError:
        raise
    except Exception as error:  # a damaged pickle fails in any way whatever
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} was refused, and nothing in it was run: {reason}; judgements are dictionaries, lists, texts, "
            "numbers and arrays. Fetch it again from where the benchmark is published"
        ) from None
    return _checked(content, path)


def _checked(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not {*_NAMES, "gnd"} <= content.keys():
        raise ValueError(f"{path} must hold a dictionary with imlist, qimlist and gnd, as the benchmark is published")
    names = {key: [str(name) for name in content[key]] for key in _NAMES}
    for key, found in names.items():
        if not found:
            raise ValueError(f"{path}: {key} is empty")
        if outside := [name for name in found if "/" in name or "\\" in name or name in ("", "..")]:
            raise ValueError(f"{path}: {key} names {outside[0]!r}, which is no image of jpg")
    queries = list(content["gnd"])
    if len(queries) != len(names["qimlist"]):
        raise ValueError(f"{path}: gnd judges {len(queries)} queries, qimlist names {len(names['qimlist'])}")
    return {**names, "gnd": [_query(query, i, len(names["imlist"]), path) for i, query in enumerate(queries)]}


def _query(query: Any, number: int, n_images: int, path: Path) -> dict[str, NDArray]:
    """One query's lists and box, as arrays."""
    missing = [key for key in (*LISTS, "bbx") if not isinstance(query, dict) or key not in query]
    if missing:
        raise ValueError(f"{path}: query {number} lacks {', '.join(missing)}")
    found: dict[str, NDArray] = {}
    for key in LISTS:
        numbers = np.asarray(query[key]).reshape(-1)
        if numbers.size and (numbers.dtype.kind not in "iuf" or (numbers != np.floor(numbers)).any()):
            raise ValueError(f"{path}: query {number} holds {numbers.dtype} in {key}, not numbers of images")
        found[key] = numbers.astype(np.int64)
        if outside := [int(n) for n in found[key] if not 0 <= n < n_images]:
            raise ValueError(f"{path}: query {number} names image {outside[0]} in {key}; imlist has {n_images}, from 0")
    box = np.asarray(query["bbx"], dtype=np.float64).reshape(-1)
    if box.size != 4 or not np.isfinite(box).all():
        raise ValueError(f"{path}: query {number} has the box {box.tolist()}, not left, top, right and bottom")
    return {**found, "bbx": box}
