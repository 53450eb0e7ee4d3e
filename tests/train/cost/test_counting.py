"""Counts against real networks: their parameters, PyTorch's own counter over a real step, and what autograd keeps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from vmflearn.ssl import ProbabilityCentering
from vmflearn.ssl.fused_loss import prototype_loss
from vmflearn.train import build_model
from vmflearn.train.config import load_config
from vmflearn.train.cost.counting import count_cost, count_operations, count_tokens, crop_sizes
from vmflearn.train.methods import DINO

SMALL = [
    "model.backbone=vit_tiny_patch16_224",
    "views.global_size=32",
    "views.local_size=16",
    "optimizer.batch_size=6",
    "head.hidden_dim=48",
    "head.bottleneck_dim=16",
]
CASES = {
    "one local crop": [
        "model.options={img_size: 32, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",
        "views.n_local=1",
        "head.out_dim=64",
    ],
    "large head": [
        "model.options={img_size: 32, patch_size: 4, embed_dim: 48, depth: 1, num_heads: 3}",
        "views.n_local=3",
        "head.out_dim=9000",
        "head.n_layers=2",
        "head.batch_norm=true",
    ],
    "gated MLP and registers, bfloat16": [
        "model.options={img_size: 32, patch_size: 8, embed_dim: 32, depth: 3, num_heads: 2, reg_tokens: 4, "
        "qk_norm: true, init_values: 0.1}",
        "views.n_local=2",
        "head.out_dim=128",
        "run.precision=bfloat16",
    ],
    "no local crops, l2, float64": [
        "model.options={img_size: 32, patch_size: 16, embed_dim: 32, depth: 2, num_heads: 1, mlp_ratio: 3}",
        "views.n_local=0",
        "head.out_dim=40",
        "head.normalization=l2",
        "run.precision=float64",
    ],
    "ViT-S/16 at full size": [
        "model.backbone=vit_small_patch16_224",
        "model.position_interpolation=dino",
        "views.global_size=224",
        "views.local_size=96",
        "views.n_local=2",
        "head.out_dim=8192",
        "head.hidden_dim=2048",
        "head.bottleneck_dim=256",
        "optimizer.batch_size=2",
    ],
}


def real_step(config, batch):
    """Operations of forward and backward by PyTorch's counter, and bytes that autograd keeps of the network's own."""
    student, teacher = build_model(config), build_model(config).requires_grad_(False)
    dtype = next(student.parameters()).dtype
    crops = [torch.randn(batch, 3, size, size, dtype=dtype) for size in crop_sizes(config)]
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=config.run.precision == "bfloat16")
    # PyTorch's counter has no entries for the products that add in place, and in 2.11 none for the processor's
    # attention.
    missing = {
        torch.ops.aten.addmm_: lambda _, a, b, **more: 2 * a[0] * a[1] * b[1],
        torch.ops.aten.baddbmm_: lambda _, a, b, **more: 2 * a[0] * a[1] * a[2] * b[2],
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda q, k, v, *more, **options: sdpa_flop_count(q, k, v)
        ),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda gradient, q, k, v, *more, **options: sdpa_backward_flop_count(gradient, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        with mixed, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _, y = student.embed(crops)
        with torch.no_grad(), mixed:
            teacher_y = teacher.embed(crops[:2])[1]
        logits = teacher.prototypes(teacher_y, 0.04)
        targets = ProbabilityCentering(config.head.out_dim).to(logits.dtype).probabilities(logits, 0.04)
        prototype_loss(y, student.prototypes, 0.1, targets).backward()
    return student, counter.get_total_flops(), sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_a_real_step(case):
    config = load_config(None, [*SMALL, *CASES[case]])
    batch = config.optimizer.batch_size
    student, operations, kept = real_step(config, batch)
    cost = count_cost(config)
    assert cost.backbone + cost.head == sum(p.numel() for p in student.parameters())
    assert cost.trained == sum(p.numel() for p in student.parameters() if p.requires_grad)
    assert cost.operations.executed * batch == pytest.approx(operations, rel=1e-9)
    _, _, fewer = real_step(config, batch - 1)
    assert cost.memory.activations / batch == pytest.approx(kept - fewer, rel=0.02)


def test_tokens_are_those_that_the_backbone_makes():
    config = load_config(None, [*SMALL, *CASES["gated MLP and registers, bfloat16"]])
    student = build_model(config)
    made = [student.backbone.forward_features(torch.randn(1, 3, s, s)).shape[1] for s in crop_sizes(config)]
    cost = count_cost(config)
    assert (cost.student_tokens, cost.teacher_tokens) == (sum(made), sum(made[:2]))
    assert [count_tokens(student.backbone, s) for s in crop_sizes(config)] == made


def test_published_counts_of_vit_small_and_base():
    """Backbones alone, in billions an image: 12 crops through the student and back, two through the teacher."""
    for name, billions in (("small", 120), ("base", 469)):
        overrides = [f"model.backbone=vit_{name}_patch16_224", "views.n_local=10", "optimizer.batch_size=1"]
        cost = count_cost(load_config(None, overrides))
        parts = cost.operations
        backbones = parts.student_forward + parts.student_backward + parts.teacher
        assert backbones / 1e9 == pytest.approx(billions, rel=0.02)
        assert backbones + parts.head + parts.prototypes == parts.total
    assert cost.backbone == 85_798_656


def test_the_parts_of_memory():
    config = load_config(None, [*SMALL, *CASES["one local crop"], "optimizer.batch_size=8"])
    alone, divided = count_cost(config).memory, count_cost(config, processes=4).memory
    n = sum(p.numel() for p in build_model(config).parameters())
    assert alone.weights == divided.weights == 4 * 5 * n
    assert alone.activations == 4 * divided.activations > 0
    assert alone.crops == 4 * divided.crops == 8 * 4 * 3 * (32**2 * 2 + 16**2)
    assert alone.total == alone.weights + alone.activations + alone.last_layer + alone.crops


def test_parts_divide_the_activations_and_leave_the_rest():
    overrides = [*SMALL, *CASES["one local crop"], "optimizer.batch_size=8"]
    whole, parts = (count_cost(load_config(None, [*overrides, f"optimizer.accumulation={n}"])).memory for n in (1, 4))
    assert whole.activations == 4 * parts.activations > 0
    assert (whole.weights, whole.crops) == (parts.weights, parts.crops)
    assert parts.last_layer < whole.last_layer


def test_another_network_is_counted_by_pytorch_and_left_as_it_was():
    overrides = ["model.backbone=resnet18", "views.global_size=64", "views.local_size=32", "views.n_local=1"]
    config = load_config(None, [*overrides, "head.out_dim=64", "head.hidden_dim=32", "head.bottleneck_dim=16"])
    student, executed, _ = real_step(config, 2)
    state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    random = torch.get_rng_state()
    counted = count_operations(student, DINO.work(config, student))
    assert 2 * counted.executed == pytest.approx(executed, rel=0.05)
    assert torch.equal(torch.get_rng_state(), random)
    assert student.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in student.state_dict().items())
    cost = count_cost(config)
    assert cost.student_tokens is None
    assert cost.operations == counted
