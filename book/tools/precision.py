"""How precision and difficulty go together in every run of an ablation on `photos` (chapter 9).

    python book/tools/precision.py runs/photos_ablation runs/photos_book

Each image is given to the component with its largest logit. For each run with free lengths, the rank correlation
(Spearman) between the component's concentration and whether kNN names the image's photograph, over the test patches and
over the train patches (each left out of its own neighbours), goes to book/results/precision.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import yaml
from chapters import BOOK
from scipy import stats
from torch import Tensor, nn

from vmflearn.data import load_photos
from vmflearn.evaluate.features import extract_features
from vmflearn.ssl import DINOHead, load_published

NEIGHBOURS, VOTE_TEMP, TEACHER_TEMP, SIZE = 20, 0.07, 0.04, 32


def correct(queries: Tensor, labels: Tensor, rows: Tensor, row_labels: Tensor, *, leave_out: bool) -> Tensor:
    """Whether the weighted vote of the nearest rows gives each query's class, (n,) bool."""
    similarity = queries @ rows.T
    if leave_out:
        similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(NEIGHBOURS, dim=1)
    weights = (nearest.values / VOTE_TEMP).exp()
    votes = weights.new_zeros(len(queries), int(row_labels.max()) + 1)
    return votes.scatter_add_(1, row_labels[nearest.indices], weights).argmax(dim=1) == labels


class Embedding(nn.Module):
    """Images to the unit vectors of the bottleneck."""

    def __init__(self, backbone: nn.Module, head: DINOHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        """Unit vectors (n, dim) of images (n, 3, height, width)."""
        return self.head.bottleneck(self.backbone(images))


@torch.no_grad()
def correlations(path: Path) -> dict[str, float]:
    """Spearman's correlations of one checkpoint's teacher."""
    backbone, head = load_published(path)
    assert head is not None
    found, train = {}, load_photos("train")
    rows = extract_features(backbone, train.images, size=SIZE)
    for split in ("train", "test"):
        photos = load_photos(split)
        features = extract_features(backbone, photos.images, size=SIZE)
        hits = correct(features, photos.labels, rows, train.labels, leave_out=split == "train")
        y = extract_features(Embedding(backbone, head), photos.images, size=SIZE)
        component = head.prototypes(y, TEACHER_TEMP).argmax(dim=1)
        kappa = head.prototypes.concentrations(TEACHER_TEMP)[component]
        found[split] = round(float(stats.spearmanr(kappa, hits).statistic), 4)
    return found


def main(argv: list[str]) -> int:
    """Measure all runs below some folders."""
    if not argv or not all(Path(folder).is_dir() for folder in argv):
        sys.exit("usage: python book/tools/precision.py FOLDER ..., those of scripts/ablation.py's --run-dir")
    torch.set_num_threads(1)
    runs = []
    for folder in sorted(path for root in argv for path in Path(root).glob("*/seed-*")):
        if not folder.parent.name.startswith("l2"):
            newest = max((folder / "checkpoints").glob("step-*.pt"))
            recipe = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            about = {"recipe": recipe["name"], "cell": folder.parent.name, "seed": recipe["seed"]}
            runs.append(about | correlations(newest))
            print(runs[-1], flush=True)
    text = ",\n".join(json.dumps(run) for run in runs)
    (BOOK / "results" / "precision.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
