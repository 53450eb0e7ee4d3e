"""Rank the images of revisited Oxford or Paris by their similarity to the queries (mAP; easy, medium and hard).

``--data`` is the folder roxford5k or rparis6k as published: gnd_roxford5k.pkl, and the images in jpg. The longer side
of an image is made ``--size`` pixels (512 if it is not given) where it is longer. DINO's Oxford figures were made with
``--size 224 --scales 1 --whole-queries``, its Paris figures with ``--whole-queries``; the official protocol crops the
queries to their boxes.
"""

import argparse

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vmflearn.data.sources import FolderImages
from vmflearn.evaluate.images_digest import images_digest
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.parts import read_ahead, rows_in_parts
from vmflearn.evaluate.report import Report
from vmflearn.evaluate.retrieval import DIFFICULTIES, rank_images, revisited_scores
from vmflearn.evaluate.revisited import open_revisited
from vmflearn.evaluate.scales import SCALES, scale_features

SIZE = 512
CUTOFFS = (1, 5, 10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    parser.add_argument("--scales", type=float, nargs="+", default=[*SCALES], help="default: 1, 1/sqrt(2) and 1/2")
    parser.add_argument("--whole-queries", action="store_true", help="do not crop queries to their boxes, as DINO")


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Mean average precision and precisions among the first 1, 5 and 10."""
    assert model is not None
    model.backbone.float()  # a file may hold double precision
    size = arguments.size or SIZE
    if not all(0 < scale <= 1 for scale in arguments.scales):
        raise ValueError(f"--scales must lie in (0, 1], got {arguments.scales}")
    benchmark = open_revisited(arguments.data)
    on_device = torch.device(arguments.device)
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))

    def prepare(image: Image.Image) -> Tensor:
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        return (torch.from_numpy(np.array(image)).movedim(2, 0) / 255 - mean) / std

    def features(source: FolderImages, *, queries: bool) -> Tensor:
        crop = queries and not arguments.whole_queries

        def load(number: int) -> Tensor:
            if queries:
                return prepare(benchmark.query(number, crop=crop))
            return prepare(Image.fromarray(source.pixels(number)[0]))

        def compute(numbers: range) -> Tensor:
            rows = []
            for image in read_ahead(load, numbers, arguments.workers):
                with torch.autocast(on_device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
                    rows.append(scale_features(model.backbone, image[None].to(on_device), arguments.scales))
            return torch.cat(rows)

        boxes = benchmark.boxes.tolist() if crop else None
        settings = {"scales": arguments.scales, "size": size, "precision": arguments.precision, "boxes": boxes}
        transform = {"mean": model.mean, "std": model.std}
        images = {"images": images_digest(source)}
        return rows_in_parts(
            len(source),
            compute,
            what="queries" if queries else "images",
            cache=arguments.cache,
            key={"protocol": "retrieval", "weights": model.digest, **images, **settings, **transform},
        )

    asked = features(benchmark.queries, queries=True)  # few, and what is wrong with the settings shows at once
    rankings = rank_images(asked, features(benchmark.images, queries=False))
    rows: list[dict[str, object]] = []
    details: dict[str, object] = {}
    notes = []
    for difficulty in DIFFICULTIES:
        scores = revisited_scores(rankings, benchmark.judgements, difficulty, CUTOFFS)
        counted = scores.average_precisions[np.isfinite(scores.average_precisions)]
        low, high = bootstrap_interval(counted, seed=arguments.seed)
        precisions = {f"mP@{k}": value for k, value in scores.mean_precisions.items()}
        rows.append(
            {
                "set": f"{benchmark.name} {difficulty}",
                "mAP": scores.mean_average_precision,
                "mAP_low": low,
                "mAP_high": high,
                **precisions,
                "queries": len(counted),
            }
        )
        details[difficulty] = dict(zip(_names(benchmark.queries), scores.average_precisions.tolist(), strict=True))
        if scores.skipped:
            notes.append(f"{scores.skipped} queries have no positive that is {difficulty}, and do not count")
    settings: dict[str, object] = {"size": size, "queries_cropped": not arguments.whole_queries}
    return Report("retrieval", rows, settings, notes, {"average_precisions": details})


def _names(source: FolderImages) -> list[str]:
    """Names of queries; one photograph may be asked for twice, with two boxes."""
    return [f"{number}: {source.path(number).stem}" for number in range(len(source))]
