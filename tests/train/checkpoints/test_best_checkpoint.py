"""best.pt is the checkpoint of the highest accuracy so far, in this part of a run or an earlier one."""

import torch

from vmflearn.train import trainer
from vmflearn.train.config import load_config
from vmflearn.train.state import State

ACCURACIES = [0.5, 0.7, 0.6, 0.65]


def test_the_best_stays_whatever_comes_after_it(tmp_path, monkeypatch):
    settings = [
        "views.global_size=16",
        "views.local_size=8",
        "views.n_local=1",
        "model.backbone=vit_tiny_patch16_224",
        "model.options={img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
        "head.out_dim=16",
        "head.hidden_dim=16",
        "head.bottleneck_dim=8",
        "optimizer.batch_size=900",
        "optimizer.warmup_epochs=0",
        f"run.epochs={len(ACCURACIES)}",
        "run.knn_every=1",
        "run.device=cpu",
    ]
    monkeypatch.setattr(State, "evaluate", lambda state, *rest: {"knn_top1": ACCURACIES[state.step // 2 - 1]})
    for last in (4, 8):
        trainer.pretrain(load_config(None, [*settings, f"run.max_steps={last}"]), tmp_path, quiet=True)
        assert torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)["step"] == 4
