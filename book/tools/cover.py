"""Draw the README's figure, `book/_static/readme.png`, from the library and from a finished run of `make pretrain`."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from chapters import BOOK

from vmflearn.data import load_photos
from vmflearn.evaluate import colour_statistics, knn_accuracy, pixel_features
from vmflearn.plots import COLORS, INK, book_style
from vmflearn.sphere.bessel import log_hypergeometric
from vmflearn.train import build_model, load_config
from vmflearn.train.knn_probe import KNNProbe
from vmflearn.train.runs.records import read_metrics

DIM, TEMPERATURE = 256, 0.1


def draw_logits(axis: plt.Axes) -> None:
    """Logit of one picture against the length of a prototype, with (6) and without (3) the normaliser."""
    lengths = torch.linspace(0, 40, 400, dtype=torch.float64)
    kappa = lengths / TEMPERATURE
    for angle, color in ((40, COLORS[0]), (70, COLORS[1])):
        score = kappa * math.cos(math.radians(angle))
        axis.plot(lengths, score, color=color, linestyle="--")
        axis.plot(
            lengths, score - log_hypergeometric(kappa, DIM), color=color, linestyle="-", label=f"picture at {angle}°"
        )
    axis.set_xlabel("length of the prototype")
    axis.set_ylabel("logit (nats)")
    axis.set_ylim(-100, 200)
    axis.legend(loc="upper left")


def draw_run(axis: plt.Axes, run: Path) -> None:
    """kNN accuracy during a run, above what needs no training."""
    train, test = load_photos("train"), load_photos("test")
    for name, features in (("raw pixels", pixel_features), ("colour statistics", colour_statistics)):
        value = knn_accuracy(features(train.images), train.labels, features(test.images), test.labels, k=20)
        axis.axhline(value, color=INK, linewidth=1, linestyle=":")
        axis.annotate(name, (0.98, value - 0.008), xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=9)
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "knn_top1" in line]
    if not lines:
        raise SystemExit(f"no finished run in {run}: run `make pretrain` first")
    config = load_config(run / "config.yaml")
    torch.manual_seed(config.seed)
    untrained = KNNProbe(config, torch.device("cpu"))(build_model(config).backbone)
    steps = [0, *(line["step"] for line in lines)]
    axis.plot(steps, [untrained, *(line["knn_top1"] for line in lines)], marker="o", color=COLORS[0])
    axis.set_xlabel("step")
    axis.set_ylabel("kNN top-1 accuracy")
    axis.set_ylim(0.4, 0.85)


def main() -> None:
    """Draw both panels side by side."""
    book_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
    draw_logits(left)
    draw_run(right, BOOK.parent / "runs" / "photos")
    figure.savefig(BOOK / "_static" / "readme.png", dpi=100)


if __name__ == "__main__":
    main()
