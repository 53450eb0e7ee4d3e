"""Carry the masks of a video's first frame along similar patches, as on DAVIS-2017 (J, F and their mean).

``--data`` is the folder that DAVIS-2017 unpacks to (JPEGImages/480p, Annotations/480p, ImageSets/2017). The masks are
written to ``--masks``, a folder for each sequence, in DAVIS's own format, so that its own program can score them too;
sequences that are there are kept, and the same command goes on with the others. ``--size`` is the shorter side of the
frames (480 if it is not given).
"""

import argparse
import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vmflearn import distributed
from vmflearn.backbones.creation import evaluation_mode
from vmflearn.backbones.tokens import check_tokens, token_features
from vmflearn.data.shard_writing import alone
from vmflearn.environment import write_whole
from vmflearn.evaluate.agreement import check_same
from vmflearn.evaluate.davis import SHORT, Sequence, open_sequence, read_mask, sequence_names, write_mask
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.parts import quiet
from vmflearn.evaluate.propagation import patch_labels, pixel_mask, propagate_labels
from vmflearn.evaluate.report import Report
from vmflearn.evaluate.segmentation import ObjectScores, mean_over_objects, sequence_scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    parser.add_argument("--masks", type=Path, required=True, metavar="DIR", help="where the masks go")
    parser.add_argument("--part", default="val", help="list in ImageSets/2017 (default: %(default)s)")
    parser.add_argument("--n-last", type=int, default=7, help="frames of context but the first (default: %(default)s)")
    parser.add_argument("--radius", type=int, default=12, help="in patches; 0 for no limit (default: %(default)s)")
    parser.add_argument("--k", type=int, default=5, help="similar patches that count (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.1, help="default: %(default)s")


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """J, F and their mean, over all objects and for each sequence."""
    assert model is not None
    model.backbone.float()  # a file may hold double precision
    check_tokens(model.backbone)
    names = sequence_names(arguments.data, arguments.part)
    propagation = {name: getattr(arguments, name) for name in ("n_last", "radius", "k", "temperature")}
    size = arguments.size or SHORT
    settings = {"weights": model.digest, "precision": arguments.precision, "size": size, **propagation}
    check_same({**settings, "sequences": names})
    settings["data"] = str(Path(arguments.data).resolve())  # another folder may have sequences of the same names
    mine = names[distributed.rank() :: distributed.world_size()]

    def work() -> dict[str, list[ObjectScores]]:
        found = {}
        videos = [open_sequence(arguments.data, name) for name in mine]  # what is missing shows before the first hour
        with tqdm(total=sum(map(len, videos)), desc="frames", disable=quiet()) as bar:
            for video in videos:
                folder = arguments.masks / video.name
                if folder.is_dir():
                    bar.update(len(video))
                else:
                    features = _features(video, model, size, arguments.device, arguments.precision)
                    _segment(video, features, model.backbone, folder, propagation, bar)
                found[video.name] = _score(video, folder)
        return found

    scores: dict[str, list[ObjectScores]] = {}
    with contextlib.ExitStack() as held:
        distributed.on_first(lambda: _claim(arguments.masks, settings, held))
        for part in distributed.gather_objects(distributed.all_or_none(work)):
            scores |= part
    everything = [score for name in names for score in scores[name]]
    both = np.array([score.statistics()["JF_mean"] for score in everything])
    low, high = bootstrap_interval(both, seed=arguments.seed)
    rows = [
        _row("all", everything, {"JF_mean_low": low, "JF_mean_high": high}),
        *(_row(name, scores[name]) for name in names),
    ]
    objects = {f"{name}_{number}": score.statistics() for name in names for number, score in enumerate(scores[name], 1)}
    return Report("segmentation", rows, {**settings, "masks": str(arguments.masks)}, details={"objects": objects})


def _claim(folder: Path, settings: dict[str, Any], held: contextlib.ExitStack) -> None:
    """Hold a folder, and note what its masks are made with; ValueError if those that are in it were made otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone(folder))
    noted = folder / "settings.json"
    inside = [path for path in folder.iterdir() if path != noted and not path.name.endswith(".partial")]
    if not noted.is_file() or not inside:  # what was asked for before may have been wrong, and has made nothing
        if inside:
            raise ValueError(f"--masks {folder} holds other things: give a folder of its own")
        write_whole(noted, json.dumps(settings, indent=2) + "\n")
        return
    before = json.loads(noted.read_text())
    changed = [f"{key}: {before.get(key)} -> {value}" for key, value in settings.items() if before.get(key) != value]
    if changed:
        raise ValueError(
            f"--masks {folder} holds masks that were made otherwise ({'; '.join(changed)}): give another folder, or "
            "remove it"
        )


def _features(video: Sequence, model: Model, size: int, device: str, precision: str) -> Iterator[Tensor]:
    """Patch features (h, w, d) of each frame in turn."""
    backbone: Any = model.backbone
    high, wide = backbone.patch_embed.patch_size
    for index in range(len(video)):
        image = video.frame(index, size)[None].to(device)
        with evaluation_mode(backbone), torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"):
            tokens = token_features(backbone, image)[0, backbone.num_prefix_tokens :]
        yield tokens.unflatten(0, (image.shape[-2] // high, image.shape[-1] // wide))


def _segment(
    video: Sequence, features: Iterator[Tensor], backbone: Any, folder: Path, propagation: dict[str, Any], bar: tqdm
) -> None:
    """Write the masks of a sequence; its folder is there when all of them are."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    mask = video.mask(0)
    write_mask(aside / video.masks[0].name, mask)
    first = next(features)
    labels = patch_labels(mask, (*first.shape[:2],), video.n_objects)
    bar.update()
    everything = itertools.chain([first], features)
    for path, soft in zip(video.masks[1:], propagate_labels(everything, labels, **propagation), strict=True):
        write_mask(aside / path.name, pixel_mask(soft, backbone.patch_embed.patch_size, video.size))
        bar.update()
    aside.rename(folder)


def _score(video: Sequence, folder: Path) -> list[ObjectScores]:
    """Scores of the masks that were written."""
    masks = [read_mask(folder / path.name) for path in video.masks]
    return sequence_scores(np.stack([video.mask(i) for i in range(len(video))]), np.stack(masks))


def _row(name: str, scores: list[ObjectScores], interval: dict[str, float] | None = None) -> dict[str, object]:
    statistics = mean_over_objects(scores)
    return {
        "sequence": name,
        "JF_mean": statistics.pop("JF_mean"),
        **(interval or {}),
        **statistics,
        "objects": len(scores),
    }
