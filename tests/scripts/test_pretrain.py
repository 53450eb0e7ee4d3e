"""The script as its user runs it: a command line, a run folder, and what happens when things go wrong."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import preloaded
import pytest
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from vmflearn.train import load_config, pretrain
from vmflearn.train.runs.records import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "pretrain.py"
PHOTOS = ROOT / "scripts" / "configs" / "photos_vit_tiny_dino_vmf.yaml"
SMALL = [
    "--config",
    str(PHOTOS),
    "--head.out_dim=64",
    "--model.options={img_size: 16, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",
    "--model.drop_path=0.1",
    "--views.global_size=16",
    "--views.local_size=8",
    "--run.save_every=1",
    "--run.knn_every=1",
    "--run.log_every=1",
]


def start(*arguments, cwd=None):
    return preloaded.start([SCRIPT, *arguments], cwd)


def run(*arguments, cwd=None):
    done = preloaded.run([SCRIPT, *arguments], cwd)
    return done.returncode, done.stdout, done.stderr


def start_bare(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **preloaded.FIXED},
        **options,
    )


def write_images(folder, n, size=(48, 40)):
    """JPEG files with smooth random content, in two class folders."""
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / f"class_{i % 2}" / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def steps_taken(folder):
    return len(read_metrics(folder / "metrics.jsonl"))


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_where_the_unbroken_run_ends(tmp_path):
    arguments = [*SMALL, "--run.epochs=16", "--optimizer.batch_size=300", "--views.n_local=1", "--run.knn_every=5"]
    code, _, err = run(*arguments, "--run-dir", tmp_path / "whole")
    assert code == 0, err
    total = steps_taken(tmp_path / "whole")
    assert total == 96
    broken = tmp_path / "broken"
    rng = random.Random(0)
    for attempt, moment in enumerate(sorted(rng.sample(range(total - 10), 10))):
        for left in broken.glob("checkpoints/*.tmp"):
            left.unlink()  # of the kill before, so that the wait below is for a new one
        process = start(*arguments, "--run-dir", broken)
        while process.poll() is None and steps_taken(broken) < moment:
            time.sleep(0.01)
        if attempt % 3 == 1:  # while a checkpoint is being written
            while process.poll() is None and not any((broken / "checkpoints").glob("*.tmp")):
                pass
        elif attempt % 3 == 2:  # as soon as one is there, which promises the lines before it
            there = set((broken / "checkpoints").glob("step-*.pt"))
            while process.poll() is None and not set((broken / "checkpoints").glob("step-*.pt")) - there:
                pass
        else:
            time.sleep(rng.uniform(0, 0.2))
        assert process.poll() is None, "the run ended before it could be killed: make it longer"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, out, err = run(*arguments, "--run-dir", broken)
    assert code == 0, err
    assert "continuing" in out
    assert (broken / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ibot", "msn"])
def test_masks_and_dropped_patches_are_drawn_again_as_before_the_kill(method, tmp_path):
    """The unbroken run is made in this process: starting one takes longer than running it."""
    config = PHOTOS.with_name(f"photos_vit_tiny_{method}.yaml")
    tiny = ["model.options={img_size: 32, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}", "views.n_local=1"]
    tiny += ["model.drop_path=0.1", "optimizer.batch_size=128", "optimizer.warmup_epochs=0", "run.max_steps=28"]
    tiny += ["run.save_every=1", "run.knn_every=0", "run.log_every=1", "run.device=cpu"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as below
    pretrain(load_config(config, tiny), tmp_path / "whole", quiet=True)
    torch.set_num_threads(threads)
    arguments = ["--config", config, *(f"--{setting}" for setting in tiny), "--run-dir", tmp_path / "broken"]
    process, saved = start(*arguments), tmp_path / "broken" / "checkpoints" / "step-00000014.pt"
    while process.poll() is None and not (saved.exists() and steps_taken(tmp_path / "broken") >= 15):
        time.sleep(0.01)  # until it is within the second epoch
    assert process.poll() is None, "the run ended before it could be killed: make it longer"
    process.kill()
    process.communicate()
    assert 15 <= steps_taken(tmp_path / "broken") < 28
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "at step 14 of 28" in out
    assert (tmp_path / "broken" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_make_pretrain_reaches_its_accuracy(tmp_path):
    """The run of `make pretrain`, made here and now: a folder that is there already may be of other code."""
    makefile = (ROOT / "Makefile").read_text()
    assert f"scripts/pretrain.py --config {PHOTOS.relative_to(ROOT)}\n" in makefile
    process = start_bare("--config", PHOTOS, "--run-dir", tmp_path, cwd=ROOT)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert "finished after 336 steps" in out
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["knn_top1"] >= 0.72


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_with_130(tmp_path):
    arguments = [*SMALL, "--run.epochs=50", "--run-dir", tmp_path]
    process = start(*arguments)
    while process.poll() is None and not read_metrics(tmp_path / "metrics.jsonl"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues from there" in err
    assert len(list((tmp_path / "checkpoints").glob("step-*.pt"))) >= 1
    assert "Traceback" not in err


def test_ctrl_c_while_everything_is_being_loaded_is_one_line(tmp_path):
    process = start_bare(*SMALL, "--run-dir", tmp_path / "run", cwd=tmp_path)
    while process.poll() is None and not any("libtorch" in line for line in mapped(process.pid)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert len(err.splitlines()) == 1
    assert err.startswith(("interrupted before anything was started", "stopped outside of training, and nothing is"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def mapped(pid):
    """Lines about the memory of a process."""
    try:
        return Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []


def test_a_second_run_in_the_folder_is_refused_in_one_line_and_the_first_goes_on(tmp_path):
    arguments = [*SMALL, "--run.epochs=50", "--run-dir", tmp_path]
    first = start(*arguments)
    while first.poll() is None and steps_taken(tmp_path) < 1:
        time.sleep(0.05)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    code, out, err = run(*arguments, "--seed=3")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert f"error: {tmp_path} is in use: a run goes on in it (process {first.pid} on " in err
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)
    assert not (tmp_path / "lock").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_killed_data_worker_is_one_line_that_says_where_to_look(tmp_path):
    folder = write_images(tmp_path / "images", 64)
    limits = ["--optimizer.batch_size=2", "--run.epochs=5000", "--data.workers=1", "--data.cache=false"]
    process = start(*folder_arguments(folder, *limits), "--run-dir", tmp_path / "run")
    while process.poll() is None and steps_taken(tmp_path / "run") < 3:
        time.sleep(0.05)
    worker = decoder(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2, err
    assert len(err.splitlines()) == 1, err
    # which sign of it comes first
    gone = (
        rf"\(pid {worker}\) is killed by signal: Killed",
        rf"\(pid\(s\) {worker}\) exited unexpectedly",
        "is gone .*",
    )
    assert re.search(f"error: DataLoader worker ({'|'.join(gone)}): it decoded images", err), err
    assert "are free in /dev/shm): lower data.workers or data.max_side" in err
    assert "the same command continues from the last checkpoint" in err


def decoder(pid):
    """A process that decodes for this one: a child of the server of workers. Between two epochs there is none."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = [worker for server in children(pid) for worker in children(server)]
        if workers:
            return workers[0]
        time.sleep(0.01)
    raise AssertionError("no worker")


def children(pid):
    try:
        return [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_a_stop_of_the_whole_process_group_spares_the_workers_until_all_is_saved(tmp_path):
    folder = write_images(tmp_path / "images", 64)
    limits = ["--optimizer.batch_size=32", "--run.epochs=500", "--data.workers=2"]
    process = start_bare(*folder_arguments(folder, *limits), "--run-dir", tmp_path / "run", start_new_session=True)
    while process.poll() is None and steps_taken(tmp_path / "run") < 3:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "the same command continues from there" in err


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(tmp_path):
    arguments = [*SMALL, "--optimizer.batch_size=300", "--run.epochs=4", "--run-dir", str(tmp_path)]
    code, _, err = run(*arguments, "--run.max_steps=6")
    assert code == 0, err
    process = start(*arguments)  # long before it writes, the kernel refuses to let any file grow, as on a full disk
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    _, err = process.communicate(timeout=500)
    assert process.returncode == 2
    assert "error: " in err.splitlines()[-1]
    assert "Traceback" not in err
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "at step 6 of 24" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizer.lrr=1"], "unknown key optimizer.lrr; did you mean optimizer.lr?"),
        (["--run.epochs", "many"], "run.epochs must be a whole number, not 'many'"),
        (["--run.epochs=1"], "is longer than the run (run.epochs=1)"),
        (["--config", "absent.yaml"], "configuration absent.yaml cannot be read"),
        (["--profile", "-1"], "--profile must be a number of steps, 0 or more, not -1"),
        (["stray"], "not of the form --section.key=value"),
        (["--data.source=folder", "--data.root=/nowhere/at/all"], "/nowhere/at/all"),
        (["--optimizer.batch_size=999999"], "optimizer.batch_size=999999 is larger than the data set"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(tmp_path, arguments, words):
    code, _, err = run("--config", PHOTOS, *arguments, "--run-dir", tmp_path / "run")
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_file_in_the_place_of_the_run_folder_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    code, _, err = run("--config", PHOTOS, "--run-dir", tmp_path / "run")
    assert code == 2
    assert err == f"error: the run folder {tmp_path / 'run'} is a file; give another one with --run-dir\n"


def folder_arguments(folder, *more):
    return [*SMALL, "--data.source=folder", f"--data.root={folder}", "--run.knn_every=0", *more]


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    code, _, err = run(*folder_arguments(tmp_path / "images"), "--run-dir", tmp_path / "run")
    assert code == 2
    assert str(tmp_path / "images") in err
    assert len(err.strip().splitlines()) == 1, err


def test_one_unreadable_image_among_good_ones_is_named_counted_and_skipped(tmp_path):
    folder = write_images(tmp_path / "images", 128)
    bad = folder / "class_1" / "0037.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    limits = ["--optimizer.batch_size=64", "--run.epochs=5", "--run.max_steps=2", f"--data.val_root={folder}"]
    code, out, err = run(*folder_arguments(folder, *limits), "--run-dir", tmp_path / "run")
    assert code == 0, err
    assert "kNN top-1" in out  # the unreadable one is left out of it
    assert out.count(f"skipped unreadable image {bad}") == 1
    assert "1 so far" in out


def test_more_than_one_percent_unreadable_stops(tmp_path):
    folder = write_images(tmp_path / "images", 128)
    for name in ("class_1/0037.jpg", "class_0/0100.jpg"):
        (folder / name).write_text("not an image")
    limits = ["--optimizer.batch_size=128", "--run.epochs=5", "--run.max_steps=2"]
    code, _, err = run(*folder_arguments(folder, *limits), "--run-dir", tmp_path / "run")
    assert code == 2
    assert "2 of 128 images cannot be read, more than 1%" in err
    assert "0037.jpg" in err


def test_mixed_sizes_and_modes_train_with_workers_as_without(tmp_path):
    folder = write_images(tmp_path / "images", 40)
    for i, mode in enumerate(["L", "RGBA", "P", "LA", "1", "CMYK"]):
        image = Image.open(folder / "class_0" / "0000.jpg").convert(mode).resize((30 + 17 * i, 80 - 9 * i))
        image.save(folder / "class_0" / f"mode_{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    limits = ["--optimizer.batch_size=46", "--run.epochs=5", "--run.max_steps=3"]
    results = []
    for workers in (0, 2):
        folder_run = tmp_path / f"run{workers}"
        code, _, err = run(*folder_arguments(folder, *limits, f"--data.workers={workers}"), "--run-dir", folder_run)
        assert code == 0, err
        results.append((folder_run / "metrics.jsonl").read_bytes())
    assert results[0] == results[1]


@pytest.mark.slow
def test_the_imagenet_configuration_takes_two_steps_at_full_size(tmp_path):
    folder = tmp_path / "images"  # four photographs at their own sizes, from 600 x 400 to 1000 x 872 pixels
    folder.mkdir()
    photographs = {"coffee": data.coffee(), "hubble": data.hubble_deep_field()}
    photographs |= dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    for name, pixels in photographs.items():
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=90)
    config = ROOT / "scripts" / "configs" / "imagenet_vit_small16_dino_vmf.yaml"
    code, out, err = run(
        "--config",
        config,
        f"--data.root={folder}",
        "--data.workers=0",
        "--optimizer.batch_size=2",
        "--run.max_steps=2",
        "--run.precision=float32",
        "--run-dir",
        tmp_path / "run",
    )
    assert code == 0, err
    assert "44.0 M parameters" in out  # 21.7 M in the backbone, 22.4 M in the head with 65,536 prototypes
    assert (tmp_path / "run" / "backbone.safetensors").stat().st_size > 80e6


def test_dry_run_says_what_a_run_takes_without_data_and_leaves_nothing(tmp_path):
    imagenet = ROOT / "scripts" / "configs" / "imagenet_vit_small16_dino_vmf.yaml"
    speed = ["--images", 1281167, "--devices", 8, "--throughput", 8000]
    code, out, err = run("--config", imagenet, "--dry-run", *speed, "--views.n_local=2", cwd=tmp_path)
    assert code == 0, err
    for words in ("21,665,664", "22,352,128", "1,281,167", "1,251", "1,000,800", "35.58", "284.7"):
        assert words in out
    assert list(tmp_path.iterdir()) == []
    code, out, err = run("--config", imagenet, "--dry-run", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "data.root" in err
