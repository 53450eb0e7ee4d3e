"""What a run folder says about the run: its settings, its surroundings, and the backbone that came out of it."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from vmflearn.environment import describe_environment, write_whole
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.train.checkpoints.checkpoint import link_or_copy
from vmflearn.train.config import Config
from vmflearn.views.photometric import IMAGENET_MEAN, IMAGENET_STD


def write_preamble(config: Config, run_dir: Path) -> None:
    """config.yaml and environment.json of a run folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / "config.yaml", config.to_yaml())
    write_whole(run_dir / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")


def export_backbone(config: Config, model: MultiCropNetwork, run_dir: Path) -> Path:
    """Write a model's backbone so that timm loads it, in two ways that share one file on the disk.

    ``timm.create_model("local-dir:RUN_DIR/backbone", pretrained=True)`` finds config.json and model.safetensors in that
    folder, which is in the form of the Hugging Face hub; ``num_classes=10`` puts a fresh classifier on it. Or
    ``timm.create_model(name, num_classes=0, checkpoint_path="RUN_DIR/backbone.safetensors", **options)`` with the name
    and options of backbone.json. Both give the same features, of images of the network's own size; at other sizes timm
    resizes positions in its own way, and `load_published` as ``position_interpolation`` in both files says.

    Returns
    -------
    Path
        backbone.safetensors. model.safetensors is another name of it, or a copy where the file system has no such.
    """
    path, folder, backbone = run_dir / "backbone.safetensors", run_dir / "backbone", model.backbone
    write_whole(path, save({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}))
    about = {
        "backbone": config.model.backbone,
        "options": config.model.options,
        "position_interpolation": config.model.position_interpolation,
    }
    write_whole(run_dir / "backbone.json", json.dumps(about, indent=2) + "\n")
    folder.mkdir(exist_ok=True)
    aside = folder / "model.tmp"
    aside.unlink(missing_ok=True)
    link_or_copy(path, aside)
    os.replace(aside, folder / "model.safetensors")
    write_whole(folder / "config.json", json.dumps(_timm_config(config, backbone), indent=2) + "\n")
    return path


def _timm_config(config: Config, backbone: nn.Module) -> dict[str, Any]:
    """What timm wants to know of a folder's network: how to make it, and how images come to it."""
    known: Any = backbone.pretrained_cfg
    arguments: Any = backbone.timm_options
    size = config.views.global_size
    if known.get("fixed_input_size"):  # a size that timm's name implies: stated, since input_size is that of the crops
        arguments = {"img_size": list(known["input_size"][-2:])} | arguments
    return {
        "architecture": known["architecture"],
        "num_classes": 0,
        "num_features": backbone.num_features,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": bool(known.get("fixed_input_size")) and not arguments.get("dynamic_img_size"),
            "interpolation": "bicubic",
            "crop_pct": 7 / 8,  # as `KNNProbe` cuts images
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "num_classes": 0,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
        "position_interpolation": config.model.position_interpolation,
    }
