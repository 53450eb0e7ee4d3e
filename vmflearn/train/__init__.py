"""Pretraining: configuration, schedules, optimiser, checkpoints and the loop that ``scripts/pretrain.py`` runs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmflearn.train.checkpoints.checkpoint import CheckpointError
    from vmflearn.train.config import Config, ConfigError, load_config
    from vmflearn.train.per_step import StepSettings, step_settings
    from vmflearn.train.runs.stop import Interrupted
    from vmflearn.train.state import build_model
    from vmflearn.train.step import StepResult, TrainingError, training_step
    from vmflearn.train.trainer import RunResult, pretrain

_HOMES = {
    "CheckpointError": "checkpoints.checkpoint",
    "Config": "config",
    "ConfigError": "config",
    "load_config": "config",
    "Interrupted": "runs.stop",
    "RunResult": "trainer",
    "StepResult": "step",
    "StepSettings": "per_step",
    "TrainingError": "step",
    "build_model": "state",
    "pretrain": "trainer",
    "step_settings": "per_step",
    "training_step": "step",
}
__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "Interrupted",
    "RunResult",
    "StepResult",
    "StepSettings",
    "TrainingError",
    "build_model",
    "load_config",
    "pretrain",
    "step_settings",
    "training_step",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
