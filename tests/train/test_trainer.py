import json
import math
import signal
import threading

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from vmflearn.data import Photos
from vmflearn.ssl.views import dino_crops, multi_crop
from vmflearn.train import build_model, checkpoint, loader, trainer
from vmflearn.train import step as step_module
from vmflearn.train.checkpoint import CheckpointError
from vmflearn.train.config import ConfigError, load_config
from vmflearn.train.loader import make_loader
from vmflearn.train.optimizer import clip_each
from vmflearn.train.records import read_metrics
from vmflearn.train.schedules import cosine
from vmflearn.train.state import State

TINY = [
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=2",
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
    "model.drop_path=0",
    "head.out_dim=32",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "optimizer.batch_size=512",
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
        assert line["images_per_second"] * line["seconds"] == pytest.approx(512)
        assert 0 < line["mfu"] < 1
        assert line["memory_gib"] > 0
    assert not {"mfu", "data", "seconds"} & set(finished.metrics)


def test_a_profile_changes_nothing_but_the_folder(finished, tmp_path):
    result = trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path, quiet=True, profile=2)
    assert lines(tmp_path) == lines(finished.run_dir)
    assert result.steps == finished.steps
    assert (tmp_path / "profile" / "process-0.json").stat().st_size > 1000


def test_a_run_with_subsets_of_stochastic_depth_is_reproducible_and_its_own(finished, tmp_path):
    subset = tiny("model.drop_path=0.2", "model.stochastic_depth=subset", "model.options.depth=2", "run.max_steps=2")
    one, two = (trainer.pretrain(subset, tmp_path / name, quiet=True) for name in "ab")
    assert lines(one.run_dir) == lines(two.run_dir)
    assert math.isfinite(one.metrics["loss"])
    with pytest.raises(ConfigError, match=r"model.backbone=resnet18.*plain blocks"):
        build_model(tiny("model.stochastic_depth=subset", "model.backbone=resnet18", "model.options={}"))


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
    step_for_real = step_module.update_teacher

    def interrupt_at(*arguments):
        nonlocal steps
        steps += 1
        if steps == at:
            signal.raise_signal(signal.SIGINT)
        step_for_real(*arguments)

    monkeypatch.setattr(step_module, "update_teacher", interrupt_at)
    with pytest.raises(trainer.Interrupted, match=f"stopped at step {at}") as stopped:
        trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path, quiet=True)
    assert stopped.value.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert trainer.pretrain(tiny("model.drop_path=0.2"), tmp_path, quiet=True).steps == finished.steps
    assert lines(tmp_path) == lines(finished.run_dir)


def test_a_second_ctrl_c_interrupts_at_once():
    with trainer._signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_training_works_outside_the_main_thread(tmp_path):
    config = tiny("run.max_steps=1")
    done = []
    thread = threading.Thread(target=lambda: done.append(trainer.pretrain(config, tmp_path, quiet=True).steps))
    thread.start()
    thread.join()
    assert done == [1]


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


def test_a_loss_that_is_not_finite_stops_with_suspects(tmp_path, monkeypatch):
    monkeypatch.setattr(step_module, "prototype_loss", lambda y, prototypes, temperature, targets: y.sum() * torch.nan)
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
    fewer = Photos(photos.images[:1700], photos.labels[:1700], photos.class_names)
    monkeypatch.setattr(loader, "load_photos", lambda split: fewer)
    with pytest.raises(CheckpointError, match="made with 1800 images, and there are 1700 now"):
        trainer.pretrain(tiny("model.drop_path=0.2"), finished.run_dir, quiet=True)


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
    trainer.pretrain(config, tmp_path, quiet=True)
    saved = checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail)
    ours = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]

    torch.manual_seed(config.seed)
    student, teacher = build_model(config), build_model(config)
    teacher.load_state_dict(student.state_dict())
    order = make_loader(config, (), torch.device("cpu"))
    images, order = order.images, order.order
    crops = dino_crops(16, 8, 2, (0.25, 1.0), (0.05, 0.25))
    total = order.steps_per_epoch * config.run.epochs
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
        rate = cosine(step, total, 5e-4 * 2, 1e-5, order.steps_per_epoch)
        for group, decay in zip(adam.param_groups, (cosine(step, total, 0.04, 0.4), 0.0), strict=True):
            group["lr"], group["weight_decay"] = rate, decay
        adam.step()
        momentum = cosine(step, total, 0.996, 1.0)
        with torch.no_grad():
            for p, q in zip(teacher.parameters(), student.parameters(), strict=True):
                p.mul_(momentum).add_((1 - momentum) * q)
        center = 0.9 * center + 0.1 * torch.cat(t).mean(dim=0)

    np.testing.assert_allclose(ours, losses, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(saved["centering"]["center"], center, rtol=1e-10, atol=1e-10)
