"""The configuration of a run: dataclasses, a YAML file, overrides, and checks that speak before anything starts.

Every field has a default, so a YAML file states only what differs. An unknown key, a value of the wrong type and a pair
of settings that cannot go together are each one ``ConfigError`` with one line that says what to change.

A value is read by the type of its field, in files and overrides alike. Text is text as written: ``12:30``, ``007`` and
``2024-01-01`` are names. Numbers are decimal, in Python's spelling: ``1e-3``, ``.5``, ``1_000``, and ``010`` is ten.
Truth values are ``true`` and ``false``, not ``yes`` or ``on``. ``null``, ``~`` and an empty place in a file stand for
nothing; in quotes they are text.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from vmflearn.train.methods import METHODS
from vmflearn.train.typed import (
    SMALLEST,
    Amount,
    ConfigError,
    Count,
    Limits,
    Several,
    Share,
    Temperature,
    Variants,
    Whole,
    apply_override,
    build,
    shown,
)
from vmflearn.yaml_text import YAMLTextError, read_yaml, write_yaml

MOST_NUMBERS = 2**36  # of a head, or of one image's views: 256 GiB in float32, more than a device holds


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
    workers: Whole = 0
    """Processes that decode images, for each process that trains: ten are eighty on eight GPUs. What they have decoded
    waits in shared memory, some 2 GB for ten of them; a container gives 64 MB unless it is told.
    """
    max_side: Whole = 512
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

    global_size: Count = 224
    local_size: Count = 96
    n_local: Whole = 10
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels of the crop; DINO's is for crops of 224 pixels."""
    color_jitter: Annotated[float, Limits("lie in [0, 2.5]", 0, 2.5)] = 1.0
    """Strength of the colour jitter, as a multiple of DINO's (0 switches it off, 2.5 is the most)."""
    grey: Share = 0.2
    """Probability that a crop loses its colours."""


@dataclass
class ModelConfig:
    """The backbone: a timm name, timm's own options, and the student's stochastic depth."""

    backbone: str = "vit_small_patch16_224"
    options: dict[str, Any] = field(default_factory=dict)
    drop_path: Share = 0.1
    stochastic_depth: Literal["sample", "subset"] = "sample"
    """``sample``: drawn for each sample, and all are computed. ``subset``: a share is dropped, and not computed."""
    position_interpolation: Literal["timm", "dino", "msn"] = "timm"
    """How positional embeddings come to the grid of the local crops: timm's way, or as the published code does it."""


@dataclass
class HeadConfig:
    """The projection head and its prototypes (the rows of the paper's Table 1 are ``normalization``)."""

    out_dim: Several = 65536
    hidden_dim: Count = 2048
    bottleneck_dim: Several = 256
    n_layers: Count = 3
    batch_norm: bool = False
    normalization: Literal["none", "l2", "vmf"] = "vmf"
    learn_magnitudes: bool = True
    koleo: Amount = 0.0
    """Weight of the KoLeo loss on the student's prototype directions, which pushes duplicates apart; 0: off."""


@dataclass
class TeacherConfig:
    """Teacher: EMA, temperature and centring (the columns of the paper's Table 1 are ``centering``)."""

    centering: Literal["logit", "probability", "sinkhorn"] = "probability"
    center_momentum: Share = 0.9
    center_normalizer: bool = True
    """Average responsibilities of the whole mixture; false leaves log C_p out of them, as Eq. 9 is printed."""
    momentum: Share = 0.996
    """EMA momentum at the first step; it rises to 1 along a cosine."""
    warmup_temp: Temperature = 0.04
    temp: Temperature = 0.07
    temp_warmup_epochs: Whole = 0
    student_temp: Temperature = 0.1


@dataclass
class OptimizerConfig:
    """AdamW with DINO's schedules."""

    batch_size: Count = 1024
    """Images a step, over all processes."""
    accumulation: Count = 1
    """Parts into which each process divides its images of a step: as many times less activations, the same step."""
    lr: Amount = 5e-4
    """Peak learning rate for a batch of 256; it scales with the batch."""
    min_lr: Amount = 1e-5
    warmup_epochs: Whole = 10
    weight_decay: Amount = 0.04
    weight_decay_end: Amount = 0.4
    clip_grad: Amount = 0.0
    """Largest L2 norm of each parameter tensor's gradient; 0 switches clipping off."""
    freeze_last_layer_epochs: Whole = 1
    decay_magnitudes: bool = True
    """Whether weight decay shrinks the prototypes' magnitudes, and with them their concentrations, as in DINO."""


@dataclass
class RunConfig:
    """Length, precision and rhythm of a run."""

    epochs: Count = 100
    max_steps: Whole = 0
    """Stop after this many steps, whatever the epochs say (0: never). The schedules keep the length of ``epochs``."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = "auto"
    compile: bool = False
    """Compile attention, MLP and norms of the backbone's blocks; it takes minutes, and pays on GPUs if anywhere."""
    init_from: str | None = None
    """Weights to start from: a published checkpoint, one of a run, a run's folder (its newest), or an exported backbone
    (the command's ``--init-from``). What does not fit starts afresh, and is named."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl; the last step of an epoch always has one."""
    save_every: Count = 1
    """Epochs between two checkpoints."""
    knn_every: Whole = 0
    """Epochs between two kNN evaluations (0: only at the end)."""
    knn_k: Count = 20


OWN_METHOD = "; one of your own comes with --method-file FILE"


def _methods() -> dict[str, type]:
    """Settings of the methods, by their names."""
    return {name: method.Settings for name, method in METHODS.items()}


@dataclass
class Config:
    """A whole run. ``name`` is the run folder below ``runs/`` unless the command line says otherwise."""

    name: str = "run"
    seed: Whole = 0
    method: Annotated[Any, Variants(_methods, "dino", OWN_METHOD)] = field(default_factory=lambda: _methods()["dino"]())
    """What is learned: ``name`` is dino, ibot, msn or one that was added (`vmflearn.train.methods.add_method`), and the
    other keys are those of its ``Settings``."""
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain nested dictionaries and lists, equal after a round trip through YAML."""
        plain = dataclasses.asdict(self)
        for section in (plain["views"], plain["method"]):
            section.update({k: list(v) for k, v in section.items() if isinstance(v, tuple)})
        return plain

    def to_yaml(self) -> str:
        """The configuration as YAML, every key stated."""
        return write_yaml(self.to_dict())


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration, apply overrides, check it.

    Parameters
    ----------
    path : path, optional
        A YAML file; without it the defaults are used.
    overrides : sequence of str
        ``section.key=value`` (leading dashes are allowed). A single value is taken as it stands, or, when quotes
        enclose all of it, without them; pairs, mappings and what is inside ``model.options`` are YAML. Of two values
        for one key the last wins.

    Raises
    ------
    ConfigError
        For a missing or malformed file, an unknown key, a key that stands twice in it, a wrong type, or settings that
        cannot go together.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = read_yaml(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"configuration {path} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"configuration {path} is not YAML: {error}") from None
        except YAMLTextError as error:
            raise ConfigError(f"configuration {path} {error}") from None
        if not isinstance(settings, dict):
            raise ConfigError(f"configuration {path} must be a mapping of keys, not {shown(settings)}")
    for override in overrides:
        apply_override(Config, settings, override)
    config = build(Config, settings)
    _check(config)
    return config


def join_overrides(arguments: Sequence[str]) -> list[str]:
    """Join ``--section.key value``, two words of a command line, to the one that ``load_config`` takes.

    Parameters
    ----------
    arguments : sequence of str
        What a command's own options left over. A value that begins with two dashes must be joined by ``=`` already.

    Returns
    -------
    list of str
        ``--section.key=value``; a word that belongs to none stays, for ``load_config`` to refuse.
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _check(config: Config) -> None:
    """Refuse values out of range, and pairs that are each possible but not together."""
    if config.name in (".", "..") or "/" in config.name or len(os.fsencode(config.name)) > 255:
        raise ConfigError(
            f"name must be that of a folder (no slash, at most 255 bytes), not {shown(config.name)}; --run-dir says "
            "where the run goes"
        )
    _check_device(config.run.device)
    _check_size(config)
    for name, (least, most) in (
        ("views.global_scale", config.views.global_scale),
        ("views.local_scale", config.views.local_scale),
    ):
        if not 0 < least <= most <= 1:
            raise ConfigError(f"{name} must be two rising shares of the area in (0, 1], not [{least}, {most}]")
    if not SMALLEST <= config.views.blur_sigma[0] <= config.views.blur_sigma[1]:
        raise ConfigError(
            f"views.blur_sigma must be two rising positive numbers ({SMALLEST} or more), not "
            f"{list(config.views.blur_sigma)}"
        )
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
    METHODS[config.method.name].check(config)


def _check_device(name: str) -> None:
    """Refuse what is no device, and ``meta``, on which nothing is computed."""
    if name == "auto":
        return
    try:
        usable = torch.device(name).type != "meta"
    except RuntimeError:
        usable = False
    if not usable:
        asked = shown(name)[1:-1]
        raise ConfigError(f"run.device={asked} cannot be used; give auto, cpu, cuda, cuda:1, mps or another of torch's")


def _check_size(config: Config) -> None:
    """Refuse a head and views of which a single copy, or a single image's, fits no device."""
    head, views = config.head, config.views
    weights = head.out_dim * head.bottleneck_dim + head.hidden_dim * head.bottleneck_dim
    weights += (head.n_layers - 2) * head.hidden_dim**2 if head.n_layers > 2 else 0
    if weights > MOST_NUMBERS:
        raise ConfigError(
            f"head.out_dim={head.out_dim}, hidden_dim={head.hidden_dim}, bottleneck_dim={head.bottleneck_dim} and "
            f"n_layers={head.n_layers} make {weights:.1e} weights, more than any device holds"
        )
    pixels = 2 * views.global_size**2 + views.n_local * views.local_size**2
    if 3 * pixels > MOST_NUMBERS:
        raise ConfigError(
            f"views.global_size={views.global_size}, local_size={views.local_size} and n_local={views.n_local} make "
            f"{pixels:.1e} pixels for each image, more than any device holds; sizes are the sides of crops in pixels"
        )


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
