"""Fine-tuning by two processes takes the steps of one."""

import textwrap

import preloaded
import pytest
import torch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = textwrap.dedent("""
    import sys
    from dataclasses import replace

    import torch

    from vmflearn import distributed
    from vmflearn.backbones.creation import create_backbone
    from vmflearn.evaluate.finetune import FineTuning
    from vmflearn.evaluate.recipes import RECIPES

    def train():
        torch.manual_seed(0)
        options = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        backbone = create_backbone("vit_tiny_patch16_224", **options)
        changes = {"mixup": 0.0, "cutmix": 0.0, "drop_path": 0.0, "epochs": 4, "warmup_epochs": 1, "lr": 0.01}
        tuning = FineTuning(backbone, 3, replace(RECIPES["beit-base"], **changes), steps_per_epoch=2)
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        classes = torch.arange(8) % 3
        mine = slice(distributed.rank(), None, distributed.world_size())
        for step in range(4):
            tuning.step(step, [(images[mine], classes[mine])], 1)
        return {name: p.detach() for name, p in backbone.named_parameters()}

    alone = train()
    torch.distributed.init_process_group("gloo")
    torch.save((alone, train()), f"{sys.argv[1]}/{distributed.rank()}.pt")
    torch.distributed.destroy_process_group()
""")


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = preloaded.together(2, [script, tmp_path])
    assert done.returncode == 0, done.stderr[-3000:]
    (alone, first), (_, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, parameter in first.items():
        assert (parameter == second[name]).all(), name
        if not name.endswith("qkv.bias"):  # a third of its gradient is zero in truth, and AdamW scales rounding up
            torch.testing.assert_close(parameter, alone[name], atol=1e-4, rtol=1e-3, msg=name)
    assert first["head.weight"].abs().max() > 0.01  # which was drawn with a deviation of 2e-5
