"""Pretraining: configuration, schedules, optimiser, checkpoints and the loop that ``scripts/pretrain.py`` runs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmflearn.train.checkpoint import CheckpointError
    from vmflearn.train.config import Config, ConfigError, load_config
    from vmflearn.train.trainer import Interrupted, RunResult, TrainingError, build_model, pretrain

_HOMES = {
    "CheckpointError": "checkpoint",
    "Config": "config",
    "ConfigError": "config",
    "load_config": "config",
    "Interrupted": "trainer",
    "RunResult": "trainer",
    "TrainingError": "trainer",
    "build_model": "trainer",
    "pretrain": "trainer",
}
__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "Interrupted",
    "RunResult",
    "TrainingError",
    "build_model",
    "load_config",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
