"""Find the originals of altered images among distractors, as on Copydays (mAP on the strong alterations).

``--data`` is a folder with original and strong in it. Images are squashed to ``--size`` pixels (320 if it is not given)
in both directions. DINO's figures are those of ViT-B/8 with 10,000 distractors and a whitening learned on 20,000 other
images, all drawn from YFCC100M.
"""

import argparse

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vmflearn.data.sources import FolderImages, open_images
from vmflearn.evaluate.copies import Whitening, copy_descriptors, copy_scores
from vmflearn.evaluate.copydays import open_copydays
from vmflearn.evaluate.images_digest import images_digest
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.parts import read_ahead, rows_in_parts
from vmflearn.evaluate.report import Report

SIZE = 320


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    parser.add_argument("--distractors", metavar="DIR", help="images that are searched too, and are no originals")
    parser.add_argument("--whitening", metavar="DIR", help="unrelated images to learn a whitening from")


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Mean average precision of the altered images."""
    assert model is not None
    model.backbone.float()  # a file may hold double precision
    size = arguments.size or SIZE
    originals, altered, positives = open_copydays(arguments.data)
    others = {
        name: open_images(folder)
        for name, folder in (("distractors", arguments.distractors), ("whitening", arguments.whitening))
        if folder is not None
    }
    on_device = torch.device(arguments.device)
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))

    def descriptors(source: FolderImages, what: str) -> Tensor:
        def load(number: int) -> Tensor:
            image = Image.fromarray(source.pixels(number)[0]).resize((size, size), Image.Resampling.BICUBIC)
            return (torch.from_numpy(np.array(image)).movedim(2, 0) / 255 - mean) / std

        def compute(numbers: range) -> Tensor:
            images = torch.stack([*read_ahead(load, numbers, arguments.workers)])
            with torch.autocast(on_device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
                rows = [
                    copy_descriptors(model.backbone, batch.to(on_device))
                    for batch in images.split(arguments.batch_size)
                ]
            return torch.cat(rows)

        return rows_in_parts(
            len(source),
            compute,
            what=what,
            cache=arguments.cache,
            key={
                "protocol": "copies",
                "weights": model.digest,
                "images": images_digest(source),
                "size": size,
                "precision": arguments.precision,
                "mean": model.mean,
                "std": model.std,
            },
        )

    queries, searched = descriptors(altered, "altered images"), descriptors(originals, "originals")
    found = {name: descriptors(source, name) for name, source in others.items()}
    if "distractors" in found:
        searched = torch.cat([searched, found["distractors"]])
    if "whitening" in found:
        whitening = Whitening(found["whitening"])
        queries, searched = whitening(queries), whitening(searched)
    scores = copy_scores(queries, searched, positives)
    low, high = bootstrap_interval(scores, seed=arguments.seed)
    row: dict[str, object] = {"set": "strong", "mAP": float(scores.mean()), "mAP_low": low, "mAP_high": high}
    row |= {"queries": len(altered), "originals": len(originals)}
    row |= {name: len(others[name]) if name in others else 0 for name in ("distractors", "whitening")}
    names = [altered.path(i).name for i in range(len(altered))]
    details: dict[str, object] = {"average_precisions": dict(zip(names, scores.tolist(), strict=True))}
    return Report("copies", [row], {"size": size}, details=details)
