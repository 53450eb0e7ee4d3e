"""ImageNet as the Hugging Face hub gives it out: parquet files with columns ``image`` (bytes, path) and ``label``.

A path ends in the synset id, "n01440764_18_n01440764.JPEG", which is taken off: files get the names that they have in
the archives. The images of train are shuffled, and shards keep that order: to read a file's rows one by one in another
order would mean to decode a whole group of rows for each image.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vmflearn.data.imagenet.classes import Classes
from vmflearn.data.imagenet.part import UNKNOWN, Part

PARTS = {"train": "train", "validation": "val"}
"""What the hub calls the parts, and what they are called here."""

_NAME = re.compile(r"(?P<stem>.*)_(?P<synset>n\d{8})(?P<suffix>\.\w+)")


class ParquetPart(Part):
    """Rows of parquet files."""

    def __init__(self, title: str, names: Sequence[str], rows: Sequence[tuple[Path, int, int]]) -> None:
        super().__init__(title, names, [UNKNOWN] * len(names))
        self._rows = list(rows)
        self._group: tuple[Path, int] | None = None
        self._contents: list[dict[str, bytes | None]] = []

    def read_bytes(self, index: int) -> bytes:
        """Contents of a file; the group of rows around it is kept for the next one."""
        path, group, row = self._rows[index]
        if self._group != (path, group):
            with _open(path) as file:
                self._contents = file.read_row_group(group, columns=["image.bytes"])["image"].to_pylist()
            self._group = path, group
        contents = self._contents[row]["bytes"]
        if not contents:
            raise ValueError(f"{path} has a row without an image, {self.names[index]}")
        return contents


def parquet_parts(files: Sequence[Path]) -> tuple[list[Part], Classes]:
    """The parts that are there, ``train-*.parquet`` and ``validation-*.parquet``.

    Raises
    ------
    ValueError
        If pyarrow is not installed, a file cannot be read or lacks the columns, or labels and synset ids disagree.
    """
    parts: list[Part] = []
    words: dict[str, str] = {}
    for prefix, title in PARTS.items():
        names: list[str] = []
        rows: list[tuple[Path, int, int]] = []
        synsets: dict[int, str] = {}
        chosen = [path for path in files if path.name.startswith(prefix)]
        for path in tqdm(chosen, desc=f"listing {title}", unit=" files", disable=None):
            with _open(path) as file:
                spoken = _words(file)
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=["image.path", "label"])
                    for row, (image, label) in enumerate(
                        zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)
                    ):
                        synset, name = _place(path, image, label)
                        if synsets.setdefault(label, synset) != synset:
                            raise ValueError(
                                f"{path} gives the label {label} to {synsets[label]} and to {synset}; download it again"
                            )
                        names.append(f"{synset}/{name}")
                        rows.append((path, group, row))
        if names:
            if len(set(synsets.values())) < len(synsets):
                raise ValueError(f"the {title} part has classes with two labels; download it again")
            words |= {synset: spoken[label] for label, synset in synsets.items() if label < len(spoken)}
            parts.append(ParquetPart(title, names, rows))
    if not parts:
        raise ValueError(f"{files[0].parent} holds neither train-*.parquet nor validation-*.parquet")
    return parts, Classes(words=words)


def _place(path: Path, image: Any, label: Any) -> tuple[str, str]:
    """Synset id and file name of a row."""
    text = (image or {}).get("path")
    found = _NAME.fullmatch(text or "")
    if found is None or not isinstance(label, int) or label < 0:
        raise ValueError(
            f"{path} has a row with path {text!r} and label {label!r}; expected a label, and a file name that ends in "
            "the synset id, such as n01440764_18_n01440764.JPEG"
        )
    return found["synset"], f"{Path(found['stem']).name}{found['suffix']}"


def _open(path: Path) -> Any:
    """A parquet file that has the columns."""
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise ValueError(f"{path} is a parquet file, and reading it needs pyarrow: pip install pyarrow") from None
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ValueError(f"{path} is no whole parquet file ({str(error).splitlines()[0]}); download it again") from None
    missing = [name for name in ("image", "label") if name not in file.schema_arrow.names]
    if missing:
        raise ValueError(f"{path} has no column {' or '.join(missing)}; it has {', '.join(file.schema_arrow.names)}")
    return file


def _words(file: Any) -> list[str]:
    """Names of the classes by label, as the library datasets notes them in a file."""
    try:
        note = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        return list(note["info"]["features"]["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return []
