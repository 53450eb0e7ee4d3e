"""Train the whole network on labelled images, with timm's parts and the recipe of DeiT or of BEiT (top-1).

``--data`` is a folder that holds train and val, ``photos``, or a set known by name. ``--recipe deit`` is for small data
sets, ``beit-small``, ``beit-base`` and ``beit-large`` are for ImageNet with the network of that size; each number of a
recipe can be given in its place. ``--batch-size`` is how many images a process holds at a time: a step sees ``--batch``
of them, over all processes and in as many parts as it takes. The state after each epoch is kept in ``--run-dir``, and
the same command goes on from there.
"""

import argparse
import contextlib
import functools
import itertools
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vmflearn import distributed
from vmflearn.backbones.creation import evaluation_mode
from vmflearn.data.decoding import ImageSource
from vmflearn.data.shard_writing import alone
from vmflearn.evaluate.agreement import check_same
from vmflearn.evaluate.commands.labelled import add_data_arguments, open_labelled
from vmflearn.evaluate.finetune import FineTuning
from vmflearn.evaluate.finetune_images import Images, Order, load, test_transform, train_transform
from vmflearn.evaluate.images_digest import images_digest
from vmflearn.evaluate.intervals import bootstrap_interval
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.parts import quiet
from vmflearn.evaluate.recipes import RECIPES, Recipe
from vmflearn.evaluate.report import Report

KINDS = {"int": int, "float": float, "str": str}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this protocol takes."""
    add_data_arguments(parser)
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="where the state is kept")
    parser.add_argument("--save-every", type=int, default=1, metavar="EPOCHS", help="default: %(default)s")
    parser.add_argument("--recipe", choices=RECIPES, default="deit", help="default: %(default)s")
    numbers = parser.add_argument_group("in place of the recipe's")
    for field in fields(Recipe):
        kind = KINDS[getattr(field.type, "__name__", str(field.type))]
        numbers.add_argument(f"--{field.name.replace('_', '-')}", type=kind)


def run(arguments: argparse.Namespace, model: Model | None) -> Report:
    """Top-1 accuracy, and the mean over classes, after the last epoch."""
    assert model is not None
    model.backbone.float()  # a file may hold double precision
    if arguments.save_every < 1:
        raise ValueError(f"--save-every must be 1 or more, got {arguments.save_every}")
    given = {f.name: getattr(arguments, f.name) for f in fields(Recipe) if getattr(arguments, f.name) is not None}
    recipe = replace(RECIPES[arguments.recipe], **given)
    train, test, model = open_labelled(arguments, model)
    order = Order(len(train), recipe, arguments.seed, arguments.batch_size)
    tuning = FineTuning(
        model.backbone,
        len(train.class_names),
        recipe,
        steps_per_epoch=order.steps_per_epoch,
        seed=arguments.seed,
        precision=arguments.precision,
    )
    settings = {
        "weights": model.digest,
        **asdict(recipe),
        "seed": arguments.seed,
        "images": images_digest(train),
        "size": model.size,
        "mean": list(model.mean),
        "std": list(model.std),
        "precision": arguments.precision,
        "steps_per_epoch": order.steps_per_epoch,
    }
    check_same({**settings, "test images": images_digest(test)})
    views = Images(train, train_transform(model, recipe), arguments.seed)
    with contextlib.ExitStack() as held:
        distributed.on_first(lambda: _hold(arguments.run_dir, held))
        losses = _train(tuning, order, views, settings, arguments)
    predicted = _predict(tuning, Images(test, test_transform(model), arguments.seed), arguments)
    return _report(arguments.recipe, recipe, predicted, test, {**asdict(recipe), **_sizes(train, test)}, losses)


def _hold(folder: Path, held: contextlib.ExitStack) -> None:
    """Make the folder of the state and let no other command write to it, until `held` is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone(folder))


def _train(
    tuning: FineTuning, order: Order, images: Images, settings: dict[str, Any], arguments: argparse.Namespace
) -> list[float]:
    """Train to the end, from the state that is kept; returns the mean loss of each epoch."""
    kept, per_epoch = arguments.run_dir / "state.pt", order.steps_per_epoch
    losses: list[float] = distributed.all_or_none(lambda: _resume(kept, tuning, settings))
    if len(set(distributed.gather_objects(len(losses)))) > 1:
        raise ValueError(f"not all processes find {kept}: --run-dir must be a folder that all nodes share")
    first, last = len(losses) * per_epoch, tuning.recipe.epochs * per_epoch
    batches = load(images, order.steps(first, last), arguments.workers)
    current: list[float] = []
    with tqdm(total=last, initial=first, desc="steps", disable=quiet()) as bar:
        for step in range(first, last):
            current.append(tuning.step(step, itertools.islice(batches, order.parts), order.parts))
            bar.update()
            if (step + 1) % per_epoch == 0:
                loss = torch.tensor(np.mean(current))
                losses.append(float(distributed.mean_over_processes(loss)))
                current = []
                bar.set_postfix(loss=f"{losses[-1]:.4g}")
                if len(losses) % arguments.save_every == 0 or step + 1 == last:
                    distributed.on_first(functools.partial(_save, tuning, losses, settings, kept))
    return losses


def _save(tuning: FineTuning, losses: list[float], settings: dict[str, Any], path: Path) -> None:
    """Write the state aside, then put it in place."""
    aside = path.with_suffix(".tmp")
    torch.save({**tuning.state_dict(), "losses": losses, "settings": settings}, aside)
    os.replace(aside, path)


def _resume(path: Path, tuning: FineTuning, settings: dict[str, Any]) -> list[float]:
    """Take up what is kept; returns the losses of the epochs that are done."""
    if not path.is_file():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, losses = state["settings"], list(state["losses"])
    except Exception as error:  # a damaged file fails in any way whatever
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(f"{path} cannot be read ({reason}): remove it to start afresh") from None
    changed = [f"{key}: {before.get(key)} -> {value}" for key, value in settings.items() if before.get(key) != value]
    if changed:
        raise ValueError(
            f"{path} belongs to another fine-tuning ({'; '.join(changed)}): give another --run-dir, or remove it"
        )
    tuning.load_state_dict(state)
    return losses


def _predict(tuning: FineTuning, images: Images, arguments: argparse.Namespace) -> np.ndarray:
    """Class of each test image; every process looks at its share."""
    n, processes = len(images.source), distributed.world_size()
    mine = range(distributed.rank(), n, processes)
    starts = range(0, len(mine), arguments.batch_size)
    lists = [[(0, i, i) for i in mine[start : start + arguments.batch_size]] for start in starts]
    network, device = tuning.network, torch.device(arguments.device)

    def work() -> list[int]:
        found: list[int] = []
        with evaluation_mode(network), tqdm(total=len(mine), desc="test", disable=quiet()) as bar:
            for batch, _ in load(images, lists, arguments.workers):
                with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
                    found += network(batch.to(device)).argmax(dim=1).tolist()
                bar.update(len(batch))
        return found

    predicted = np.empty(n, dtype=np.int64)
    for rank, part in enumerate(distributed.gather_objects(distributed.all_or_none(work))):
        predicted[rank::processes] = part
    return predicted


def _sizes(train: ImageSource, test: ImageSource) -> dict[str, object]:
    return {"train_images": len(train), "test_images": len(test), "classes": len(train.class_names)}


def _report(
    recipe_name: str,
    recipe: Recipe,
    predicted: np.ndarray,
    test: ImageSource,
    settings: dict[str, object],
    losses: list[float],
) -> Report:
    labels = test.labels.numpy()
    right = predicted == labels
    low, high = bootstrap_interval(right)
    classes = {
        name: float(right[labels == number].mean())
        for number, name in enumerate(test.class_names)
        if (labels == number).any()
    }
    row: dict[str, object] = {"recipe": recipe_name, "epochs": recipe.epochs, "top1": float(right.mean())}
    row |= {
        "top1_low": low,
        "top1_high": high,
        "mean_per_class": float(np.mean([*classes.values()])),
        "loss": losses[-1],
    }
    return Report("finetune", [row], settings, details={"losses": losses, "class_accuracies": classes})
