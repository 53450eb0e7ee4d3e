"""The pretraining loop: steps, records, checkpoints, signals.

The step itself is in `vmflearn.train.step`. A run that is killed anywhere and started again with the same command
continues as if it had not been: the schedules and the data order are functions of the step, random numbers are drawn by
(seed, step) or (seed, epoch, image, crop), and the rest is in the checkpoint.

Launch it with ``scripts/pretrain.py``, or call ``pretrain(load_config(path), run_dir)``.
"""

import inspect
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from vmflearn import distributed
from vmflearn.ssl.diagnostics import gradient_norm, update_norm
from vmflearn.ssl.methods import MultiCropNetwork
from vmflearn.ssl.prototype_use import unique_prototypes
from vmflearn.train.checkpoint import CheckpointError, differences, load_newest
from vmflearn.train.checkpoint_writer import CheckpointWriter
from vmflearn.train.config import Config, ConfigError
from vmflearn.train.cost import crop_sizes
from vmflearn.train.profiling import profiled
from vmflearn.train.records import Records, announcer, read_metrics
from vmflearn.train.run_folder import export_backbone, write_preamble
from vmflearn.train.schedules import cosine, teacher_temperature
from vmflearn.train.state import DTYPES, State
from vmflearn.train.step import StepResult, StepSettings, TrainingError, training_step
from vmflearn.train.timing import Speedometer
from vmflearn.train.warm_start import start_from

FREE_TO_CHANGE = {
    "data.workers",
    "data.cache",
    "data.root",
    "data.val_root",
    "optimizer.accumulation",
    "run.device",
    "run.compile",
    "run.save_every",
    "run.max_steps",
}
"""Settings that a resumed run may change: where and how to run. (The same number of) images may move; the parts of a
batch change a step by rounding, and what batch norm and drop path see."""


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


def pretrain(config: Config, run_dir: str | Path, *, quiet: bool = False, profile: int = 0) -> RunResult:
    """Pretrain, or go on with a run that was stopped, or return at once if it is finished.

    Parameters
    ----------
    config : Config
    run_dir : path
        Made if it is missing. Holds config.yaml, environment.json, metrics.jsonl, timing.jsonl, TensorBoard events,
        checkpoints/ and, at the end, the teacher's backbone.safetensors with backbone.json, and as a folder for timm,
        backbone/.
    quiet : bool
        Say nothing.
    profile : int
        Trace this many steps on each process, soon after the start, into ``profile/`` of the run folder (0: none).

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
        state = State(config, device)
        if saved is not None:
            state.load(saved)
        elif config.run.init_from is not None:
            for line in start_from(state, config.run.init_from):
                say(line)
        unfinished = state.step < state.last
        if unfinished:
            if distributed.rank() == 0:
                write_preamble(config, run_dir)
            if saved is None and not quiet:
                _say_start(config, state, say)
            elif saved is not None:
                say(f"continuing {run_dir} at step {state.step} of {state.last}")
                _say_processes(saved.get("processes"), say)
            _train(config, state, run_dir, stop, quiet, profile)
        if distributed.rank() == 0:
            export_backbone(config, state.teacher, run_dir)
    metrics = read_metrics(run_dir / "metrics.jsonl")
    return RunResult(run_dir, state.step, metrics[-1] if metrics else {})


def _train(config: Config, state: State, run_dir: Path, stop: dict[str, int], quiet: bool, profile: int) -> None:
    """The loop; everything above and below serves it."""
    student, teacher, run = state.student, state.teacher, config.run
    embedding: nn.Module = _Embedding(student)
    if distributed.is_distributed():
        ddp = nn.parallel.DistributedDataParallel
        renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters  # in the newest PyTorch
        buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        embedding = ddp(embedding, device_ids=[state.device] if state.device.type == "cuda" else None, **buffers)
    records = Records(run_dir, state.step, state.last, active=distributed.rank() == 0)
    writer, told = CheckpointWriter(run_dir / "checkpoints"), set[str]()
    speed, images = Speedometer(student, crop_sizes(config), state.device, run.precision), 0
    speed.clock.watch(state.optimizer)
    if not quiet:
        records.say(str(speed))
    batches = speed.clock.steps(state.loader(state.step, state.last))
    if profile:
        batches = profiled(batches, run_dir, profile, state.device, records.say if not quiet else lambda text: None)
    try:
        for crops, indices in batches:
            step, epoch = state.step, state.step // state.steps_per_epoch
            torch.manual_seed((config.seed * 2**31 + step) * 2**16 + distributed.rank() & 2**63 - 1)  # for drop path
            settings = step_settings(config, step, state.steps_per_epoch)
            epoch_ends, run_ends = (step + 1) % state.steps_per_epoch == 0, step + 1 == state.last
            logged = epoch_ends or run_ends or (step + 1) % run.log_every == 0
            before = [p.detach().clone() for p in student.parameters()] if logged else []
            crops = [crop.to(DTYPES[run.precision]) for crop in crops]
            try:
                result = training_step(
                    student, teacher, state.centering, state.optimizer, crops, settings, embed=embedding
                )
            except TrainingError as error:
                raise TrainingError(f"step {step}: {error}; the last checkpoint is from before it") from None
            state.monitor.count(result.targets)
            if state.linear is not None:
                state.linear.learn(result.features, indices)

            state.step += 1
            images += config.optimizer.batch_size
            epochs_done = state.step // state.steps_per_epoch
            stopping = distributed.max_over_processes(stop.get("signal", 0))  # all stop at the same step
            better = False
            if logged:
                metrics: dict[str, Any] = {
                    "step": state.step,
                    "epoch": epoch,
                    "loss": result.loss,
                    **({} if result.koleo is None else {"koleo": float(result.koleo)}),
                    **_observe(state, result, settings),
                    "gradient_norm": gradient_norm(student.parameters()),
                    "update_norm": update_norm(before, student.parameters()),
                    "lr": settings.lr,
                    "weight_decay": settings.weight_decay,
                    "momentum": settings.momentum,
                    "teacher_temp": settings.teacher_temp,
                }
                timing, now = speed.read(images), time.perf_counter()
                due = run.knn_every and epoch_ends and epochs_done % run.knn_every == 0
                if run_ends or due:
                    metrics |= _prototype_use(teacher)
                if state.probe is not None and (run_ends or due):
                    metrics |= state.evaluate()
                    better = metrics["knn_top1"] > state.best
                    state.best = max(state.best, metrics["knn_top1"])
                    timing["evaluation_seconds"] = time.perf_counter() - now
                findings = state.monitor.findings()
                if findings:
                    metrics["findings"] = [finding.name for finding in findings]
                records.write(metrics, timing, show=not quiet and (epoch_ends or run_ends))
                for finding in findings:
                    if finding.name not in told and not quiet:
                        records.say(f"step {state.step}: {finding}")
                    told.add(finding.name)
                images = 0
                speed.clock.restart()
            records.advance()
            while state.loader.news:
                news = state.loader.news.pop(0)
                records.say(news) if records.active else print(f"[process {distributed.rank()}] {news}", flush=True)
            writer.check()
            if run_ends or stopping or better or (epoch_ends and epochs_done % run.save_every == 0):
                state.monitor.share()
                records.flush()
                if distributed.rank() == 0:
                    writer.save(state.step, state.save(), best=better)
            if stopping and not run_ends:
                writer.wait()
                # The others wait for the one that writes: a launcher that sees them end may end it too.
                distributed.max_over_processes(0)
                raise Interrupted(stopping, f"stopped at step {state.step}; the same command continues from there")
        writer.wait()
    finally:
        writer.close()
        records.close()


class _Embedding(nn.Module):
    """The student as a module whose forward gives features and bottleneck vectors: what DDP can wrap."""

    def __init__(self, network: MultiCropNetwork):
        super().__init__()
        self.network = network

    def forward(self, crops: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features and bottleneck vectors."""
        return self.network.embed(crops)


def step_settings(config: Config, step: int, steps_per_epoch: int) -> StepSettings:
    """What the schedules and the configuration say about a step (counted from 0)."""
    optim, teacher = config.optimizer, config.teacher
    epoch, total = step // steps_per_epoch, steps_per_epoch * config.run.epochs
    peak = optim.lr * optim.batch_size / 256
    return StepSettings(
        lr=cosine(step, total, peak, optim.min_lr, optim.warmup_epochs * steps_per_epoch),
        weight_decay=cosine(step, total, optim.weight_decay, optim.weight_decay_end),
        momentum=cosine(step, total, teacher.momentum, 1.0),
        student_temp=teacher.student_temp,
        teacher_temp=teacher_temperature(epoch, teacher.warmup_temp, teacher.temp, teacher.temp_warmup_epochs),
        clip_grad=optim.clip_grad,
        freeze_prototypes=epoch < optim.freeze_last_layer_epochs,
        center_normalizer=teacher.center_normalizer,
        koleo=config.head.koleo,
        autocast=config.run.precision == "bfloat16",
        accumulation=optim.accumulation,
    )


def _observe(state: State, result: StepResult, settings: StepSettings) -> dict[str, float]:
    """What the monitor measures of a step."""
    return state.monitor.observe(
        step=state.step,
        loss=result.loss,
        targets=result.targets,
        features=result.features,
        teacher_y=result.teacher_y,
        student=state.student,
        teacher=state.teacher,
        student_temp=settings.student_temp,
        teacher_temp=settings.teacher_temp,
    )


def _prototype_use(teacher: MultiCropNetwork) -> dict[str, int]:
    """Different prototypes, and the largest set of duplicates, as Table 4 of the paper counts them (cosine > 0.9)."""
    use = unique_prototypes(teacher.prototypes.directions.detach().float())
    return {"unique_prototypes": use.count, "largest_duplicate_set": use.largest}


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
    lines = differences(saved["config"], config.to_dict(), Config().to_dict())
    lines = [line for line in lines if line.partition(":")[0] not in FREE_TO_CHANGE]
    if lines:
        raise CheckpointError(
            f"{folder} holds a run of another configuration ({'; '.join(lines)}); give another run folder with "
            "--run-dir, or the settings it was started with"
        )


def _say_processes(before: int | None, say: Callable[[str], None]) -> None:
    """What it means that a run goes on with another number of processes."""
    now = distributed.world_size()
    if before is not None and before != now:
        say(
            f"{now} process(es) now, {before} before: every step keeps its images and their crops; sums are added in "
            "another order, and drop path and a batch norm on CPUs see other parts of the batch"
        )


def _say_start(config: Config, state: State, say: Callable[[str], None]) -> None:
    """What is about to happen, in a few lines, with what needs no training for comparison."""
    count = sum(parameter.numel() for parameter in state.student.parameters())
    say(
        f"{config.name}: {config.model.backbone}, {count / 1e6:.1f} M parameters with head; "
        f"{state.loader.order.n_images} images, {config.run.epochs} epochs of {state.steps_per_epoch} steps of "
        f"{config.optimizer.batch_size} images; {state.device}, {distributed.world_size()} process(es), "
        f"{torch.get_num_threads()} threads"
    )
    baselines = state.probe.baselines(state.teacher.backbone) if state.probe is not None else {}
    if config.run.init_from is not None and baselines:
        baselines["backbone it starts from"] = baselines.pop("untrained backbone")
    if baselines:
        say("kNN top-1 before training: " + ", ".join(f"{name} {value:.3f}" for name, value in baselines.items()))
