import json
import math
import shutil
import signal
import threading

import numpy as np
import pytest
import timm
import torch
from timm.layers import DropPath
from torch.nn import functional as F

from vmflearn.data.photos import Photos
from vmflearn.train import build_model, knn_probe, methods, trainer
from vmflearn.train.checkpoints import checkpoint
from vmflearn.train.checkpoints import writer as checkpoint_writer
from vmflearn.train.checkpoints.checkpoint import CheckpointError
from vmflearn.train.config import ConfigError, load_config
from vmflearn.train.input import loader
from vmflearn.train.input.loader import make_loader
from vmflearn.train.optimizer import clip_each
from vmflearn.train.runs import folder as run_folder
from vmflearn.train.runs import lock as folder_lock
from vmflearn.train.runs.records import read_metrics
from vmflearn.train.runs.stop import Interrupted, stop_signals
from vmflearn.train.state import State
from vmflearn.views.batched import dino_crops, multi_crop
from vmflearn.weights.digest import digest

pytestmark = pytest.mark.usefixtures("fewer_photos")
EVERY = 5  # three steps of 100 an epoch, and a quick kNN
TINY = [
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=2",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}",  # one block would drop none
    "model.drop_path=0",
    "head.out_dim=32",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "optimizer.batch_size=100",
    "optimizer.warmup_epochs=1",
    "optimizer.clip_grad=3",
    "teacher.warmup_temp=0.04",
    "teacher.temp_warmup_epochs=2",
    "run.epochs=3",
    "run.log_every=1",
    "run.device=cpu",
]


def tiny(*more):
    return load_config(None, [*TINY, *more])


def lines(folder):
    return (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return trainer.pretrain(tiny("model.drop_path=0.2"), folder, quiet=True)


def test_a_run_folder_holds_what_it_should(finished):
    found = {path.name for path in finished.run_dir.iterdir()}
    assert found == {
        "backbone",
        "backbone.json",
        "backbone.safetensors",
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
        "timing.jsonl",
    }
    assert load_config(finished.run_dir / "config.yaml") == tiny("model.drop_path=0.2")
    metrics = read_metrics(finished.run_dir / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, finished.steps + 1))
    assert 0 < metrics[-1]["knn_top1"] <= 1
    assert metrics[-1] == finished.metrics
    assert {"torch", "threads", "git_commit"} <= set(json.loads((finished.run_dir / "environment.json").read_text()))


def test_timing_says_where_the_time_went(finished):
    timing = read_metrics(finished.run_dir / "timing.jsonl")
    assert [line["step"] for line in timing] == list(range(1, finished.steps + 1))
    for line in timing:
        assert line["data"] + line["forward_backward"] + line["rest"] == pytest.approx(1)
        assert min(line["data"], line["forward_backward"], line["rest"]) > 0
        assert line["images_per_second"] * line["seconds"] == pytest.approx(100)
        assert 0 < line["mfu"] < 1
        assert line["memory_gib"] > 0
    assert not {"mfu", "data", "seconds"} & set(finished.metrics)


def test_a_profile_changes_nothing_but_the_folder(finished, tmp_path):
    result = trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path, quiet=True, profile=2)
    assert lines(tmp_path) == lines(finished.run_dir)
    assert result.steps == finished.steps
    assert (tmp_path / "profile" / "process-0.json").stat().st_size > 1000


def test_a_run_with_subsets_of_stochastic_depth_is_reproducible_and_its_own(finished, tmp_path):
    subset = tiny("model.drop_path=0.2", "model.stochastic_depth=subset", "run.max_steps=2")
    one, two = (trainer.pretrain(subset, tmp_path / name, quiet=True) for name in "ab")
    assert lines(one.run_dir) == lines(two.run_dir)
    assert math.isfinite(one.metrics["loss"])
    with pytest.raises(ConfigError, match=r"model.backbone=resnet18.*plain blocks"):
        build_model(tiny("model.stochastic_depth=subset", "model.backbone=resnet18", "model.options={}"))


def test_only_the_student_drops_paths_and_by_step_and_part_anew(tmp_path, monkeypatch):
    state = State(tiny("model.drop_path=0.2"), torch.device("cpu"))
    images = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        one, two = (state.teacher.train().backbone(images) for _ in range(2))
        assert torch.equal(one, two)
        one, two = (state.student.train().backbone(images) for _ in range(2))
        assert not torch.equal(one, two)

    drawn, forward = [], DropPath.forward

    def note(layer, x):
        out = forward(layer, torch.ones_like(x))
        if layer.training:  # not where a run tries the crops before it starts
            drawn.append(out[:, 0, 0] == 0)
        return x * out

    monkeypatch.setattr(DropPath, "forward", note)
    settings = ["model.drop_path=0.2", "optimizer.accumulation=2", "optimizer.batch_size=64", "run.max_steps=2"]
    trainer.pretrain(tiny(*settings), tmp_path, quiet=True)
    # two layers (attention, MLP) of the second block, global crops and local ones, two parts, two steps
    masks = {tuple(mask.tolist()) for mask in drawn if len(mask) == 64}
    assert len(drawn) == 16
    assert len(masks) == 16
    assert 0.1 < np.mean([mask.float().mean() for mask in drawn]) < 0.3


def test_a_network_without_blocks_cannot_be_compiled(tmp_path):
    resnet = tiny("model.backbone=resnet18", "model.options={}", "run.compile=true")
    with pytest.raises(ConfigError, match=r"run.compile=true: only the blocks of Vision Transformers.*got ResNet"):
        trainer.pretrain(resnet, tmp_path, quiet=True)


def test_timm_loads_the_export_with_equal_features(finished):
    about = json.loads((finished.run_dir / "backbone.json").read_text())
    path = str(finished.run_dir / "backbone.safetensors")
    model = timm.create_model(about["backbone"], num_classes=0, checkpoint_path=path, **about["options"]).eval()
    saved = checkpoint.load_newest(finished.run_dir / "checkpoints", pytest.fail)
    teacher = build_model(tiny())
    teacher.load_state_dict(saved["teacher"])
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images), teacher.backbone.eval()(images))


def test_two_runs_are_equal_and_another_seed_is_not(finished, tmp_path):
    again = trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path / "again", quiet=True)
    assert lines(again.run_dir) == lines(finished.run_dir)
    other = trainer.pretrain(tiny("model.drop_path=0.2", "seed=1"), tmp_path / "other", quiet=True)
    assert lines(other.run_dir) != lines(finished.run_dir)


def test_the_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.pretrain(tiny("run.epochs=1", "teacher.temp_warmup_epochs=0"), tmp_path, quiet=True)
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_run_is_not_trained_again(finished):
    before = lines(finished.run_dir)
    again = trainer.pretrain(tiny("model.drop_path=0.2"), finished.run_dir, quiet=True)
    assert again == finished
    assert lines(finished.run_dir) == before


@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_run_continues_as_if_it_had_not_been(finished, tmp_path, monkeypatch, at):
    steps = 0
    step_for_real = methods.base.update_teacher

    def interrupt_at(*arguments):
        nonlocal steps
        steps += 1
        if steps == at:
            signal.raise_signal(signal.SIGINT)
        step_for_real(*arguments)

    monkeypatch.setattr(methods.base, "update_teacher", interrupt_at)
    with pytest.raises(Interrupted, match=f"stopped at step {at}") as stopped:
        trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path, quiet=True)
    assert stopped.value.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path, quiet=True).steps == finished.steps
    assert lines(tmp_path) == lines(finished.run_dir)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with an evaluation after every epoch."""
    return trainer.pretrain(tiny(*EVALUATED), tmp_path_factory.mktemp("evaluated"), quiet=True)


EVALUATED = ["model.drop_path=0.2", "run.knn_every=1", "run.save_every=2"]


def best(folder):
    return digest(checkpoint._read(folder / "checkpoints" / "best.pt"))


@pytest.mark.parametrize(("at", "step"), [(4, 3), (6, 3), (8, 6), (11, 9)])
def test_a_run_stopped_within_an_evaluation_makes_it_again_and_ends_alike(evaluated, tmp_path, monkeypatch, at, step):
    """The call of the extractor at which the signal comes: three before the first step, three an evaluation."""
    calls, extract = 0, knn_probe.extract_features

    def stop_at(*arguments, **settings):
        nonlocal calls
        calls += 1
        if calls == at:
            signal.raise_signal(signal.SIGTERM)
        return extract(*arguments, **settings)

    monkeypatch.setattr(knn_probe, "extract_features", stop_at)
    with pytest.raises(Interrupted, match=f"stopped at step {step}; the same command continues from there"):
        trainer.pretrain(tiny(*EVALUATED), tmp_path)
    assert calls == at, "the evaluation went on"
    assert checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail)["step"] == step
    assert step not in [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    monkeypatch.undo()
    trainer.pretrain(tiny(*EVALUATED), tmp_path, quiet=True)
    assert lines(tmp_path) == lines(evaluated.run_dir)
    assert best(tmp_path) == best(evaluated.run_dir)
    timing = read_metrics(tmp_path / "timing.jsonl")
    assert [line["step"] for line in timing if "evaluation_seconds" in line] == [3, 6, 9]


def test_a_signal_before_an_evaluation_comes_is_not_kept_waiting_by_it(evaluated, tmp_path, monkeypatch):
    update, steps = methods.base.update_teacher, []

    def stop_in_the_third(*arguments):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        update(*arguments)

    monkeypatch.setattr(methods.base, "update_teacher", stop_in_the_third)
    monkeypatch.setattr(State, "evaluate", lambda *arguments: pytest.fail("an evaluation was begun"))
    with pytest.raises(Interrupted, match="stopped at step 3"):
        trainer.pretrain(tiny(*EVALUATED), tmp_path, quiet=True)
    monkeypatch.undo()
    trainer.pretrain(tiny(*EVALUATED), tmp_path, quiet=True)
    assert lines(tmp_path) == lines(evaluated.run_dir)


def test_an_evaluation_that_was_not_made_can_be_left_out(evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr(State, "evaluate", lambda *arguments: signal.raise_signal(signal.SIGINT) or arguments[1]())
    with pytest.raises(Interrupted, match="stopped at step 3"):
        trainer.pretrain(tiny(*EVALUATED), tmp_path, quiet=True)
    monkeypatch.undo()
    trainer.pretrain(tiny(*EVALUATED, "run.knn_every=0", "run.max_steps=8"), tmp_path, quiet=True)
    found, wanted = read_metrics(tmp_path / "metrics.jsonl"), read_metrics(evaluated.run_dir / "metrics.jsonl")
    assert "knn_top1" not in found[2]
    assert found[2].items() <= wanted[2].items()
    assert found[6] == wanted[6]


def test_every_checkpoint_finds_the_lines_before_it_on_the_disk(tmp_path, monkeypatch):
    save, found = checkpoint_writer.save_checkpoint, []

    def look(folder, step, state, **options):
        there = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
        found.append((step, state["recorded"], state["pending"] is not None))
        assert there[: state["recorded"]] == list(range(1, state["recorded"] + 1))
        return save(folder, step, state, **options)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", look)
    trainer.pretrain(tiny(*EVALUATED, "run.max_steps=7"), tmp_path, quiet=True)
    assert found == [
        (0, 0, False),
        *((step, step - pending, pending) for step in (3, 6, 7) for pending in (True, False)),
    ]


@pytest.mark.parametrize("at", ["load_newest", "export_backbone"])
def test_a_signal_outside_of_the_steps_stops_at_once_and_loses_nothing(evaluated, tmp_path, monkeypatch, at):
    shutil.copytree(evaluated.run_dir, tmp_path / "run")
    (tmp_path / "run" / "backbone.safetensors").unlink()
    monkeypatch.setattr(trainer, at, lambda *arguments: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped outside of training, and nothing is lost: the same command") as stop:
        trainer.pretrain(tiny(*EVALUATED), tmp_path / "run", quiet=True)
    assert stop.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()
    trainer.pretrain(tiny(*EVALUATED), tmp_path / "run", quiet=True)
    assert lines(tmp_path / "run") == lines(evaluated.run_dir)
    assert (tmp_path / "run" / "backbone.safetensors").exists()


def test_a_second_ctrl_c_interrupts_at_once():
    with stop_signals() as stop, stop.noted():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as interrupted:
            signal.raise_signal(signal.SIGINT)
    assert type(interrupted.value) is KeyboardInterrupt  # not one that says that all is saved


def test_training_works_outside_the_main_thread(tmp_path):
    config = tiny("run.max_steps=1")
    done = []
    thread = threading.Thread(target=lambda: done.append(trainer.pretrain(config, tmp_path, quiet=True).steps))
    thread.start()
    thread.join()
    assert done == [1]


def test_records_may_become_denser_or_sparser_and_evaluations_too(evaluated, tmp_path):
    trainer.pretrain(tiny(*EVALUATED, "run.max_steps=4"), tmp_path, quiet=True)
    trainer.pretrain(tiny(*EVALUATED, "run.log_every=2", "run.knn_every=2"), tmp_path, quiet=True)
    found, wanted = read_metrics(tmp_path / "metrics.jsonl"), read_metrics(evaluated.run_dir / "metrics.jsonl")
    assert [line["step"] for line in found] == [1, 2, 3, 4, 6, 8, 9]
    assert found[4] == wanted[5]
    assert {"unique_prototypes", "knn_top1"} < found[3].keys()  # of the end that was asked for
    assert found[5] == wanted[7]


def test_records_without_a_checkpoint_are_not_overwritten(finished, tmp_path):
    shutil.copytree(finished.run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    for more in ([], ["seed=1"]):
        with pytest.raises(CheckpointError, match=r"holds the records of a run, and no checkpoint.*or remove"):
            trainer.pretrain(tiny("model.drop_path=0.2", *more), tmp_path / "run", quiet=True)
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiny("seed=1").to_yaml(), r"another configuration \(seed: 1 -> 0\)"),
        ("- a list", "config.yaml is not that of a run"),
        (b"\xff", "config.yaml is not that of a run"),
    ],
)
def test_a_config_that_is_not_this_runs_is_not_overwritten(tmp_path, content, words):
    (tmp_path / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(CheckpointError, match=words):
        trainer.pretrain(tiny(), tmp_path, quiet=True)
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_two_runs_in_one_folder_at_once_are_refused(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.0)
    refused = []
    monkeypatch.setattr(  # a second start, while the first one trains
        trainer, "export_backbone", lambda *arguments: refused.append(start()) or run_folder.export_backbone(*arguments)
    )

    def start():
        with pytest.raises(CheckpointError, match=r"run is in use: a run goes on in it \(another thread") as error:
            trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path / "run", quiet=True)
        return error

    trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path / "run", quiet=True)
    assert len(refused) == 1
    assert lines(tmp_path / "run") == lines(finished.run_dir)


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_a_damaged_line_stops_neither_a_finished_run_nor_an_unfinished_one(finished, tmp_path, capsys, name):
    for folder, limit in (("finished", []), ("unfinished", ["run.max_steps=5"])):
        run_dir = tmp_path / folder
        trainer.pretrain(tiny("model.drop_path=0.2", *limit), run_dir, quiet=True)
        content = (run_dir / name).read_bytes().splitlines(keepends=True)
        (run_dir / name).write_bytes(b"".join([*content[:1], b"\0" * 80 + b"\n", *content[2:]]))
        capsys.readouterr()
        result = trainer.pretrain(tiny("model.drop_path=0.2"), run_dir)
        assert result.metrics == finished.metrics
        said = [line for line in capsys.readouterr().out.splitlines() if "is damaged" in line]
        assert len(said) == 1
        assert f"{name}: line 2, between steps 1 and 3, is damaged" in said[0]
        assert [line["step"] for line in read_metrics(run_dir / name)] == [1, *range(3, 10)]


def test_another_configuration_is_refused(finished):
    before = lines(finished.run_dir)
    with pytest.raises(CheckpointError, match=r"another configuration \(optimizer.lr: 0.0005 -> 0.001\).*--run-dir"):
        trainer.pretrain(tiny("model.drop_path=0.2", "optimizer.lr=1e-3"), finished.run_dir, quiet=True)
    assert lines(finished.run_dir) == before


def test_a_damaged_checkpoint_costs_only_its_steps(finished, tmp_path, capsys):
    config = tiny("model.drop_path=0.2")
    trainer.pretrain(config, tmp_path, quiet=True)
    newest = max((tmp_path / "checkpoints").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    trainer.pretrain(config, tmp_path)
    assert "cannot be read" in capsys.readouterr().out
    assert lines(tmp_path) == lines(finished.run_dir)


def test_a_checkpoint_that_lacks_a_part_costs_only_its_steps(finished, tmp_path, capsys):
    config, folder = tiny("model.drop_path=0.2"), tmp_path / "checkpoints"
    trainer.pretrain(config, tmp_path, quiet=True)
    saved = checkpoint.load_newest(folder, pytest.fail)
    del saved["monitor"]["last_win"]
    checkpoint.save_checkpoint(folder, 9, saved)
    trainer.pretrain(config, tmp_path)
    out = capsys.readouterr().out
    assert "step-00000009.pt cannot be read (monitor.last_win is missing); looking for an earlier one" in out
    assert "step-00000009.damaged" in out
    assert lines(tmp_path) == lines(finished.run_dir)
    for path in folder.glob("step-*.pt"):
        checkpoint.save_checkpoint(folder, int(path.stem[5:]), {"step": 1})
    with pytest.raises(CheckpointError, match="none of the checkpoints"):
        trainer.pretrain(config, tmp_path, quiet=True)


def test_a_loss_that_is_not_finite_stops_with_suspects(tmp_path, monkeypatch):
    monkeypatch.setattr(methods.dino, "prototype_loss", lambda y, prototypes, temperature, targets: y.sum() * torch.nan)
    with pytest.raises(trainer.TrainingError, match=r"step 0: loss is nan .*suspect the prototypes.*Usual cures"):
        trainer.pretrain(tiny(), tmp_path, quiet=True)


def test_an_image_that_gives_nan_is_named_and_the_weights_are_kept(tmp_path, monkeypatch):
    config = tiny("run.max_steps=2", "optimizer.warmup_epochs=0", "run.save_every=1000")
    multi_crop = loader.multi_crop
    calls = 0

    def spoiled(images, indices, **settings):
        nonlocal calls
        calls += 1
        views = multi_crop(images, indices, **settings)
        if calls == 2:
            views[1][7, 0, 3, 3] = torch.nan
        return views

    monkeypatch.setattr(loader, "multi_crop", spoiled)
    with pytest.raises(trainer.TrainingError, match=r"step 1: loss is nan .*features of image 7 of the batch"):
        trainer.pretrain(config, tmp_path, quiet=True)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.batch_size=1000000", "batch_size=1000000 is larger than the data set"),
        ("run.knn_k=1000000", "knn_k=1000000 is larger than the training set"),
        ("run.device=nonsense", "run.device=nonsense cannot be used"),
        ("model.backbone=vit_tinny_patch16_224", "model.backbone=vit_tinny_patch16_224"),
        ("model.options={no_such_option: 1}", "no_such_option"),
        ("views.local_size=12", "views.local_size=12 is not a multiple of the backbone's patch, 8"),
        ("views.local_size=4", "views.local_size=4 is not a multiple of the backbone's patch, 8"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, override, words):
    with pytest.raises(ConfigError, match=words):
        trainer.pretrain(tiny(override), tmp_path, quiet=True)


def test_other_images_are_refused(finished, monkeypatch):
    photos = loader.load_photos("train")
    fewer = Photos(photos.images[:300], photos.labels[:300], photos.class_names)
    monkeypatch.setattr(loader, "load_photos", lambda split: fewer)
    with pytest.raises(CheckpointError, match="made with 360 images, and there are 300 now"):
        trainer.pretrain(tiny("model.drop_path=0.2"), finished.run_dir, quiet=True)


def test_images_that_are_as_many_and_not_the_same_are_refused(finished, monkeypatch):
    photos = loader.load_photos("train")
    brighter = Photos(photos.images.clamp(min=9), photos.labels, photos.class_names)
    monkeypatch.setattr(loader, "load_photos", lambda split: brighter)
    with pytest.raises(CheckpointError, match="360 images, and their names or their order have changed; give"):
        trainer.pretrain(tiny("model.drop_path=0.2"), finished.run_dir, quiet=True)


def test_a_profile_of_less_than_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--profile must be a number of steps, 0 or more, not -1"):
        trainer.pretrain(tiny(), tmp_path / "run", profile=-1)


def test_bfloat16_trains_on_the_cpu(tmp_path):
    settings = ["run.max_steps=2", "optimizer.warmup_epochs=0"]
    rough = trainer.pretrain(tiny("run.precision=bfloat16", *settings), tmp_path / "bfloat16", quiet=True)
    exact = trainer.pretrain(tiny(*settings), tmp_path / "float32", quiet=True)
    assert rough.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=0.05)
    assert rough.metrics["loss"] != exact.metrics["loss"]


@pytest.mark.parametrize(("precision", "fused"), [("float32", True), ("bfloat16", False)])
def test_attention_writes_its_matrix_where_that_is_faster(precision, fused):
    state = State(tiny(f"run.precision={precision}", "run.device=cpu"), torch.device("cpu"))
    for network in (state.student, state.teacher):
        assert all(block.attn.fused_attn == fused for block in network.backbone.blocks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_trains_stops_and_continues(tmp_path, precision):
    settings = ["run.device=cuda", f"run.precision={precision}", "model.drop_path=0.2"]
    trainer.pretrain(tiny(*settings, "run.max_steps=2"), tmp_path, quiet=True)
    on_gpu = trainer.pretrain(tiny(*settings), tmp_path, quiet=True)
    on_cpu = trainer.pretrain(tiny("model.drop_path=0.2", "run.max_steps=1"), tmp_path / "cpu", quiet=True)
    assert on_gpu.steps == 9
    first = read_metrics(tmp_path / "metrics.jsonl")[0]["loss"]
    assert first == pytest.approx(on_cpu.metrics["loss"], rel=1e-4 if precision == "float32" else 0.05)


@pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])
@pytest.mark.parametrize("centering", ["logit", "probability"])
def test_the_six_settings_train_for_fifty_steps(tmp_path, normalization, centering):
    config = tiny(
        f"head.normalization={normalization}",
        f"teacher.centering={centering}",
        "head.batch_norm=true",
        "optimizer.batch_size=64",
        "run.epochs=17",
        "optimizer.warmup_epochs=0",
        "optimizer.lr=2e-2",
        "teacher.momentum=0.9",
        "optimizer.freeze_last_layer_epochs=0",
        "teacher.temp_warmup_epochs=0",
        "run.max_steps=50",
        "run.log_every=1",
    )
    result = trainer.pretrain(config, tmp_path, quiet=True)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert result.steps == len(metrics) == 50
    assert all(math.isfinite(line["loss"]) for line in metrics)
    # The student learns to agree with the teacher: their divergence, loss - teacher entropy, falls. The loss alone
    # says little, since the teacher's entropy moves as the centre does.
    divergence = np.array([line["loss"] - line["teacher_entropy"] for line in metrics])
    assert divergence[-5:].mean() < 0.75 * divergence[:5].mean()


def test_three_steps_equal_dinos_longhand(tmp_path):
    """The trainer's losses and centre against DINO's algorithm written out pair by pair, in float64."""
    config = tiny(
        "run.precision=float64",
        "head.normalization=none",
        "teacher.centering=logit",
        "teacher.temp_warmup_epochs=3",
        "run.max_steps=3",
    )

    def cosines(start, end, steps):
        """Half a period, as DINO's `cosine_scheduler` writes it."""
        return end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.arange(steps) / steps))

    trainer.pretrain(config, tmp_path, quiet=True)
    saved = checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail)
    ours = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]

    torch.manual_seed(config.seed)
    student, teacher = build_model(config), build_model(config)
    teacher.load_state_dict(student.state_dict())
    order = make_loader(config, (), torch.device("cpu"))
    images, order = order.images, order.order
    crops = dino_crops(16, 8, 2, (0.25, 1.0), (0.05, 0.25))
    assert order.steps_per_epoch == 3
    rates = np.concatenate([np.linspace(0, 5e-4 * 100 / 256, 3), cosines(5e-4 * 100 / 256, 1e-5, 6)])
    decays, momenta = cosines(0.04, 0.4, 9), cosines(0.996, 1, 9)
    decayed = [p for n, p in student.named_parameters() if not (n.endswith(".bias") or p.ndim == 1)]
    plain = [p for n, p in student.named_parameters() if n.endswith(".bias") or p.ndim == 1]
    adam = torch.optim.AdamW([{"params": decayed}, {"params": plain}])
    center, losses = torch.zeros(32, dtype=torch.float64), []

    def logits(network, crop):
        """Inner products of the unit bottleneck with prototypes g v / |v|, before any temperature."""
        hidden = F.normalize(network.head.mlp(network.backbone(crop)), dim=-1)
        v, g = network.head.prototypes.weight_v, network.head.prototypes.weight_g
        return hidden @ (g * v / v.norm(dim=1, keepdim=True)).T

    for step in range(3):
        epoch, indices = order.indices(step)
        views = multi_crop(images[indices], torch.from_numpy(indices), crops=crops, seed=0, epoch=epoch)
        views = [view.double() for view in views]
        temperature = np.linspace(0.04, 0.07, 3)[epoch]
        with torch.no_grad():
            t = [logits(teacher, view) for view in views[:2]]
        s = [logits(student, view) for view in views]
        terms = []
        for i, target in enumerate(t):
            q = F.softmax((target - center) / temperature, dim=-1)
            for j, view in enumerate(s):
                if i != j:
                    terms.append(-(q * F.log_softmax(view / 0.1, dim=-1)).sum(dim=-1).mean())
        loss = sum(terms) / len(terms)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        clip_each(student.parameters(), 3.0)
        if epoch < 1:
            student.head.prototypes.weight_v.grad = None
            student.head.prototypes.weight_g.grad = None
        for group, decay in zip(adam.param_groups, (decays[step], 0.0), strict=True):
            group["lr"], group["weight_decay"] = rates[step], decay
        adam.step()
        momentum = momenta[step]
        with torch.no_grad():
            for p, q in zip(teacher.parameters(), student.parameters(), strict=True):
                p.mul_(momentum).add_((1 - momentum) * q)
        center = 0.9 * center + 0.1 * torch.cat(t).mean(dim=0)

    np.testing.assert_allclose(ours, losses, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(saved["centering"]["center"], center, rtol=1e-10, atol=1e-10)
