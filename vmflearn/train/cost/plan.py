"""What a run will take, said before it starts: ``scripts/pretrain.py --dry-run``."""

from dataclasses import dataclass, replace

import torch

from vmflearn.data.photos import load_photos
from vmflearn.train.config import Config, ConfigError, check_parts
from vmflearn.train.cost.counting import Cost, count_cost, crop_sizes
from vmflearn.train.cost.matrix_rate import matrix_rate
from vmflearn.train.input.loader import open_training

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Plan:
    """A run, counted.

    Attributes
    ----------
    config : Config
    images : int
        Of the training set.
    devices : int
        Processes that share a batch, one on each device.
    cost : Cost
    peak : float or None
        Matrix rate of this machine's device, operations a second, where a utilisation was given.
    throughput : float or None
        Images a second of all devices together.
    notes : tuple of str
        What was found wrong with the images, where they were counted.
    """

    config: Config
    images: int
    devices: int
    cost: Cost
    peak: float | None = None
    throughput: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.images // self.config.optimizer.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        most = self.config.run.max_steps or self.steps_per_epoch * self.config.run.epochs
        return min(most, self.steps_per_epoch * self.config.run.epochs)

    @property
    def hours(self) -> float | None:
        """Hours of the whole run at the throughput."""
        seen = self.steps * self.config.optimizer.batch_size
        return None if self.throughput is None else seen / self.throughput / 3600


def make_plan(
    config: Config,
    *,
    images: int | None = None,
    devices: int = 1,
    throughput: float | None = None,
    mfu: float | None = None,
) -> Plan:
    """Count a run.

    Parameters
    ----------
    config : Config
    images : int, optional
        Of the training set; without it the set is opened as a run opens it (nothing is downloaded), and counted.
    devices : int
        Processes, one on each device.
    throughput : float, optional
        Images a second of all devices together.
    mfu : float, optional
        In place of `throughput`: the share of the matrix rate that the run is expected to reach. The rate is measured
        on this machine's device, and taken for each of the devices.

    Raises
    ------
    ConfigError
        If the images cannot be counted, do not fill a batch, or a number is out of range.
    """
    if throughput is not None and mfu is not None:
        raise ConfigError("give --throughput or --mfu, not both: each states how fast the run is")
    for name, value in (("--throughput", throughput), ("--mfu", mfu), ("--images", images), ("--devices", devices)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be above 0, not {value:g}")
    if mfu is not None and mfu > 1:
        raise ConfigError(f"--mfu is a share of the matrix rate, in (0, 1], not {mfu:g}")
    batch = config.optimizer.batch_size
    if batch % devices:
        raise ConfigError(f"optimizer.batch_size={batch} is not a multiple of the {devices} devices")
    check_parts(config.optimizer, devices)
    notes: tuple[str, ...] = ()
    if images is None:
        images, notes = _count_images(config)
    if batch > images:
        raise ConfigError(f"optimizer.batch_size={batch} is larger than the data set ({images} images)")
    cost, peak = count_cost(config, devices), None
    if mfu is not None:
        name = config.run.device if config.run.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        peak = matrix_rate(torch.device(name), config.run.precision, seconds=1.0)
        throughput = mfu * peak * devices / cost.operations.total
    return Plan(config, images, devices, cost, peak, throughput, notes)


def _count_images(config: Config) -> tuple[int, tuple[str, ...]]:
    """Size of the training set, and what its source has to say."""
    if config.data.source == "photos":
        return len(load_photos("train").images), ()
    try:
        source = open_training(replace(config.data, download=False))
        return len(source), tuple(source.notes)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the images cannot be counted ({error}); give their number with --images") from None


def describe(plan: Plan) -> str:
    """The plan as an aligned table of names, values and what they mean."""
    config, cost = plan.config, plan.cost
    operations, memory = cost.operations, cost.memory
    sizes = crop_sizes(config)
    crops = " + ".join(f"{sizes.count(side)} x {side}" for side in dict.fromkeys(sizes))
    sections: list[tuple[str, list[tuple[str, str, str]]]] = [
        (
            "parameters",
            [
                ("backbone", f"{cost.backbone:,}", config.model.backbone),
                ("head", f"{cost.head:,}", f"{config.head.out_dim:,} components in {config.head.bottleneck_dim} dim."),
                ("learned", f"{cost.trained:,}", "of the student; the teacher follows"),
            ],
        ),
        (
            "an image",
            [
                ("crops", f"{len(sizes)}", f"{crops} pixels"),
                *(
                    [("tokens", f"{cost.student_tokens:,}", f"of the student; {cost.teacher_tokens:,} of the teacher")]
                    if cost.student_tokens
                    else []
                ),
                ("operations", _giga(operations.total), "GFLOP a step, of which"),
                ("  student", _giga(operations.student_forward + operations.student_backward), "forward and backward"),
                ("  teacher", _giga(operations.teacher), "forward, its views"),
                ("  head", _giga(operations.head + operations.prototypes), "projections and prototypes"),
                ("done again", _giga(operations.repeated), "to save memory; not counted above"),
            ],
        ),
        (
            f"memory of a process ({_share(plan)}, {config.run.precision})",
            [
                ("weights", _bytes(memory.weights), "student, gradients, AdamW, teacher"),
                ("activations", _bytes(memory.activations), "kept for the backward pass"),
                ("last layer", _bytes(memory.last_layer), "logits and targets"),
                ("crops", _bytes(memory.crops), ""),
                ("together", _bytes(memory.total), "an estimate: workspaces of kernels come on top"),
            ],
        ),
        (
            "the run",
            [
                ("images", f"{plan.images:,}", "an epoch"),
                ("steps", f"{plan.steps_per_epoch:,}", f"an epoch, of {config.optimizer.batch_size:,} images"),
                ("epochs", f"{config.run.epochs:,}", ""),
                ("steps", f"{plan.steps:,}", "in all"),
                (
                    "operations",
                    f"{operations.total * plan.steps * config.optimizer.batch_size:.3g}",
                    "FLOP in all",
                ),
                *_speed(plan),
            ],
        ),
    ]
    rows = [row for _, rows in sections for row in rows]
    first, second = (max(len(row[i]) for row in rows) for i in range(2))
    lines = [f"{config.name}: a dry run, nothing is trained"]
    for title, rows in sections:
        lines += ["", title, *(f"  {a:<{first}}  {b:>{second}}  {c}".rstrip() for a, b, c in rows)]
    lines += ["", *(f"note: {note}" for note in plan.notes)] if plan.notes else []
    return "\n".join(lines)


def _share(plan: Plan) -> str:
    """Images that a process takes in a step, and in how many parts."""
    images, parts = plan.config.optimizer.batch_size // plan.devices, plan.config.optimizer.accumulation
    return f"{images} images" + (f" in {parts} parts" if parts > 1 else "")


def _speed(plan: Plan) -> list[tuple[str, str, str]]:
    if plan.throughput is None or plan.hours is None:
        return [("hours", "?", "give --throughput IMAGES_PER_SECOND or --mfu SHARE")]
    rows = []
    if plan.peak is not None:
        rows.append(
            ("matrix rate", f"{plan.peak / 1e12:.3g}", f"TFLOP/s in {plan.config.run.precision}, measured here")
        )
    devices = f"{plan.devices} device{'s' if plan.devices > 1 else ''}"
    return [
        *rows,
        ("images/s", f"{plan.throughput:,.4g}", f"of {devices}, as given" if plan.peak is None else f"of {devices}"),
        ("hours", f"{plan.hours:,.4g}", "expected"),
        ("device hours", f"{plan.hours * plan.devices:,.4g}", f"on {devices}"),
    ]


def _giga(operations: float) -> str:
    return f"{operations / 1e9:,.4g}"


def _bytes(count: float) -> str:
    return f"{count / GIB:,.2f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"
