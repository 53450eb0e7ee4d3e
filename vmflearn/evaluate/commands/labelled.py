"""What the protocols share that learn from labelled training images and are judged on test images."""

import argparse
from dataclasses import replace

from vmflearn.data.decoding import ImageSource
from vmflearn.evaluate.extraction import Features, extract
from vmflearn.evaluate.model import Model
from vmflearn.evaluate.readouts import OUTPUT, Readout
from vmflearn.evaluate.splits import open_splits


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where training and test images lie."""
    parser.add_argument("--test-data", help="the test images, where --data is the training images themselves")
    parser.add_argument("--data-root", help="where a set known by name (torch/cifar10, hfds/OWNER/NAME) lies")


def open_labelled(arguments: argparse.Namespace, model: Model) -> tuple[ImageSource, ImageSource, Model]:
    """Training and test images, and the model as these are shown to it: the small photographs without a margin."""
    train, test = open_splits(arguments.data, test_data=arguments.test_data, root=arguments.data_root)
    return train, test, replace(model, resized=model.size) if arguments.data == "photos" else model


def features_of(
    arguments: argparse.Namespace, model: Model, source: ImageSource, title: str, readout: Readout = OUTPUT
) -> Features:
    """Features of one source by the settings of the command line."""
    return extract(
        model,
        source,
        readout,
        cache=arguments.cache,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        workers=arguments.workers,
        device=arguments.device,
        title=title,
    )


def labelled_features(
    arguments: argparse.Namespace, model: Model, readout: Readout = OUTPUT
) -> tuple[Features, Features, tuple[str, ...], list[str]]:
    """Features of training and test images, the names of their classes, and what a reader must know."""
    train, test, model = open_labelled(arguments, model)
    x = features_of(arguments, model, train, "train", readout)
    x_test = features_of(arguments, model, test, "test", readout)
    notes = [*(f"train: {note}" for note in x.notes), *(f"test: {note}" for note in x_test.notes)]
    return x, x_test, train.class_names, notes
