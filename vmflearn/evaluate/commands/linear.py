"""Train linear classifiers on frozen features, with all learning rates of a sweep at once."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vmflearn import distributed
from vmflearn.backbones.creation import evaluation_mode
from vmflearn.data.decoding import ImageSource
from vmflearn.data.workers import WorkerLoader
from vmflearn.evaluate.agreement import check_same
from vmflearn.evaluate.augmented import Augmented
from vmflearn.evaluate.commands.labelled import add_data_arguments, features_of, open_labelled
from vmflearn.evaluate.images_digest import images_digest
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.linear import RATES, LinearSweep, epoch_order
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.readouts import OUTPUT, Readout, last_blocks
from vmflearn.evaluate.report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    add_data_arguments(parser)
    parser.add_argument(
        "--blocks",
        type=int,
        default=4,
        help="class tokens of the last blocks: 4 as DINO for ViT-S, 1 for the last alone, 0 for what a network without "
        "class tokens gives (default: %(default)s)",
    )
    parser.add_argument(
        "--mean-patches", action="store_true", help="and the mean patch token: with --blocks 1 as DINO for ViT-B"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="for batches of 256 images")
    parser.add_argument("--epochs", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--train-batch-size", type=int, default=1024, help="of all processes (default: %(default)s)")
    parser.add_argument(
        "--frozen", action="store_true", help="features of central squares, made once, in place of augmented images"
    )


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Accuracies of every learning rate: of its best epoch, which is what is published, and of its last."""
    assert model is not None
    if arguments.train_batch_size < distributed.world_size():
        raise ValueError(f"--train-batch-size must be 1 or more for each process, got {arguments.train_batch_size}")
    readout = last_blocks(arguments.blocks, mean_patches=arguments.mean_patches) if arguments.blocks else OUTPUT
    train, test, model = open_labelled(arguments, model)
    tested = features_of(arguments, model, test, "test", readout)
    notes = [f"test: {note}" for note in tested.notes]
    x_test, n_classes = tested.tensor(arguments.device), len(train.class_names)
    trained = features_of(arguments, model, train, "train", readout) if arguments.frozen else None
    if trained is not None:
        notes += [f"train: {note}" for note in trained.notes]
    settings = {"epochs": arguments.epochs, "seed": arguments.seed, "device": arguments.device}
    sweep = LinearSweep(arguments.rates, x_test.shape[1], n_classes, **settings)
    state = _State(arguments, model, readout, train, test)
    hits = distributed.all_or_none(lambda: state.resume(sweep))
    check_same({"epochs that --cache holds": len(hits)})
    if trained is not None:
        x, y = trained.tensor(arguments.device), trained.labels.to(arguments.device)
    quiet = distributed.rank() > 0 or not sys.stderr.isatty()
    for epoch in tqdm(range(sweep.epoch, arguments.epochs), desc="epochs", disable=quiet, dynamic_ncols=True):
        if trained is not None:
            for rows in _shares(epoch_order(len(y), arguments.seed, epoch), arguments.train_batch_size):
                sweep.step(x[rows.to(x.device)], y[rows.to(y.device)])
        else:
            for features, labels in _augmented(arguments, model, readout, train, epoch, x_test.shape[1]):
                sweep.step(features, labels)
        sweep.end_epoch()
        scores = sweep.scores(x_test)
        answered = scores.isfinite().all(dim=2)  # the largest of what is no number is the first class
        hits.append((scores.argmax(dim=2).cpu() == tested.labels) & answered.cpu())
        state.save(sweep, hits)
    ends = sweep.scores(x_test).isfinite().all(dim=2).all(dim=1).tolist()
    diverged = [f"{rate:g}" for rate, is_finite in zip(arguments.rates, ends, strict=True) if not is_finite]
    if diverged:
        notes.append(f"diverged, their answers count as wrong from then on: learning rates {', '.join(diverged)}")
    found = [_row(rate, torch.stack([right[i] for right in hits])) for i, rate in enumerate(arguments.rates)]
    best = max(found, key=lambda row: row["top1"])
    notes.append(f"learning rate {best['rate']:g} is the best, chosen by the test images, as is published")
    results: list[dict[str, object]] = [dict(row) for row in found]
    return Report("linear", results, {"features": readout.name, "width": x_test.shape[1]}, notes)


def _row(rate: float, right: Tensor) -> dict[str, float]:
    """One learning rate, with its answers (epochs, n)."""
    accuracies = right.double().mean(dim=1)
    best = int(accuracies.argmax())
    low, high = bootstrap_interval(right[best].numpy())
    row = {"rate": rate, "top1": float(accuracies[best]), "top1_low": low, "top1_high": high}
    return {**row, "epoch": best + 1, "last_top1": float(accuracies[-1])}


def _shares(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The part of this process of every batch."""
    for batch in order.split(batch_size):
        yield batch[distributed.rank() :: distributed.world_size()]


def _augmented(
    arguments: argparse.Namespace, model: Model, readout: Readout, source: ImageSource, epoch: int, width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and classes of one epoch's views."""
    order = epoch_order(len(source), arguments.seed, epoch)
    batches = [rows.tolist() for rows in _shares(order, arguments.train_batch_size)]
    pieces = [rows[i : i + arguments.batch_size] for rows in batches for i in range(0, len(rows), arguments.batch_size)]
    views = Augmented(source, model.size, arguments.seed, epoch)
    loader = iter(WorkerLoader(views, workers=arguments.workers, batch_sampler=pieces))
    mean, std = (torch.tensor(c, device=arguments.device)[:, None, None] for c in (model.mean, model.std))
    dtype = next(p.dtype for p in model.backbone.parameters())
    for rows in batches:
        features, labels = [], []
        for _ in range(0, len(rows), arguments.batch_size):
            pixels, indices, readable = next(loader)
            if not readable.any():
                continue
            inputs = ((pixels[readable].to(arguments.device) / 255 - mean) / std).to(dtype)
            bf16 = arguments.precision == "bf16"
            with (
                evaluation_mode(model.backbone),
                torch.autocast(torch.device(arguments.device).type, torch.bfloat16, enabled=bf16),
            ):
                features.append(readout.read(model.backbone, inputs).float())
            labels.append(source.labels[indices[readable]])
        if features:
            yield torch.cat(features), torch.cat(labels)
        else:
            yield torch.zeros(0, width, device=arguments.device), torch.zeros(0, dtype=torch.int64)


class _State:
    """The classifiers after each epoch, in the cache."""

    def __init__(
        self, arguments: argparse.Namespace, model: Model, readout: Readout, train: ImageSource, test: ImageSource
    ) -> None:
        told = {
            name: getattr(arguments, name)
            for name in ("rates", "epochs", "train_batch_size", "frozen", "seed", "precision")
        }
        told |= {"weights": model.digest, "size": model.size, "resized": model.resized, "features": readout.name}
        told |= {"mean": list(model.mean), "std": list(model.std)}
        told |= {"train": images_digest(train), "test": images_digest(test)}
        check_same(told)
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
        self._path: Path | None = None if arguments.cache is None else arguments.cache / f"linear-{key}.pt"

    def resume(self, sweep: LinearSweep) -> list[Tensor]:
        """Fill a sweep from what was saved; the answers of its epochs so far."""
        if self._path is None or not self._path.exists():
            return []
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
            state, hits = saved["sweep"], list(saved["hits"])
        except Exception as error:  # a damaged file fails in any way whatever
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise ValueError(f"{self._path} cannot be read ({reason}): remove it to train anew") from None
        sweep.load_state_dict(state)
        return hits

    def save(self, sweep: LinearSweep, hits: list[Tensor]) -> None:
        """Write the state, whole or not at all."""
        if self._path is None or distributed.rank() > 0:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        torch.save({"sweep": sweep.state_dict(), "hits": hits}, aside)
        os.replace(aside, self._path)
