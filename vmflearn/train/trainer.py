"""The pretraining loop: steps, records, checkpoints, signals.

The step itself is in `vmflearn.train.step`. A run that is killed anywhere and started again with the same command
continues as if it had not been: the schedules and the data order are functions of the step, random numbers are drawn by
(seed, step) or (seed, epoch, image, crop), and the rest is in the checkpoint.

Launch it with ``scripts/pretrain.py``, or call ``pretrain(load_config(path), run_dir)``.
"""

import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from vmflearn import distributed
from vmflearn.monitor.prototype_use import unique_prototypes
from vmflearn.monitor.statistics import gradient_norm, update_norm
from vmflearn.ssl.network import MultiCropNetwork
from vmflearn.train.checkpoints.checkpoint import load_newest
from vmflearn.train.checkpoints.parts import check_values
from vmflearn.train.checkpoints.writer import CheckpointWriter
from vmflearn.train.config import Config, ConfigError
from vmflearn.train.cost.profiling import profiled
from vmflearn.train.cost.timing import Speedometer
from vmflearn.train.input.batches import lost_worker
from vmflearn.train.per_step import StepSettings
from vmflearn.train.runs.folder import export_backbone, write_preamble
from vmflearn.train.runs.lock import FolderLock
from vmflearn.train.runs.records import Records, announcer, mend, read_metrics
from vmflearn.train.runs.same_run import check_checkpoint, check_folder, check_images, check_processes
from vmflearn.train.runs.stop import Interrupted, StopRequest, stop_signals
from vmflearn.train.state import DTYPES, State
from vmflearn.train.step import StepResult, TrainingError, training_step
from vmflearn.train.warm_start import start_from


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
        If the folder holds a run of another configuration, another run goes on in it, or a checkpoint cannot be written
        or read.
    DataError
        If too many images cannot be read, or a process that decodes them is lost.
    TrainingError
        If the loss is not finite.
    ElsewhereError
        If another process cannot go on; that one says why.
    Interrupted
        After Ctrl-C, SIGTERM or SIGUSR1, once the state is saved.
    """

    def checked() -> torch.device:
        if profile < 0:
            raise ConfigError(f"--profile must be a number of steps, 0 or more, not {profile}")
        return _device(config)

    run_dir, device = Path(run_dir), distributed.all_or_none(checked)
    say = announcer(distributed.rank() == 0 and not quiet)
    check_processes(config)
    with stop_signals() as stop, _locked(run_dir, say), lost_worker():
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            state, saved = _restore(config, device, run_dir, say)
            if saved is None and config.run.init_from is not None:
                for line in start_from(state, config.run.init_from):
                    say(line)
            taken = state.step if state.pending is None else state.step - 1  # steps whose lines are whole
            recorded = None if saved is None else saved.get("recorded")
            distributed.on_first(lambda: mend(run_dir, taken, recorded, say))
            if taken < state.last:
                distributed.on_first(lambda: write_preamble(config, run_dir))
                if saved is not None:
                    say(f"continuing {run_dir} at step {state.step} of {state.last}")
                    _say_processes(saved.get("processes"), say)
                elif distributed.on_first(lambda: not quiet):  # all measure what the first says
                    _say_start(config, state, say)
                _Training(config, state, run_dir, stop, quiet).run(profile)
        distributed.on_first(lambda: export_backbone(config, state.teacher, run_dir))
        metrics = distributed.on_first(lambda: read_metrics(run_dir / "metrics.jsonl")[-1:])
    return RunResult(run_dir, state.step, metrics[0] if metrics else {})


def _restore(
    config: Config, device: torch.device, run_dir: Path, say: Callable[[str], None]
) -> tuple[State, dict[str, Any] | None]:
    """The state to go on with, and the checkpoint that it comes from; a fresh one where there is none."""
    states: list[State] = []

    def make() -> State:
        if not states:
            states.append(State(config, device))
            check_images(states[0].seen)
        return states[0]

    def use(saved: dict[str, Any]) -> None:
        check_values(saved, Config().to_dict())
        distributed.on_first(lambda: check_checkpoint(config, saved, run_dir))
        make().load(saved)

    saved = load_newest(run_dir / "checkpoints", say, use)
    if saved is None:
        distributed.on_first(lambda: check_folder(config, run_dir))
    return make(), saved


@contextmanager
def _locked(run_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs out of the folder; the first process does it for all."""
    locks: list[FolderLock] = []
    try:
        distributed.on_first(lambda: locks.append(FolderLock(run_dir, say)))
        yield
    finally:
        for lock in locks:
            lock.release()


class _Training:
    """The loop, and what it takes along; everything above and below serves it."""

    def __init__(self, config: Config, state: State, run_dir: Path, stop: StopRequest, quiet: bool):
        self.config, self.state, self.run_dir, self.stop, self.quiet = config, state, run_dir, stop, quiet
        embedding: nn.Module = _Embedding(state.student)
        if distributed.is_distributed():
            ddp = nn.parallel.DistributedDataParallel
            renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters  # in the newest PyTorch
            buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
            embedding = ddp(embedding, device_ids=[state.device] if state.device.type == "cuda" else None, **buffers)
        self.embedding = embedding
        self.records = Records(run_dir, state.step, state.last, active=distributed.rank() == 0)
        self.writer, self.told = CheckpointWriter(run_dir / "checkpoints"), set[str]()
        self.speed = Speedometer(
            state.student, state.method.work(config, state.student), state.device, config.run.precision
        )
        self.speed.clock.watch(state.optimizer)
        self.images = 0  # over all processes, since the last line

    def run(self, profile: int) -> None:
        """Take the steps that are left."""
        state, say = self.state, self.records.say if not self.quiet else lambda text: None
        say(str(self.speed))
        batches = self.speed.clock.steps(state.loader(state.step, state.last))
        if profile:
            batches = profiled(batches, self.run_dir, profile, state.device, say)
        try:
            with self.stop.noted():
                if state.step == 0:  # a run folder has a checkpoint before it has a line of records
                    self._save()
                    self.writer.wait()
                if state.pending is not None:
                    self._conclude()
                for crops, indices in batches:
                    self._step(crops, indices)
                    self._conclude()
                self.writer.wait()
        finally:
            self.writer.close()
            self.records.close()

    def _step(self, crops: list[Tensor], indices: Tensor) -> None:
        """Take a step; where it has a line in the records, measure it."""
        config, state, run = self.config, self.state, self.config.run
        step = state.step
        torch.manual_seed((config.seed * 2**31 + step) * 2**16 + distributed.rank() & 2**63 - 1)  # for drop path
        settings = state.method.schedule(config, step, state.steps_per_epoch)
        logged = (step + 1) % run.log_every == 0 or (step + 1) % state.steps_per_epoch == 0 or step + 1 == state.last
        before = [p.detach().clone() for p in state.student.parameters()] if logged else []
        crops = [crop.to(DTYPES[run.precision]) for crop in crops]
        try:
            result = training_step(
                state.method, state.optimizer, crops, settings, indices=indices, embed=self.embedding
            )
        except TrainingError as error:
            raise TrainingError(f"step {step}: {error}; the last checkpoint is from before it") from None
        state.monitor.count(result.targets)
        if state.linear is not None:
            state.linear.learn(result.features, indices)
        state.step += 1
        self.images += config.optimizer.batch_size
        if logged:
            metrics = {
                "step": state.step,
                "epoch": step // state.steps_per_epoch,
                **result.terms,
                **({} if result.koleo is None else {"koleo": float(result.koleo)}),
                **_observe(state, result, settings),
                "gradient_norm": gradient_norm(state.student.parameters()),
                "update_norm": update_norm(before, state.student.parameters()),
                "lr": settings.lr,
                "weight_decay": settings.weight_decay,
                "momentum": settings.momentum,
                "teacher_temp": settings.teacher_temp,
            }
            timing = self.speed.read(self.images)
            if self._evaluation_is_due():
                metrics |= _prototype_use(state.teacher)
            findings = [(finding.name, str(finding)) for finding in state.monitor.findings()]
            state.pending = {"metrics": metrics, "timing": timing, "findings": findings}

    def _conclude(self) -> None:
        """After a step: evaluate, write its line, save, stop, each where it is time to."""
        state, stopping = self.state, self.stop.agreed()  # all stop at the same step
        evaluates, better = self._evaluation_is_due() and state.probe is not None, False
        if evaluates:
            self._save()  # first: who asks to stop need not wait for an evaluation, and who kills costs nothing
            if stopping:
                self._leave(stopping)
            better = self._evaluate()
        if state.pending is not None:
            self._record()
        self.records.advance()
        while state.loader.news:
            news = state.loader.news.pop(0)
            told = self.records.active
            self.records.say(news) if told else print(f"[process {distributed.rank()}] {news}", flush=True)
        while state.probe is not None and state.probe.news:
            self.records.say(state.probe.news.pop(0))  # of all processes' images: only the first says it
        self.writer.check()
        if state.step == state.last or evaluates or stopping or self._epochs_done(self.config.run.save_every):
            self._save(best=better)
        if stopping and state.step < state.last:
            self._leave(stopping)

    def _evaluate(self) -> bool:
        """Complete the line of this step; returns whether the accuracy is the best so far."""
        state, began = self.state, time.perf_counter()

        def look() -> None:
            if stopping := self.stop.agreed():
                self._leave(stopping)

        accuracies = state.evaluate(look)
        assert state.pending is not None
        state.pending["metrics"] |= accuracies
        state.pending["timing"]["evaluation_seconds"] = time.perf_counter() - began
        better = accuracies["knn_top1"] > state.best
        state.best = max(state.best, accuracies["knn_top1"])
        return better

    def _record(self) -> None:
        """Write the line of this step."""
        state = self.state
        assert state.pending is not None
        metrics, timing, findings = state.pending["metrics"], state.pending["timing"], state.pending["findings"]
        if findings:
            metrics["findings"] = [name for name, _ in findings]
        self.records.write(metrics, timing, show=not self.quiet and (self._epochs_done(1) or state.step == state.last))
        for name, text in findings:
            if name not in self.told and not self.quiet:
                self.records.say(f"step {state.step}: {text}")
            self.told.add(name)
        state.pending, state.recorded, self.images = None, state.step, 0
        self.speed.clock.restart()

    def _epochs_done(self, every: int) -> bool:
        """Whether the step just taken ends an epoch whose number ``every`` divides (0: never)."""
        epochs, rest = divmod(self.state.step, self.state.steps_per_epoch)
        return every > 0 and rest == 0 and epochs % every == 0

    def _evaluation_is_due(self) -> bool:
        """Whether the step just taken is one to look closer at."""
        return self.state.step == self.state.last or self._epochs_done(self.config.run.knn_every)

    def _save(self, *, best: bool = False) -> None:
        """Have a checkpoint written, with the records before it on the disk."""
        self.state.monitor.share()
        self.records.flush()
        if distributed.rank() == 0:
            self.writer.save(self.state.step, self.state.save(), best=best)

    def _leave(self, number: int) -> NoReturn:
        """Stop here, where the newest checkpoint is one of this step."""
        self.writer.wait()
        # The others wait for the one that writes: a launcher that sees them end may end it too.
        distributed.max_over_processes(0)
        message = f"stopped at step {self.state.step}; the same command continues from there"
        raise Interrupted(number, message, saved=True)


class _Embedding(nn.Module):
    """The student as a module whose forward gives features and bottleneck vectors: what DDP can wrap."""

    def __init__(self, network: MultiCropNetwork):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """Features, bottleneck vectors, and what else the network's ``embed`` gives."""
        return self.network.embed(*inputs)


def _observe(state: State, result: StepResult, settings: StepSettings) -> dict[str, float]:
    """What the monitor measures of a step."""
    patches = result.patches
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
        patches=None if patches is None else (patches.targets, patches.y, patches.temperature),
    )


def _prototype_use(teacher: MultiCropNetwork) -> dict[str, int]:
    """Different prototypes, and the largest set of duplicates, as Table 4 of the paper counts them (cosine > 0.9)."""
    use = unique_prototypes(teacher.prototypes.directions.detach().float())
    return {"unique_prototypes": use.count, "largest_duplicate_set": use.largest}


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
