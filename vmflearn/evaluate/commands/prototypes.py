"""Count unique and void prototypes, and classify by the precision of their components.

Without ``--data`` it counts: Table 4 and Figs. 6 and 7 need the head alone. With it, it finds how the largest set of
duplicates lies to the training images, and the kNN accuracy of test images by percentiles of precision (Fig. 2).
"""

import argparse

from vmflearn.evaluate.commands.labelled import add_data_arguments, labelled_features
from vmflearn.evaluate.knn import knn_votes
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.prototypes import THRESHOLDS, assign, describe_largest, precision_percentiles, utilization
from vmflearn.evaluate.report import Report
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.prototypes import NORMALIZATIONS

NEEDS_DATA = False
TEMPERATURES = {"teacher": 0.07, "student": 0.1}
"""What DINO's schedules end with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    add_data_arguments(parser)
    parser.add_argument(
        "--thresholds",
        type=float,
        nargs="+",
        default=list(THRESHOLDS),
        metavar="COSINE",
        help=f"above which prototypes are duplicates (default: {' '.join(map(str, THRESHOLDS))})",
    )
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="how prototypes score, where the file cannot tell: vmf for a DINO-vMF of other code (default: as it says)",
    )
    parser.add_argument("--temperature", type=float, help="default: 0.07 for a teacher, 0.1 for a student")
    parser.add_argument("--k", type=int, default=20, help="neighbours (default: %(default)s)")


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """A row for each threshold; with data, one for the largest set of each, and one for each range of precision."""
    assert model is not None
    head = model.head
    if head is None:
        raise ValueError(
            f"{model.described} has no head, and the prototypes are in it: give a checkpoint of training, not a "
            "backbone alone"
        )
    if arguments.normalization is not None:
        head.prototypes.normalization = arguments.normalization
    directions = head.prototypes.directions.detach().float()
    found = utilization(directions, arguments.thresholds)
    rows: list[dict[str, object]] = [
        {"threshold": threshold, "unique": unique.count, "largest": unique.largest}
        for threshold, unique in found.items()
    ]
    settings: dict[str, object] = {"prototypes": len(directions), "normalization": head.prototypes.normalization}
    if arguments.data is None:
        return Report("prototypes", rows, settings)
    temperature = TEMPERATURES[arguments.which] if arguments.temperature is None else arguments.temperature
    train, test, names, notes = labelled_features(arguments, model)
    assigned = assign(head, train.values, temperature)
    for row, unique in zip(rows, found.values(), strict=True):
        largest = describe_largest(directions, unique, assigned)
        row |= {"images_of_largest": largest.images, "cosine_of_largest": largest.cosine, "void": largest.void}
    (votes,) = knn_votes(
        train.values,
        train.labels,
        test.tensor(arguments.device),
        test.labels,
        ks=[arguments.k],
        n_classes=len(names),
    )
    judged = assign(head, test.values, temperature)
    ranges = precision_percentiles(judged.precision.cpu(), votes.hits().cpu())
    for each in ranges:
        low, high = each.interval
        rows.append(
            {
                "percentiles": f"{each.low:g}-{each.high:g}",
                "images": each.images,
                "kappa_least": each.precisions[0],
                "kappa_most": each.precisions[1],
                "top1": each.top1,
                "top1_low": low,
                "top1_high": high,
            }
        )
    settings |= {"temperature": temperature, "k": arguments.k}
    settings |= {"train_images": len(train.labels), "test_images": len(test.labels)}
    details: dict[str, object] = {
        "component_of_each_test_image": judged.component.tolist(),
        "right": votes.hits().tolist(),
    }
    return Report("prototypes", rows, settings, [*notes, *_notes(head, len(ranges))], details)


def _notes(head: DINOHead, n_ranges: int) -> list[str]:
    if n_ranges > 1:
        return []
    reason = " because they are normalised" if head.prototypes.normalization == "l2" else ""
    return [f"all images have components of one precision{reason}: accuracy by precision tells nothing here"]
