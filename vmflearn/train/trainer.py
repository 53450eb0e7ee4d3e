"""The pretraining loop: DINO's step, with the mixture's normaliser where the configuration asks for it.

One step, in this order: schedules; crops; teacher and student logits; targets from the centred teacher; loss; check;
backward; clip; frozen prototypes forget their gradient; AdamW; EMA of the teacher; centre. A run that is killed
anywhere and started again with the same command continues as if it had not been: the schedules and the data order are
functions of the step, random numbers are drawn by (seed, step) or (seed, epoch, image, crop), and the rest is in the
checkpoint.

Launch it with ``scripts/pretrain.py``, or call ``pretrain(load_config(path), run_dir)``.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from vmflearn import distributed
from vmflearn.ssl.backbones import create_backbone
from vmflearn.ssl.centering import LogitCentering, ProbabilityCentering
from vmflearn.ssl.diagnostics import teacher_statistics
from vmflearn.ssl.heads import DINOHead
from vmflearn.ssl.losses import dino_loss
from vmflearn.ssl.methods import MultiCropNetwork
from vmflearn.ssl.views import dino_crops
from vmflearn.train.checkpoint import CheckpointError, differences, load_newest, save_checkpoint
from vmflearn.train.config import Config, ConfigError
from vmflearn.train.loader import FolderLoader, make_loader
from vmflearn.train.optimizer import clip_each, drop_gradients, make_optimizer, set_schedule, update_teacher
from vmflearn.train.probe import KNNProbe
from vmflearn.train.records import Records, announcer, read_metrics
from vmflearn.train.run_folder import export_backbone, write_preamble
from vmflearn.train.schedules import cosine, teacher_temperature

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""Type of the parameters; with ``bfloat16`` the products run in it under autocast, the parameters stay float32."""

FREE_TO_CHANGE = {"data.workers", "data.root", "data.val_root", "run.device", "run.save_every", "run.max_steps"}
"""Settings that a resumed run may change: they say where and how to run, and (the same number of) images may move."""


class TrainingError(RuntimeError):
    """Training that went wrong; the message names the step and the suspects."""


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and did so after saving. ``signal`` is the signal's number (2 for Ctrl-C)."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, the steps taken, and the last line of its metrics."""

    run_dir: Path
    steps: int
    metrics: dict[str, Any]


def build_model(config: Config, *, drop_path: float = 0.0) -> MultiCropNetwork:
    """Backbone and head of a configuration, freshly initialised from torch's current random state."""
    try:
        backbone = create_backbone(config.model.backbone, drop_path_rate=drop_path, **config.model.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.backbone={config.model.backbone}, model.options: {error}") from None
    features = backbone.num_features
    assert isinstance(features, int)
    head = DINOHead(
        features,
        config.head.out_dim,
        config.head.normalization,
        hidden_dim=config.head.hidden_dim,
        bottleneck_dim=config.head.bottleneck_dim,
        n_layers=config.head.n_layers,
        batch_norm=config.head.batch_norm,
        learn_magnitudes=config.head.learn_magnitudes,
    )
    return MultiCropNetwork(backbone, head).to(DTYPES[config.run.precision])


def pretrain(config: Config, run_dir: str | Path, *, quiet: bool = False) -> RunResult:
    """Pretrain, or go on with a run that was stopped, or return at once if it is finished.

    Parameters
    ----------
    config : Config
    run_dir : path
        Made if it is missing. Holds config.yaml, environment.json, metrics.jsonl, timing.jsonl, TensorBoard events,
        checkpoints/ and, at the end, the teacher's backbone.safetensors with backbone.json.
    quiet : bool
        Say nothing.

    Raises
    ------
    ConfigError
        If the configuration does not fit the data or the processes.
    CheckpointError
        If the folder holds a run of another configuration, or a checkpoint cannot be written or read.
    TrainingError
        If the loss is not finite.
    Interrupted
        After Ctrl-C, SIGTERM or SIGUSR1, once the state is saved.
    """
    run_dir, device = Path(run_dir), _device(config)
    checkpoints = run_dir / "checkpoints"
    say = announcer(distributed.rank() == 0 and not quiet)
    saved = _load_together(checkpoints, say)
    _check_same_run(config, saved, checkpoints)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _signals() as stop:
        torch.manual_seed(config.seed)
        state = _State(config, device)
        if saved is not None:
            state.load(saved)
        unfinished = state.step < state.last
        if unfinished:
            if distributed.rank() == 0:
                write_preamble(config, run_dir)
            if saved is None:
                _say_start(config, state, say)
            else:
                say(f"continuing {run_dir} at step {state.step} of {state.last}")
            _train(config, state, run_dir, stop, quiet)
        if distributed.rank() == 0:
            export_backbone(config, state.teacher, run_dir)
    metrics = read_metrics(run_dir / "metrics.jsonl")
    return RunResult(run_dir, state.step, metrics[-1] if metrics else {})


class _State:
    """Everything that training changes, and what it is made of."""

    def __init__(self, config: Config, device: torch.device):
        crops = dino_crops(
            config.views.global_size,
            config.views.local_size,
            config.views.n_local,
            config.views.global_scale,
            config.views.local_scale,
            config.views.blur_sigma,
            config.views.color_jitter,
            config.views.grey,
        )
        self.config, self.device, self.step, self.best = config, device, 0, -1.0
        self.loader = make_loader(config, crops, device)
        self.steps_per_epoch = self.loader.order.steps_per_epoch
        self.total = self.steps_per_epoch * config.run.epochs
        self.last = min(self.total, config.run.max_steps) if config.run.max_steps else self.total
        self.student = build_model(config, drop_path=config.model.drop_path).to(device)
        self._check_sizes()
        labelled = config.data.source == "photos" or config.data.val_root is not None
        self.probe = KNNProbe(config, device) if labelled else None
        self.teacher = build_model(config).to(device).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        if distributed.is_distributed() and device.type == "cuda":  # torch has no synchronised batch norm on the CPU
            self.student = nn.SyncBatchNorm.convert_sync_batchnorm(self.student)
            self.teacher = nn.SyncBatchNorm.convert_sync_batchnorm(self.teacher)
        kinds: dict[str, type[LogitCentering] | type[ProbabilityCentering]]
        kinds = {"logit": LogitCentering, "probability": ProbabilityCentering}
        self.centering = kinds[config.teacher.centering](
            config.head.out_dim, momentum=config.teacher.center_momentum
        ).to(device, DTYPES[config.run.precision])
        self.optimizer = make_optimizer(self.student)

    def _check_sizes(self) -> None:
        """Refuse crops that a ViT cannot cut into patches, before anything is computed."""
        patches = getattr(self.student.backbone, "patch_embed", None)
        views = self.config.views
        if patches is None:
            return
        for name, size in (("global_size", views.global_size), ("local_size", views.local_size)):
            if size % patches.patch_size[0] and (name == "global_size" or views.n_local):
                raise ConfigError(
                    f"views.{name}={size} is not a multiple of the backbone's patch, {patches.patch_size[0]}"
                )

    def save(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best": self.best,
            "images": self.loader.order.n_images,
            "config": self.config.to_dict(),
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "centering": self.centering.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        self.step, self.best, images = saved["step"], saved["best"], self.loader.order.n_images
        if saved["images"] != images:
            raise CheckpointError(
                f"the checkpoint was made with {saved['images']} images, and there are {images} now; give the same "
                "images, or another run folder with --run-dir"
            )
        for name in ("student", "teacher", "centering", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])


def _train(config: Config, state: _State, run_dir: Path, stop: dict[str, int], quiet: bool) -> None:
    """The loop; everything above and below serves it."""
    student, teacher, centering, optimizer = state.student, state.teacher, state.centering, state.optimizer
    forward: nn.Module = student
    if distributed.is_distributed():
        forward = nn.parallel.DistributedDataParallel(
            student, device_ids=[state.device] if state.device.type == "cuda" else None, broadcast_buffers=False
        )
    optim, run, temperatures = config.optimizer, config.run, config.teacher
    peak = optim.lr * optim.batch_size / 256
    autocast = torch.autocast(state.device.type, torch.bfloat16) if run.precision == "bfloat16" else nullcontext()
    records = Records(run_dir, state.step, state.last, active=distributed.rank() == 0)
    since, images = time.perf_counter(), 0
    try:
        for crops in state.loader(state.step, state.last):
            step, epoch = state.step, state.step // state.steps_per_epoch
            torch.manual_seed((config.seed * 2**31 + step) * 2**16 + distributed.rank() & 2**63 - 1)  # for drop path
            warmup = optim.warmup_epochs * state.steps_per_epoch
            lr = cosine(step, state.total, peak, optim.min_lr, warmup)
            decay = cosine(step, state.total, optim.weight_decay, optim.weight_decay_end)
            momentum = cosine(step, state.total, temperatures.momentum, 1.0)
            teacher_temp = teacher_temperature(
                epoch, temperatures.warmup_temp, temperatures.temp, temperatures.temp_warmup_epochs
            )
            set_schedule(optimizer, lr, decay)

            crops = [crop.to(DTYPES[run.precision]) for crop in crops]
            with autocast:
                with torch.no_grad():
                    teacher_logits = teacher(crops[:2], teacher_temp)
                student_logits = forward(crops, temperatures.student_temp)
            targets = centering.probabilities(teacher_logits, teacher_temp)
            loss = dino_loss(student_logits, targets)
            mean_loss = float(distributed.mean_over_processes(loss.detach()))
            _check_finite(mean_loss, step, student_logits, teacher_logits, lr)
            optimizer.zero_grad()
            loss.backward()
            clip_each(student.parameters(), optim.clip_grad)
            if epoch < optim.freeze_last_layer_epochs:
                drop_gradients(student.head.get_submodule("prototypes"))
            optimizer.step()
            update_teacher(teacher, student, momentum)
            centering.update(teacher_logits, teacher_temp)

            state.step += 1
            images += optim.batch_size
            epoch_ends, run_ends = state.step % state.steps_per_epoch == 0, state.step == state.last
            epochs_done = state.step // state.steps_per_epoch
            stopping = _anyone(stop.get("signal", 0), state.device)
            better = False
            if epoch_ends or run_ends or state.step % run.log_every == 0:
                metrics: dict[str, Any] = {
                    "step": state.step,
                    "epoch": epoch,
                    "loss": mean_loss,
                    **teacher_statistics(targets),
                    "lr": lr,
                    "weight_decay": decay,
                    "momentum": momentum,
                    "teacher_temp": teacher_temp,
                }
                now = time.perf_counter()
                timing = {"images_per_second": images / (now - since), "seconds": now - since}
                due = run.knn_every and epoch_ends and epochs_done % run.knn_every == 0
                if state.probe is not None and (run_ends or due):
                    metrics["knn_top1"] = state.probe(teacher.backbone)
                    better = metrics["knn_top1"] > state.best
                    state.best = max(state.best, metrics["knn_top1"])
                    timing["knn_seconds"] = time.perf_counter() - now
                since, images = time.perf_counter(), 0
                records.write(metrics, timing, show=not quiet and (epoch_ends or run_ends))
            records.advance()
            if isinstance(state.loader, FolderLoader):
                while state.loader.news:
                    news = state.loader.news.pop(0)
                    records.say(news) if records.active else print(f"[process {distributed.rank()}] {news}", flush=True)
            if run_ends or stopping or better or (epoch_ends and epochs_done % run.save_every == 0):
                records.flush()
                if distributed.rank() == 0:
                    save_checkpoint(run_dir / "checkpoints", state.step, state.save(), best=better)
            if stopping and not run_ends:
                raise Interrupted(stopping, f"stopped at step {state.step}; the same command continues from there")
    finally:
        records.close()


def _check_finite(loss: float, step: int, student_logits: Tensor, teacher_logits: Tensor, lr: float) -> None:
    """Stop, on all processes at once, before a step that would destroy the weights."""
    if math.isfinite(loss):
        return
    suspects = [
        f"{name} logits {'finite' if bool(logits.isfinite().all()) else 'NOT finite'}"
        for name, logits in (("student", student_logits), ("teacher", teacher_logits))
    ]
    raise TrainingError(
        f"loss is {loss} at step {step} (learning rate {lr:.3g}; {', '.join(suspects)}); the last checkpoint is "
        "from before it. Usual cures: a lower learning rate, a longer warm-up, clip_grad, float32"
    )


def _load_together(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest readable checkpoint, the same on every process; the first one sets damaged ones aside for all."""
    saved = load_newest(folder, say) if distributed.rank() == 0 else None
    if distributed.is_distributed():
        torch.distributed.barrier()
        saved = saved if distributed.rank() == 0 else load_newest(folder, lambda text: None)
        steps: list[Any] = [None] * distributed.world_size()
        torch.distributed.all_gather_object(steps, saved and saved["step"])
        if len(set(steps)) > 1:
            raise CheckpointError(f"processes find checkpoints of steps {steps} in {folder}: all nodes must share it")
    return saved


def _anyone(number: int, device: torch.device) -> int:
    """The largest number of any process: all stop at the same step if one of them is asked to."""
    if not distributed.is_distributed():
        return number
    shared = torch.tensor(number, device=device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return int(shared)


@contextmanager
def _signals() -> Iterator[dict[str, int]]:
    """Note Ctrl-C, SIGTERM and SIGUSR1 for the loop to see; a second Ctrl-C interrupts at once."""
    received: dict[str, int] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and "signal" in received:
            raise KeyboardInterrupt
        received["signal"] = number

    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, note) for number in wanted}
    except ValueError:  # not in the main thread: whoever owns it handles signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _device(config: Config) -> torch.device:
    """The device asked for; "auto" is the best one found."""
    if config.run.device != "auto":
        try:
            return torch.empty(0, device=config.run.device).device
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"run.device={config.run.device} cannot be used: {str(error).splitlines()[0]}") from None
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def _check_same_run(config: Config, saved: dict[str, Any] | None, folder: Path) -> None:
    """A checkpoint goes on only under the settings it was made with."""
    if saved is None:
        return
    lines = differences(saved["config"], config.to_dict())
    lines = [line for line in lines if line.partition(":")[0] not in FREE_TO_CHANGE]
    if lines:
        raise CheckpointError(
            f"{folder} holds a run of another configuration ({'; '.join(lines)}); give another run folder with "
            "--run-dir, or the settings it was started with"
        )


def _say_start(config: Config, state: _State, say: Callable[[str], None]) -> None:
    """What is about to happen, in a few lines, with what needs no training for comparison."""
    count = sum(parameter.numel() for parameter in state.student.parameters())
    say(
        f"{config.name}: {config.model.backbone}, {count / 1e6:.1f} M parameters with head; "
        f"{state.loader.order.n_images} images, {config.run.epochs} epochs of {state.steps_per_epoch} steps of "
        f"{config.optimizer.batch_size} images; {state.device}, {distributed.world_size()} process(es), "
        f"{torch.get_num_threads()} threads"
    )
    baselines = state.probe.baselines(state.teacher.backbone) if state.probe is not None else {}
    if baselines:
        say("kNN top-1 before training: " + ", ".join(f"{name} {value:.3f}" for name, value in baselines.items()))
