"""Judge a representation by one of the protocols of the paper.

    python scripts/evaluate.py knn --checkpoint runs/photos --data photos
    python scripts/evaluate.py knn --checkpoint dino_deitsmall16_pretrain.pth --data /data/imagenet --cache features
    torchrun --nproc-per-node 8 scripts/evaluate.py knn --checkpoint runs/imagenet --data /data/imagenet ...

``--checkpoint`` is a run's folder, a checkpoint or an exported backbone of a run, a published file of DINO, iBOT or
MSN, or ``timm:NAME``. ``evaluate.py PROTOCOL --help`` says what a protocol takes. It prints a table; ``--output``
writes it as JSON, with every setting, the commit and the digest of the weights. With ``--cache`` the same command
goes on where it was stopped or killed; fine-tuning and video segmentation go on from folders of their own. Ctrl-C exits
with 130, an error with 2.
"""

import argparse
import os
import sys
from pathlib import Path

OWN = ("device", "workers", "batch_size", "output")
"""What each process may have for itself."""
PLACES = ("data", "test_data", "data_root", "checkpoint", "cache", "run_dir", "masks")
PLACES += ("distractors", "whitening", "subset")
"""Nodes may keep the same files in different places."""


def main() -> int:
    """Run the command line; returns the exit status."""
    from vmflearn.evaluate.commands import COMMANDS, load_command

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    chosen = next((word for word in sys.argv[1:] if word in COMMANDS), None)
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name in COMMANDS:
        own = protocols.add_parser(name, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:  # the others are not imported
            command = load_command(name)
            own.description = command.__doc__.strip()
            _add_common(own, command.NEEDS_MODEL, command.NEEDS_DATA)
            command.add_arguments(own)
    arguments = parser.parse_args()

    from vmflearn.train.runs.launch import run_command

    return run_command(lambda: _evaluate(arguments), goes_on="from what is kept")


def _add_common(parser: argparse.ArgumentParser, needs_model: bool, needs_data: bool) -> None:
    """What every protocol takes."""
    parser.add_argument("--data", required=needs_data, help="images, see the text of the protocol")
    if needs_model:
        parser.add_argument("--checkpoint", required=True, help="a run's folder, a file of weights, or timm:NAME")
        parser.add_argument("--which", choices=("teacher", "student"), default="teacher", help="default: %(default)s")
        parser.add_argument("--num-heads", type=int, help="heads of attention, where the file does not tell")
        parser.add_argument("--size", type=int, help="side of the images (default: what the network was trained with)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images (default: none)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep features there, and take them from there")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the result there")


def _evaluate(arguments: argparse.Namespace) -> None:
    """Load the network, follow the protocol, print and write what it found."""
    from vmflearn import distributed
    from vmflearn.evaluate.agreement import check_same
    from vmflearn.evaluate.commands import load_command
    from vmflearn.evaluate.model import load_model
    from vmflearn.evaluate.report import check_output
    from vmflearn.train import ConfigError
    from vmflearn.train.runs.launch import join_processes

    try:
        command, model = load_command(arguments.protocol), None
        join_processes(arguments.device)
        check_same(_shared(arguments))
        arguments.device = _device(arguments.device)
        if arguments.batch_size < 1 or arguments.workers < 0:
            raise ValueError(
                f"--batch-size must be 1 or more and --workers 0 or more, got {arguments.batch_size} and "
                f"{arguments.workers}"
            )
        if arguments.output is not None:
            distributed.on_first(lambda: check_output(arguments.output))
        if command.NEEDS_MODEL:
            model = load_model(
                arguments.checkpoint, which=arguments.which, num_heads=arguments.num_heads, size=arguments.size
            )
            model.backbone.to(arguments.device)
            if model.head is not None:
                model.head.to(arguments.device)
            sides = {"size": model.size, "resized": model.resized}
            check_same({"weights": model.digest, **sides, "mean": model.mean, "std": model.std})
        report = command.run(arguments, model)
    except distributed.ElsewhereError:
        raise
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from error
    settings = {name: value for name, value in vars(arguments).items() if name not in ("protocol", "output")}
    if model is not None:
        settings |= {"checkpoint": model.described, "digest": model.digest, "size": model.size}
        settings |= {"resized": model.resized, "mean": model.mean, "std": model.std}
    report.settings = {**settings, **report.settings}
    if distributed.rank() == 0:
        for note in report.notes:
            print(f"note: {note}", file=sys.stderr)
        try:
            print(report.table(), flush=True)
        finally:  # though nobody may read the table any more
            if arguments.output is not None:
                report.write(arguments.output)


def _shared(arguments: argparse.Namespace) -> dict[str, object]:
    """What processes must be given alike: not how they work, nor where files lie, but whether those are given."""
    kept = {name: value for name, value in vars(arguments).items() if name not in OWN}
    places = {name: "none" if kept[name] is None else "given" for name in PLACES if name in kept}
    return {f"--{name.replace('_', '-')}": value for name, value in {**kept, **places}.items()}


def _device(asked: str) -> str:
    """A device by its name; under torchrun every process has a GPU of its own."""
    import torch

    if asked not in ("auto", "cuda"):
        try:
            torch.empty(0, device=asked)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {asked} cannot be used: {str(error).splitlines()[0]}") from None
        return asked
    if not torch.cuda.is_available():
        if asked == "cuda":
            raise ValueError("--device cuda: PyTorch finds no GPU here; leave it out to compute on the processor")
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while Python and PyTorch were loaded
        print("interrupted before anything was started", file=sys.stderr)
        sys.exit(130)
