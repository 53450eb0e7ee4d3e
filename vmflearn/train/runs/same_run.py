"""What belongs to one run: the settings of its processes, of its folder, and of its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vmflearn import distributed
from vmflearn.train.checkpoints.checkpoint import CheckpointError, differences
from vmflearn.train.config import Config, ConfigError

FREE_TO_CHANGE = {
    "data.workers",
    "data.cache",
    "data.source",
    "data.root",
    "data.val_root",
    "data.download",
    "optimizer.accumulation",
    "run.device",
    "run.compile",
    "run.log_every",
    "run.knn_every",
    "run.save_every",
    "run.max_steps",
}
"""Settings that a resumed run may change: where and how to run, and what to look at. The same images may move, from a
folder to shards too; the parts of a batch change a step by rounding, and what batch norm and drop path see."""

FREE_TO_DIFFER = {"data.workers", "data.cache", "data.root", "data.val_root", "run.device"}
"""Settings that each process may have for itself: nodes may keep the same images in different places."""


def check_processes(config: Config) -> None:
    """Refuse processes with different settings; all of them call it.

    Raises
    ------
    ConfigError
        On the first process, with the first key that differs, and its value on every process.
    ElsewhereError
        On the others.
    """
    settings = {key: value for key, value in _flat(config.to_dict()).items() if key not in FREE_TO_DIFFER}
    differences = distributed.differences(settings)

    def refuse() -> None:
        if differences:
            raise ConfigError(
                f"processes of one run have different settings: {differences}; start all with the same command"
            )

    distributed.on_first(refuse)


def check_images(images: Mapping[str, Any]) -> None:
    """Refuse processes that see different images, by their description; all of them call it. Raises as above."""
    unlike = distributed.unlike(images)

    def refuse() -> None:
        for name, each in unlike.items():
            place = "data.val_root" if name.startswith("validation") else "data.root"
            rank = next(rank for rank, other in enumerate(each) if other != each[0])
            raise ConfigError(
                f"process {rank} sees other images in {place} than the first one; give all nodes the same"
            )

    distributed.on_first(refuse)


def check_checkpoint(config: Config, saved: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse to go on from a checkpoint under other settings than those it was made with."""
    free = FREE_TO_CHANGE if "described" in saved else FREE_TO_CHANGE - {"data.source"}  # nothing to know images by
    _refuse(config, saved["config"], free, run_dir / "checkpoints")


def check_folder(config: Config, run_dir: Path) -> None:
    """Refuse to start afresh in a folder without checkpoints that holds a run's records or another run's settings.

    A run has a checkpoint before it has a line of records, so that records without one are those of a run whose
    checkpoints have gone.
    """
    records, settings = run_dir / "metrics.jsonl", run_dir / "config.yaml"
    if records.exists() and records.stat().st_size > 0:
        raise CheckpointError(
            f"{run_dir} holds the records of a run, and no checkpoint to go on from: bring its checkpoints back, give "
            "another run folder with --run-dir, or remove this one to start afresh"
        )
    if settings.exists():
        try:
            saved = yaml.safe_load(settings.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            saved = None
        if not isinstance(saved, dict):
            raise CheckpointError(f"{settings} is not that of a run; give another run folder with --run-dir")
        _refuse(config, saved, FREE_TO_CHANGE, run_dir)


def _refuse(config: Config, saved: Mapping[str, Any], free: set[str], place: Path) -> None:
    lines = differences(dict(saved), config.to_dict(), Config().to_dict())
    lines = [line for line in lines if line.partition(":")[0] not in free]
    if lines:
        raise CheckpointError(
            f"{place} holds a run of another configuration ({'; '.join(lines)}); give another run folder with "
            "--run-dir, or the settings it was started with"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
