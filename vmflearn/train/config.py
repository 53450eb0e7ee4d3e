"""The configuration of a run: dataclasses, a YAML file, overrides, and checks that speak before anything starts.

Every field has a default, so a YAML file states only what differs. An unknown key, a value of the wrong type and a pair
of settings that cannot go together are each one ``ConfigError`` with one line that says what to change.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key, the value and what is possible."""


@dataclass
class DataConfig:
    """Where images come from."""

    source: Literal["photos", "folder", "shards", "timm"] = "photos"
    """``photos``: patches of the photographs inside scikit-image and scikit-learn. ``folder``: any folder of images.
    ``shards``: a folder of tar files (``scripts/make_shards.py`` or WebDataset). ``timm``: a data set by its name.
    """
    root: str | None = None
    """Folder of training images, with or without class sub-folders, or of shards, or where a named set is kept."""
    val_root: str | None = None
    """Folder of labelled validation images for kNN, of the same kind; class sub-folders named as in ``root``."""
    name: str | None = None
    """For ``timm``: ``torch/cifar10``, ``torch/imagenet``, ``hfds/OWNER/NAME``, ... (what has an index)."""
    split: str = "train"
    """For ``timm``: the part to train on."""
    val_split: str | None = None
    """For ``timm``: the labelled part for kNN, ``validation`` say."""
    download: bool = False
    """For ``timm``: whether torchvision may download what is missing in ``root``."""
    workers: int = 0
    """Processes that decode images."""
    max_side: int = 512
    """Images with a longer side are decoded at this size (0: never). Crops are drawn on the original size; at 512 the
    smallest local box (0.05 of the area) still has the pixels of a 96-pixel crop.
    """
    cache: Literal["auto", True, False] = "auto"
    """Decode once and keep all images on the device: ``auto``, if they have one size and fit; ``true``: they must."""

    @property
    def labelled(self) -> bool:
        """Whether there are labelled images to evaluate on."""
        return self.source == "photos" or self.val_root is not None or self.val_split is not None


@dataclass
class ViewsConfig:
    """Multi-crop: two global views and ``n_local`` local ones (sizes in pixels, scales as shares of the area)."""

    global_size: int = 224
    local_size: int = 96
    n_local: int = 10
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels of the crop; DINO's is for crops of 224 pixels."""
    color_jitter: float = 1.0
    """Strength of the colour jitter, as a multiple of DINO's (0 switches it off, 2.5 is the most)."""
    grey: float = 0.2
    """Probability that a crop loses its colours."""


@dataclass
class ModelConfig:
    """The backbone: a timm name, timm's own options, and the student's stochastic depth."""

    backbone: str = "vit_small_patch16_224"
    options: dict[str, Any] = field(default_factory=dict)
    drop_path: float = 0.1
    stochastic_depth: Literal["sample", "subset"] = "sample"
    """``sample``: drawn for each sample, and all are computed. ``subset``: a share is dropped, and not computed."""
    position_interpolation: Literal["timm", "dino", "msn"] = "timm"
    """How positional embeddings come to the grid of the local crops: timm's way, or as the published code does it."""


@dataclass
class HeadConfig:
    """The projection head and its prototypes (the rows of the paper's Table 1 are ``normalization``)."""

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    n_layers: int = 3
    batch_norm: bool = False
    normalization: Literal["none", "l2", "vmf"] = "vmf"
    learn_magnitudes: bool = True
    koleo: float = 0.0
    """Weight of the KoLeo loss on the student's prototype directions, which pushes duplicates apart; 0: off."""


@dataclass
class TeacherConfig:
    """Teacher: EMA, temperature and centring (the columns of the paper's Table 1 are ``centering``)."""

    centering: Literal["logit", "probability", "sinkhorn"] = "probability"
    center_momentum: float = 0.9
    center_normalizer: bool = True
    """Average responsibilities of the whole mixture; false leaves log C_p out of them, as Eq. 9 is printed."""
    momentum: float = 0.996
    """EMA momentum at the first step; it rises to 1 along a cosine."""
    warmup_temp: float = 0.04
    temp: float = 0.07
    temp_warmup_epochs: int = 0
    student_temp: float = 0.1


@dataclass
class OptimizerConfig:
    """AdamW with DINO's schedules."""

    batch_size: int = 1024
    """Images a step, over all processes."""
    accumulation: int = 1
    """Parts into which each process divides its images of a step: as many times less activations, the same step."""
    lr: float = 5e-4
    """Peak learning rate for a batch of 256; it scales with the batch."""
    min_lr: float = 1e-5
    warmup_epochs: int = 10
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    clip_grad: float = 0.0
    """Largest L2 norm of each parameter tensor's gradient; 0 switches clipping off."""
    freeze_last_layer_epochs: int = 1
    decay_magnitudes: bool = True
    """Whether weight decay shrinks the prototypes' magnitudes, and with them their concentrations, as in DINO."""


@dataclass
class RunConfig:
    """Length, precision and rhythm of a run."""

    epochs: int = 100
    max_steps: int = 0
    """Stop after this many steps, whatever the epochs say (0: never). The schedules keep the length of ``epochs``."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = "auto"
    compile: bool = False
    """Compile attention, MLP and norms of the backbone's blocks; it takes minutes, and pays on GPUs if anywhere."""
    init_from: str | None = None
    """Weights to start from: a published checkpoint, one of a run, a run's folder (its newest), or an exported backbone
    (the command's ``--init-from``). What does not fit starts afresh, and is named."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl; the last step of an epoch always has one."""
    save_every: int = 1
    """Epochs between two checkpoints."""
    knn_every: int = 0
    """Epochs between two kNN evaluations (0: only at the end)."""
    knn_k: int = 20


@dataclass
class Config:
    """A whole run. ``name`` is the run folder below ``runs/`` unless the command line says otherwise."""

    name: str = "run"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain nested dictionaries and lists, equal after a round trip through YAML."""
        return yaml.safe_load(self.to_yaml())

    def to_yaml(self) -> str:
        """The configuration as YAML, every key stated."""
        plain = dataclasses.asdict(self)
        plain["views"] = {k: list(v) if isinstance(v, tuple) else v for k, v in plain["views"].items()}
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration, apply overrides, check it.

    Parameters
    ----------
    path : path, optional
        A YAML file; without it the defaults are used.
    overrides : sequence of str
        ``section.key=value`` (leading dashes are allowed), the value in YAML.

    Raises
    ------
    ConfigError
        For a missing or malformed file, an unknown key, a wrong type, or settings that cannot go together.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"configuration {path} cannot be read: {error.strerror or error}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(settings, dict):
            raise ConfigError(f"configuration {path} must be a mapping of keys, not a {type(settings).__name__}")
    for override in overrides:
        key, equals, value = override.lstrip("-").partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r} is not of the form --section.key=value")
        *sections, last = key.split(".")
        here = settings
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
        try:
            here[last] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: the value is not YAML: {' '.join(str(error).split())}") from None
    config = _build(Config, settings, "")
    _check(config)
    return config


def _build(cls: Any, settings: Any, prefix: str) -> Any:
    """Make a dataclass of a mapping, refusing what does not fit."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{prefix.rstrip('.')} must be a section of keys, not {settings!r}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            guess = f"; did you mean {prefix}{near[0]}?" if near else f"; known here: {', '.join(hints)}"
            raise ConfigError(f"unknown key {name}{guess}")
        hint = hints[key]
        values[key] = _build(hint, value, f"{name}.") if dataclasses.is_dataclass(hint) else _convert(hint, value, name)
    return cls(**values)


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Check one value against its type; integers may stand for floats, lists for pairs, and "1e-3" is a number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{name} must be one of {', '.join(map(str, arguments))}, not {value!r}")
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is tuple and isinstance(value, list | tuple) and len(value) == len(arguments):
        return tuple(_convert(a, v, name) for a, v in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-3, without a point, as text
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    elif hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    elif type(value) is (origin or hint):  # exactly: True is no number
        return value
    wanted = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
    }.get(hint, "a pair of numbers" if origin is tuple else "a mapping of keys")
    raise ConfigError(f"{name} must be {wanted}, not {value!r}")


def _check(config: Config) -> None:
    """Refuse values out of range, and pairs that are each possible but not together."""
    numbers: tuple[tuple[str, float, int], ...] = (
        ("seed", config.seed, 0),
        ("run.epochs", config.run.epochs, 1),
        ("run.max_steps", config.run.max_steps, 0),
        ("run.log_every", config.run.log_every, 1),
        ("run.save_every", config.run.save_every, 1),
        ("run.knn_every", config.run.knn_every, 0),
        ("run.knn_k", config.run.knn_k, 1),
        ("data.workers", config.data.workers, 0),
        ("data.max_side", config.data.max_side, 0),
        ("views.global_size", config.views.global_size, 1),
        ("views.local_size", config.views.local_size, 1),
        ("views.n_local", config.views.n_local, 0),
        ("head.out_dim", config.head.out_dim, 2),
        ("head.hidden_dim", config.head.hidden_dim, 1),
        ("head.bottleneck_dim", config.head.bottleneck_dim, 2),
        ("head.n_layers", config.head.n_layers, 1),
        ("head.koleo", config.head.koleo, 0),
        ("optimizer.batch_size", config.optimizer.batch_size, 1),
        ("optimizer.accumulation", config.optimizer.accumulation, 1),
        ("optimizer.lr", config.optimizer.lr, 0),
        ("optimizer.min_lr", config.optimizer.min_lr, 0),
        ("optimizer.weight_decay", config.optimizer.weight_decay, 0),
        ("optimizer.weight_decay_end", config.optimizer.weight_decay_end, 0),
        ("optimizer.clip_grad", config.optimizer.clip_grad, 0),
        ("optimizer.warmup_epochs", config.optimizer.warmup_epochs, 0),
        ("optimizer.freeze_last_layer_epochs", config.optimizer.freeze_last_layer_epochs, 0),
        ("teacher.temp_warmup_epochs", config.teacher.temp_warmup_epochs, 0),
    )
    for name, value, low in numbers:
        if value < low:
            raise ConfigError(f"{name} must be at least {low}, not {value}")
    for name, share in (
        ("teacher.momentum", config.teacher.momentum),
        ("teacher.center_momentum", config.teacher.center_momentum),
        ("model.drop_path", config.model.drop_path),
        ("views.grey", config.views.grey),
    ):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} must lie in [0, 1], not {share}")
    for name, temperature in (
        ("teacher.temp", config.teacher.temp),
        ("teacher.warmup_temp", config.teacher.warmup_temp),
        ("teacher.student_temp", config.teacher.student_temp),
    ):
        if temperature <= 0:
            raise ConfigError(f"{name} must be above 0, not {temperature}")
    for name, (least, most) in (
        ("views.global_scale", config.views.global_scale),
        ("views.local_scale", config.views.local_scale),
    ):
        if not 0 < least <= most <= 1:
            raise ConfigError(f"{name} must be two rising shares of the area in (0, 1], not [{least}, {most}]")
    if not 0 < config.views.blur_sigma[0] <= config.views.blur_sigma[1]:
        raise ConfigError(f"views.blur_sigma must be two rising positive numbers, not {list(config.views.blur_sigma)}")
    if not 0 <= config.views.color_jitter <= 2.5:
        raise ConfigError(f"views.color_jitter must lie in [0, 2.5], not {config.views.color_jitter}")
    for name, epochs in (
        ("optimizer.warmup_epochs", config.optimizer.warmup_epochs),
        ("teacher.temp_warmup_epochs", config.teacher.temp_warmup_epochs),
        ("optimizer.freeze_last_layer_epochs", config.optimizer.freeze_last_layer_epochs),
    ):
        if epochs > config.run.epochs:
            raise ConfigError(
                f"{name}={epochs} is longer than the run (run.epochs={config.run.epochs}); shorten it or train longer"
            )
    if not config.teacher.center_normalizer and config.teacher.centering != "probability":
        raise ConfigError(
            "teacher.center_normalizer=false is a reading of Eq. 9 and needs teacher.centering=probability, not "
            f"{config.teacher.centering}"
        )
    _check_data(config.data)


def check_parts(optimizer: OptimizerConfig, processes: int) -> None:
    """Refuse a share of the batch that ``optimizer.accumulation`` does not divide into equal parts."""
    share = optimizer.batch_size // processes
    if share % optimizer.accumulation:
        raise ConfigError(
            f"optimizer.accumulation={optimizer.accumulation} does not divide the {share} images of a process "
            f"(optimizer.batch_size={optimizer.batch_size} over {processes}) into equal parts"
        )


def _check_data(data: DataConfig) -> None:
    """Refuse a source without what it needs, or with what means nothing to it."""
    if data.source in ("folder", "shards") and not data.root:
        what = "training images" if data.source == "folder" else "tar shards"
        raise ConfigError(f"data.source={data.source} needs data.root, the folder of {what}")
    if data.source == "timm" and not data.name:
        raise ConfigError("data.source=timm needs data.name, for example torch/cifar10")
    if data.source != "timm":
        for key, value in (("name", data.name), ("val_split", data.val_split), ("download", data.download or None)):
            if value is not None:
                raise ConfigError(f"data.{key}={value} needs data.source=timm, not {data.source}")
    if data.download and data.name and not data.name.startswith("torch/"):
        raise ConfigError(f"data.download=true is for torchvision's sets (torch/...), not {data.name}")
