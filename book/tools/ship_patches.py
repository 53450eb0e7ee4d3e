"""Pack the finished runs of `scripts/configs/photos_patches.yaml` for chapter 10.

    python book/tools/ship_patches.py runs/photos_patches [runs/photos_ablation]

Writes book/models/ibot.pt and ibot_vmf.pt, the teachers of seed 0 with both of their centres in float16, which
`load_published` reads, and book/results/photos_patches.json: for every run what it reached, its curves, and what its
teacher makes of the patches of the test photographs. The second folder holds runs of `photos_ablation.yaml`, the same
recipe without patches, of which only the last is measured.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from chapters import BOOK
from ship_models import ORIGIN, halved
from torch import Tensor, nn

from vmflearn.backbones.tokens import token_features
from vmflearn.data.photos import PHOTOGRAPHS, TRAIN_SHARE, load_photograph
from vmflearn.monitor.statistics import teacher_statistics
from vmflearn.ssl import DINOHead, LogitCentering, ProbabilityCentering, load_published
from vmflearn.train.checkpoints.checkpoint import load_newest
from vmflearn.train.runs.records import read_metrics
from vmflearn.views.photometric import normalize

NAMES = {"none+logit": "ibot", "vmf+probability": "ibot_vmf"}
"""Cells of the ablation, and what the files are called."""

REACHED = ("step", "knn_top1", "linear_top1", "loss", "patch_loss", "teacher_entropy", "components_used")
CURVES = ("step", "loss", "patch_loss", "teacher_entropy", "teacher_information")
TEACHER_TEMP, WINDOW, PATCH = 0.04, 32, 8


def half_size(name: str) -> Tensor:
    """A photograph at half its size, (3, height, width) in [0, 1]: the scale of the crops that training sees."""
    picture = torch.from_numpy(load_photograph(name).copy()).permute(2, 0, 1).float() / 255
    size = [side // 2 for side in picture.shape[1:]]
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


def unseen(name: str) -> Tensor:
    """The right part of a photograph at half size, which no training patch touches."""
    picture = half_size(name)
    return picture[:, :, round(TRAIN_SHARE * picture.shape[2]) :]


def windows(picture: Tensor, top: int = 0, left: int = 0) -> tuple[Tensor, tuple[int, int]]:
    """Windows of 32 pixels that tile a picture (3, H, W) from (top, left) on, and how many in height and width."""
    tiles = picture[:, top:, left:].unfold(1, WINDOW, WINDOW).unfold(2, WINDOW, WINDOW)  # (3, rows, columns, 32, 32)
    rows, columns = tiles.shape[1:3]
    return tiles.permute(1, 2, 0, 3, 4).flatten(0, 1), (rows, columns)


@torch.no_grad()
def patch_vectors(
    backbone: nn.Module, head: DINOHead, pictures: Sequence[Tensor], top: int = 0, left: int = 0
) -> list[Tensor]:
    """Bottleneck vectors of the patches of tiled pictures, each as a map (patches high, patches wide, dim).

    As in training, batch normalisation in the head takes its statistics over the patches at hand: all of them.
    """
    cut = [windows(picture, top, left) for picture in pictures]
    tokens = token_features(backbone, normalize(torch.cat([tiles for tiles, _ in cut])))[:, 1:]
    y = copy.deepcopy(head).train().bottleneck(tokens)  # a copy: the running statistics stay as they are
    side = WINDOW // PATCH
    return [
        own.reshape(rows, columns, side, side, -1).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        for own, (rows, columns) in zip(y.split([len(tiles) for tiles, _ in cut]), (g for _, g in cut), strict=True)
    ]


def agreement(a: Tensor, b: Tensor) -> float:
    """Cohen's kappa of two labellings: 1 if they always agree, 0 if as often as their frequencies alone would."""
    n = int(max(a.max(), b.max())) + 1
    observed = float((a == b).double().mean())
    shares = [torch.bincount(labels.flatten(), minlength=n).double() / labels.numel() for labels in (a, b)]
    by_chance = float(shares[0] @ shares[1])
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def centering_of(saved: dict[str, Any], key: str) -> LogitCentering | ProbabilityCentering:
    """A centre of a packed run, by its name there."""
    kind = {"logit": LogitCentering, "probability": ProbabilityCentering}[saved["config"]["teacher"]["centering"]]
    center = saved[key]["center"]
    centering = kind(len(center))
    centering.center.copy_(center)
    return centering


def measure(backbone: nn.Module, head: DINOHead, centering: LogitCentering | ProbabilityCentering) -> dict[str, float]:
    """What a teacher makes of the patches of the right parts of the photographs, which no training has seen.

    Entropy and information of the targets in nats; how many components are the largest of a patch; and the agreement of
    the components of one and the same patch, seen in two windows that are shifted by a patch.
    """
    right = [unseen(name) for name in PHOTOGRAPHS]
    first, second = (
        [centering.probabilities(head.prototypes(y, TEACHER_TEMP), TEACHER_TEMP) for y in maps]
        for maps in (patch_vectors(backbone, head, right, at, at) for at in (0, PATCH))
    )
    pairs = []
    for one, other in zip(first, second, strict=True):
        same = one.argmax(dim=-1)[1:, 1:], other.argmax(dim=-1)  # shifted by a patch, the pixels are the same
        high, wide = (min(sides) for sides in zip(*(labels.shape for labels in same), strict=True))
        pairs.append([labels[:high, :wide].flatten() for labels in same])
    targets = [one.flatten(0, 1) for one in first]
    all_targets = torch.cat(targets)
    found = teacher_statistics(all_targets)
    a, b = (torch.cat(labels) for labels in zip(*pairs, strict=True))
    return {
        "patch_entropy": found["teacher_entropy"],
        "patch_information": found["teacher_information"],
        "patch_components": len(all_targets.argmax(dim=-1).unique()),
        "shift_agreement": agreement(a, b),
    }


def pack(run: Path, target: Path) -> dict[str, Any]:
    """Pack the teacher of one finished run into a file, and return its versions and its seed."""
    saved = load_newest(run / "checkpoints", lambda text: sys.exit(text))
    metrics = read_metrics(run / "metrics.jsonl") if saved is not None else []
    if saved is None or metrics[-1]["step"] != saved["step"] or "knn_top1" not in metrics[-1]:
        sys.exit(f"{run} is not a finished run: give the same command of scripts/ablation.py again")
    # The teacher sees every patch, and has no use for its copy of the mask token.
    teacher = halved({name: tensor for name, tensor in saved["teacher"].items() if name != "mask_token"})
    packed = {"step": saved["step"], "config": saved["config"], "teacher": teacher}
    torch.save(packed | {key: saved[key] for key in ("centering", "patch_centering")}, target)
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    return {"seed": saved["config"]["seed"], **{key: environment[key] for key in ORIGIN}}


def rounded(value: float) -> float:
    """A number as it is stored; an integer stays one."""
    return round(value, 4) if isinstance(value, float) else value


def summarise(run: Path, packed: Path) -> dict[str, Any]:
    """What one finished run reached, what its teacher makes of patches, and its curves."""
    metrics, saved = read_metrics(run / "metrics.jsonl"), torch.load(packed, weights_only=True)
    backbone, head = load_published(packed)
    assert head is not None
    found = {key: metrics[-1][key] for key in REACHED}
    found |= measure(backbone, head, centering_of(saved, "patch_centering"))
    curves = {key: [rounded(line[key]) for line in metrics] for key in CURVES}
    about = {"cell": run.parent.name, "seed": saved["config"]["seed"]}
    return {**about, **{key: rounded(value) for key, value in found.items()}, "curves": curves}


def unasked(run: Path) -> dict[str, Any]:
    """What the teacher of a run without patches makes of patches, with the one centre that it has."""
    saved = load_newest(run / "checkpoints", lambda text: sys.exit(text))
    assert saved is not None
    with tempfile.TemporaryDirectory() as folder:
        packed = {"step": saved["step"], "config": saved["config"], "teacher": halved(saved["teacher"])}
        torch.save(packed, Path(folder) / "packed.pt")
        backbone, head = load_published(Path(folder) / "packed.pt")
    assert head is not None
    found = measure(backbone, head, centering_of(saved, "centering"))
    about = {"cell": run.parent.name, "seed": saved["config"]["seed"], "step": saved["step"]}
    return {**about, **{key: rounded(value) for key, value in found.items()}}


def main(argv: list[str]) -> int:
    """Pack and measure all runs below a folder."""
    if len(argv) not in (1, 2) or not all(Path(folder).is_dir() for folder in argv):
        sys.exit("usage: python book/tools/ship_patches.py FOLDER [FOLDER], those of scripts/ablation.py's --run-dir")
    torch.set_num_threads(1)
    runs, origin = [], {}
    for run in sorted(Path(argv[0]).glob("*/seed-*")):
        first = run.name == "seed-0"
        with tempfile.TemporaryDirectory() as folder:
            target = BOOK / "models" / f"{NAMES[run.parent.name]}.pt" if first else Path(folder) / "packed.pt"
            about = pack(run, target)
            runs.append(summarise(run, target))
        if first:
            origin[target.stem] = about
            print(f"{target.stem}: {target.stat().st_size / 1e6:.2f} MB, {about}")
    without = [unasked(run) for folder in argv[1:] for run in sorted(Path(folder).glob("*/seed-*"))]
    about, *lists = (
        json.dumps(origin),
        *(",\n".join("  " + json.dumps(run) for run in kind) for kind in (runs, without)),
    )
    results = f'{{\n "origin": {about},\n "runs": [\n{lists[0]}\n ],\n "without": [\n{lists[1]}\n ]\n}}\n'
    (BOOK / "results" / "photos_patches.json").write_text(results, encoding="utf-8")
    for line in (*runs, *without):
        print({key: value for key, value in line.items() if key != "curves"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
