"""What a result depends on besides its settings, and a way to write it down that leaves no half of a file."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import timm
import torch
import torchvision

from vmflearn import distributed


def describe_environment() -> dict[str, object]:
    """Versions, device, threads, processes, the commit of this code (None outside of git) and the command."""
    try:
        command, here = ["git", "rev-parse", "HEAD"], Path(__file__).parent
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
        commit = found.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    return {
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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is never there in part, whoever else writes it at the same time."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)  # there if the disk is full
