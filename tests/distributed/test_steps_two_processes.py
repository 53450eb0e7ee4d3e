"""Two processes with half the batch each, and parts of a batch in turn, train as one process with all of it.

All six cells of the paper's Table 1, Sinkhorn, iBOT-vMF and MSN, over 20 steps of the real trainer in float64: losses,
centres, the parameters of student and teacher, and AdamW's moments.
"""

import json
import textwrap
from pathlib import Path

import pytest
import torch

from vmflearn.train import load_config, pretrain
from vmflearn.weights.digest import digest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
STEPS = 20
CELLS = [(n, c) for n in ("none", "l2", "vmf") for c in ("logit", "probability")] + [("vmf", "sinkhorn")]
CELLS += [("vmf", "probability", "ibot"), ("l2", "sinkhorn", "msn")]
PATCHES = "{img_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}"
TINY = [
    "model.backbone=vit_tiny_patch16_224",
    "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
    "model.drop_path=0",  # drawn by process: it cannot agree
    "views.global_size=16",
    "views.local_size=8",
    "views.n_local=2",
    "head.out_dim=24",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "head.koleo=0.1",
    "optimizer.batch_size=16",
    "optimizer.warmup_epochs=0",
    "optimizer.lr=0.01",
    "optimizer.clip_grad=0.5",
    "optimizer.freeze_last_layer_epochs=0",
    "run.epochs=3",
    f"run.max_steps={STEPS}",
    "run.log_every=1",
    "run.precision=float64",
    "run.device=cpu",
]


def overrides(cell, parts):
    normalization, centering, method = (*cell, "dino")[:3]
    more = {
        "dino": [],
        "ibot": ["method.shared_head=false", "method.patch_out_dim=20", "method.patch_temp_warmup_epochs=1"],
        "msn": ["method.dropped=0.3", "head.koleo=0"],
    }[method]
    if method != "dino":  # masks need patches
        more += [f"method.name={method}", f"model.options={PATCHES}"]
    return [
        *TINY,
        *more,
        f"head.normalization={normalization}",
        f"teacher.centering={centering}",
        f"optimizer.accumulation={1 if method == 'msn' else parts}",  # its mean entropy needs the batch
    ]


def train(folder, cell, parts=1):
    pretrain(load_config(None, overrides(cell, parts)), folder, quiet=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of every cell: one process, one with parts of the batch, two processes, two with parts."""
    folder = tmp_path_factory.mktemp("steps")
    script = folder / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, torch
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from {Path(__file__).stem} import CELLS, train
        torch.distributed.init_process_group("gloo")
        for i, cell in enumerate(CELLS):
            train(Path({str(folder)!r}) / f"two-{{i}}", cell)
            train(Path({str(folder)!r}) / f"two-in-parts-{{i}}", cell, parts=4)
        torch.distributed.destroy_process_group()
        """)
    )
    import preloaded  # the processes import this file too, where there is none

    done = preloaded.together(2, [script])
    assert done.returncode == 0, done.stderr[-3000:]
    for i, cell in enumerate(CELLS):
        train(folder / f"one-{i}", cell)
        train(folder / f"one-in-parts-{i}", cell, parts=8)
    return folder


def read(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, torch.load(folder / "checkpoints" / f"step-{STEPS:08}.pt", weights_only=True)


@pytest.mark.parametrize("way", ["one-in-parts", "two", "two-in-parts"])
@pytest.mark.parametrize("cell", range(len(CELLS)), ids=["-".join(cell) for cell in CELLS])
def test_all_ways_train_alike(runs, cell, way):
    one, state = read(runs / f"one-{cell}")
    other, its = read(runs / f"{way}-{cell}")
    assert len(one) == len(other) == STEPS
    assert len({line["loss"] for line in one}) == STEPS
    names = {"loss", "koleo", "patch_loss", "mean_entropy", "teacher_entropy", "gradient_norm", "update_norm"}
    for name in names & one[0].keys():
        found, wanted = ([line[name] for line in lines] for lines in (other, one))
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9), name
    for part in {"student", "teacher", "centering", "patch_centering"} & state.keys():
        for name, value in state[part].items():
            torch.testing.assert_close(its[part][name], value, rtol=1e-6, atol=1e-6, msg=f"{part}.{name}")
    for i, moments in state["optimizer"]["state"].items():
        for name, value in moments.items():
            torch.testing.assert_close(its["optimizer"]["state"][i][name], value, rtol=1e-6, atol=1e-6)


def test_the_parameters_did_move_and_the_cells_are_different(runs):
    ends = [read(runs / f"one-{i}")[1] for i in range(len(CELLS))]
    assert len({digest(end["student"]) for end in ends}) == len(CELLS)
    for end in ends:
        assert float((end["student"]["head.mlp.0.weight"] - end["teacher"]["head.mlp.0.weight"]).abs().max()) > 1e-4
