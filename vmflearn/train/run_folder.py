"""What a run folder says about the run: its settings, its surroundings, and the backbone that came out of it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import timm
import torch
import torchvision
from safetensors.torch import save

from vmflearn import distributed
from vmflearn.ssl.methods import MultiCropNetwork
from vmflearn.train.config import Config


def write_preamble(config: Config, run_dir: Path) -> None:
    """config.yaml and environment.json of a run folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    _write(run_dir / "config.yaml", config.to_yaml())
    try:
        command, here = ["git", "rev-parse", "HEAD"], Path(__file__).parent
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
        commit = found.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "git_commit": commit,
        "command": sys.argv,
    }
    _write(run_dir / "environment.json", json.dumps(environment, indent=2) + "\n")


def _write(path: Path, content: str | bytes) -> None:
    """Write a file that is never there in part."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(aside, path)


def export_backbone(config: Config, model: MultiCropNetwork, run_dir: Path) -> Path:
    """Write a model's backbone so that timm loads it.

    ``timm.create_model(name, num_classes=0, checkpoint_path="backbone.safetensors", **options)`` with the name and
    options of backbone.json beside it gives the same features.
    """
    path = run_dir / "backbone.safetensors"
    _write(path, save({name: tensor.contiguous() for name, tensor in model.backbone.state_dict().items()}))
    about = {
        "backbone": config.model.backbone,
        "options": config.model.options,
        "position_interpolation": config.model.position_interpolation,
    }
    _write(run_dir / "backbone.json", json.dumps(about, indent=2) + "\n")
    return path
