"""Two processes on the CPU (gloo)."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import preloaded
import pytest
import torch

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, **preloaded.FIXED}
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TINY = [
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=1",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}",
    "model.drop_path=0.4",
    "head.out_dim=16",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "optimizer.batch_size=600",
    "optimizer.warmup_epochs=1",
    "run.epochs=3",
    "run.log_every=1",
    "run.knn_every=1",
    "run.device=cpu",
]


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    done = subprocess.run([str(a) for a in command], capture_output=True, text=True, env=ENVIRONMENT, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def alone(*arguments):
    done = preloaded.run(arguments)
    assert done.returncode == 0, done.stderr[-3000:]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_reductions(tmp_path):
    script = tmp_path / "reductions.py"
    script.write_text(
        textwrap.dedent("""
        import math, torch, torch.distributed as dist
        from vmflearn import distributed as d
        dist.init_process_group("gloo")
        r = d.rank()
        assert d.is_distributed() and d.world_size() == 2
        assert torch.equal(d.mean_over_processes(torch.tensor([1.0, 10.0]) * (r + 1)), torch.tensor([1.5, 15.0]))
        # exp(-2000) underflows, its logarithm must not
        x = torch.tensor([-2000.0, -2001.0][r])
        expected = -2000 + math.log((1 + math.exp(-1)) / 2)
        assert abs(float(d.log_mean_exp_over_processes(x)) - expected) < 1e-3
        rows = d.gather_rows(torch.full((r + 1, 2), float(r)))
        assert rows.tolist() == [[0, 0], [1, 1], [1, 1]], rows
        dist.destroy_process_group()
        """)
    )
    done = preloaded.together(2, [script])
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_like_one(tmp_path):
    """The same images, views, losses and centre whether one process takes the batch, two share it, or first one and
    then, from its checkpoint, two."""
    arguments = [
        ROOT / "scripts" / "pretrain.py",
        "--config",
        ROOT / "scripts" / "configs" / "photos_vit_tiny_dino_vmf.yaml",
        "--head.out_dim=64",
        "--model.options={img_size: 32, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",
        "--model.drop_path=0",
        "--head.batch_norm=false",
        "--run.precision=float64",
        "--run.max_steps=20",
        "--run.log_every=1",
        "--run-dir",
    ]
    found = {}
    for processes, start in ((1, alone), (2, torchrun)):
        start(*arguments, tmp_path / str(processes))
        found[processes] = read(tmp_path / str(processes) / "metrics.jsonl")
    alone(*arguments, tmp_path / "changed", "--run.max_steps=8")
    said = torchrun(*arguments, tmp_path / "changed")
    assert "2 process(es) now, 1 before: every step keeps its images and their crops" in said
    found["changed"] = read(tmp_path / "changed" / "metrics.jsonl")
    assert [len(lines) for lines in found.values()] == [20, 20, 20]
    newest = (tmp_path / str(n) / "checkpoints" / "step-00000020.pt" for n in (1, 2))
    one, two = (torch.load(path, weights_only=True)["monitor"] for path in newest)
    assert one["images"] == two["images"] == 20 * 2 * 64  # two views of each
    assert torch.equal(one["last_win"], two["last_win"])
    for line in read(tmp_path / "2" / "timing.jsonl"):  # of both processes together
        assert line["images_per_second"] * line["seconds"] == pytest.approx(64)
    for other in (2, "changed"):
        for one, two in zip(found[1], found[other], strict=True):
            for key, value in one.items():
                if not key.endswith("_top1"):
                    assert two[key] == pytest.approx(value, rel=1e-6), (key, one["step"])
        for accuracy in ("knn_top1", "linear_top1"):
            assert found[other][-1][accuracy] == pytest.approx(found[1][-1][accuracy], abs=0.01)


def test_two_processes_agree_to_stop_to_refuse_and_to_go_on(tmp_path):
    """One group of processes: the runs in it begin where the ones before have left their folders."""
    script = tmp_path / "agree.py"
    script.write_text(
        textwrap.dedent(f"""
        import shutil, signal
        from pathlib import Path
        import torch, torch.distributed as dist
        from timm.layers import DropPath
        from vmflearn import distributed
        from vmflearn.distributed import ElsewhereError
        from vmflearn.train import CheckpointError, ConfigError, Interrupted, load_config, pretrain, knn_probe
        from vmflearn.train.checkpoints import checkpoint
        from vmflearn.train.runs.lock import FolderLock

        dist.init_process_group("gloo")
        rank, folder = dist.get_rank(), Path({str(tmp_path)!r})
        SETTINGS = {TINY!r}

        def train(name, *more):
            return pretrain(load_config(None, [*SETTINGS, *more]), folder / name, quiet=True)

        def refused(kind, words, name, *more):
            try:
                train(name, *more)
            except (kind if rank == 0 else ElsewhereError) as error:
                assert words in str(error), error
                assert rank == 0 or str(error).startswith(f"process 0 could not go on: {{kind.__name__}}: "), error
            else:
                raise AssertionError("not refused")
            dist.barrier()

        masks, forward = [], DropPath.forward
        def note(layer, x):
            out = forward(layer, torch.ones_like(x))
            if layer.training:  # not the pass that asks the backbone for its width
                masks.append((out[:, 0, 0] == 0).tolist())
            return x * out
        DropPath.forward = note
        whole = train("whole")
        DropPath.forward = forward
        assert any(map(any, masks))
        drawn = [mask for mask in distributed.gather_objects(masks)]
        assert len(drawn[0]) == len(drawn[1]) and all(a != b for a, b in zip(*drawn)), "the same paths on both"
        results = distributed.gather_objects(whole.metrics)
        assert results[0] == results[1] and "knn_top1" in results[0]

        words = "different settings: optimizer.lr is 0.0005 on process 0, 0.001 on process 1; start all with the same"
        refused(ConfigError, words, "none", *["optimizer.lr=1e-3"] * rank)
        refused(ConfigError, "seed is 0 on process 0, 1 on process 1; run.epochs is 3", "none", f"seed={{rank}}",
                f"run.epochs={{3 + rank}}")
        assert not (folder / "none").exists()

        # one of them is told to stop, within the third call of the second evaluation
        extract, calls = knn_probe.extract_features, 0
        def stop(*arguments, **settings):
            global calls
            calls += 1
            if rank == 1 and calls == 5 + 3:  # four for the training images, one for the test images
                signal.raise_signal(signal.SIGTERM)
            return extract(*arguments, **settings)
        knn_probe.extract_features = stop
        try:
            train("broken")
            raise AssertionError("not stopped")
        except Interrupted as stopped:
            assert stopped.signal == signal.SIGTERM
            assert str(stopped) == "stopped at step 6; the same command continues from there", stopped
        knn_probe.extract_features = extract
        dist.barrier()
        saved = checkpoint.load_newest(folder / "broken" / "checkpoints", print)
        assert saved["step"] == 6 and saved["pending"]["metrics"]["step"] == 6 and saved["recorded"] == 5
        # and the checkpoint is then found to lack a part
        del saved["monitor"]
        if rank == 0:
            checkpoint.save_checkpoint(folder / "broken" / "checkpoints", 6, saved)
        dist.barrier()
        train("broken")
        for name in ("metrics.jsonl", "config.yaml"):
            assert (folder / "broken" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
        assert (folder / "broken" / "checkpoints" / "step-00000006.damaged").exists()

        lock = FolderLock(folder / "whole", print) if rank == 0 else None
        dist.barrier()
        refused(CheckpointError, "is in use: a run goes on in it (another thread of this process, ", "whole")
        if rank == 0:
            lock.release()
            shutil.rmtree(folder / "whole" / "checkpoints")
        dist.barrier()
        refused(CheckpointError, "holds the records of a run, and no checkpoint", "whole")
        dist.destroy_process_group()
        """)
    )
    done = preloaded.together(2, [script])
    assert done.returncode == 0, done.stderr[-3000:]
