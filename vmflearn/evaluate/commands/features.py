"""Extract the features of training and test images into a cache, for protocols and notebooks to come."""

import argparse
import time

from vmflearn.evaluate.commands.labelled import add_data_arguments, features_of, open_labelled
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.readouts import BEFORE_NORM, OUTPUT, last_blocks
from vmflearn.evaluate.report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    add_data_arguments(parser)
    parser.add_argument(
        "--features",
        choices=("output", "blocks", "before-norm"),
        default="output",
        help="the network's output, class tokens of the last blocks, or the class token before the final norm",
    )
    parser.add_argument("--blocks", type=int, default=4, help="with --features blocks (default: %(default)s)")
    parser.add_argument("--mean-patches", action="store_true", help="with --features blocks: and the mean patch token")


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Sizes, and the rate at which features were made: that of reading them where the cache has them already."""
    assert model is not None
    if arguments.cache is None:
        raise ValueError("--cache says where the features are to be kept, and is needed here")
    readout = {"output": OUTPUT, "before-norm": BEFORE_NORM}.get(arguments.features)
    readout = readout or last_blocks(arguments.blocks, mean_patches=arguments.mean_patches)
    train, test, model = open_labelled(arguments, model)
    rows: list[dict[str, object]] = []
    notes = []
    for title, source in (("train", train), ("test", test)):
        start = time.perf_counter()
        found = features_of(arguments, model, source, title, readout)
        seconds = time.perf_counter() - start
        notes += [f"{title}: {note}" for note in found.notes]
        n, width = found.values.shape
        rows.append({"part": title, "images": n, "width": width, "images_per_second": n / seconds})
    return Report("features", rows, {"readout": readout.name}, notes)
