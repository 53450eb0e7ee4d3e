import copy

import pytest
import torch
from torch import nn

from vmflearn.ssl.heads import DINOHead
from vmflearn.train.optimizer import (
    clip_each,
    drop_gradients,
    make_optimizer,
    parameter_groups,
    set_schedule,
    update_teacher,
)


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = DINOHead(8, 12, "vmf", hidden_dim=16, bottleneck_dim=4, batch_norm=True)  # whose gains are weights of ndim 1
    for norm in (module for module in made.modules() if isinstance(module, nn.BatchNorm1d)):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    return made


def test_groups_follow_dinos_rule(head):
    decayed, plain = parameter_groups(head)
    names = {id(parameter): name for name, parameter in head.named_parameters()}
    assert all(names[id(p)].endswith(".bias") or p.ndim == 1 for p in plain["params"])
    inside = {names[id(p)] for p in decayed["params"]}
    assert {"prototypes.weight_v", "prototypes.weight_g"} <= inside
    assert inside == {name for name, p in head.named_parameters() if p.ndim == 2}
    assert any(p.ndim == 1 and not names[id(p)].endswith(".bias") for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert plain["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    head = DINOHead(8, 12, "l2", hidden_dim=16, bottleneck_dim=4)
    found = {id(p) for group in parameter_groups(head) for p in group["params"]}
    assert id(head.prototypes.weight_g) not in found


def test_one_step_equals_adamw_longhand(head):
    optimizer = make_optimizer(head)
    set_schedule(optimizer, lr=0.01, weight_decay=0.3)
    before = copy.deepcopy(head.state_dict())
    for parameter in head.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, parameter in head.named_parameters():
        decay = 0.3 if parameter.ndim == 2 else 0.0
        # The first step of Adam moves every entry by lr in the direction of its gradient's sign.
        expected = before[name] * (1 - 0.01 * decay) - 0.01 * parameter.grad.sign()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_each_tensor_is_clipped_on_its_own(head):
    scales = (1e-3, 1e3, 0.0, 10.0, 1.0, 5.0, 7.0, 9.0, 2.0, 30.0, 0.1, 4.0)
    for scale, parameter in zip(scales, head.parameters(), strict=True):
        parameter.grad = torch.full_like(parameter, scale)
    before = [p.grad.clone() for p in head.parameters()]
    clip_each(head.parameters(), 2.0)
    for parameter, old in zip(head.parameters(), before, strict=True):
        norm = old.norm()
        torch.testing.assert_close(parameter.grad, old * min(1.0, 2.0 / (float(norm) + 1e-6)))
    clip_each(head.parameters(), 0.0)  # off
    assert max(float(p.grad.norm()) for p in head.parameters()) > 1.9


def test_clipping_all_tensors_together_changes_no_bit(head):
    torch.manual_seed(1)
    for i, parameter in enumerate(head.parameters()):
        parameter.grad = torch.randn_like(parameter) * 10.0 ** (i - 4) if i != 2 else None
    expected = []
    for parameter in head.parameters():
        if parameter.grad is not None:
            scale = (0.3 / (parameter.grad.norm() + 1e-6)).clamp(max=1.0)
            expected.append(parameter.grad * scale)
    clip_each(head.parameters(), 0.3)
    found = [p.grad for p in head.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    clip_each([nn.Parameter(torch.ones(1))], 0.3)  # nothing to clip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_fused_step_on_the_gpu_is_that_of_the_cpu(head):
    device = copy.deepcopy(head).cuda()
    networks = [(head, make_optimizer(head)), (device, make_optimizer(device))]
    assert [optimizer.defaults["fused"] for _, optimizer in networks] == [None, True]
    for _ in range(5):
        gradients = [torch.randn_like(p) for p in head.parameters()]
        for network, optimizer in networks:
            set_schedule(optimizer, lr=0.01, weight_decay=0.3)
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient.to(parameter.device)
            optimizer.step()
    for ours, reference in zip(device.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), reference, rtol=1e-5, atol=1e-6)


def test_dropped_gradients_leave_the_prototypes_alone(head):
    optimizer = make_optimizer(head)
    set_schedule(optimizer, lr=0.01, weight_decay=0.3)
    for parameter in head.parameters():
        parameter.grad = torch.ones_like(parameter)
    drop_gradients(head.prototypes)
    before = copy.deepcopy(head.state_dict())
    optimizer.step()
    assert torch.equal(head.prototypes.weight_v, before["prototypes.weight_v"])
    assert torch.equal(head.prototypes.weight_g, before["prototypes.weight_g"])
    assert not torch.equal(head.mlp[0].weight, before["mlp.0.weight"])


def test_teacher_is_an_average_of_parameters_alone():
    student, teacher = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(student.weight, 5.0)
    student.running_mean.fill_(9.0)
    update_teacher(teacher, student, 0.9)
    torch.testing.assert_close(teacher.weight.detach(), torch.full((3,), 0.9 * 1 + 0.1 * 5))
    assert torch.equal(teacher.running_mean, torch.zeros(3))


def test_networks_of_different_shapes_are_named_and_left_alone():
    teacher = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = copy.deepcopy(teacher.state_dict())
    with pytest.raises(
        ValueError, match=r"same parameters: 1.weight is \(2, 3\) in the teacher, \(5, 3\) in the student"
    ):
        update_teacher(teacher, nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)), 0.5)
    with pytest.raises(ValueError, match=r"1.weight is \(2, 3\) in the teacher, missing in the student"):
        update_teacher(teacher, nn.Sequential(nn.Linear(4, 3)), 0.5)
    assert all(torch.equal(before[name], now) for name, now in teacher.state_dict().items())


def test_fused_updates_are_the_same_up_to_rounding():
    ends = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)).double()
        optimizer = make_optimizer(model, fused=fused)
        assert bool(optimizer.defaults["fused"]) == fused
        for step in range(5):
            set_schedule(optimizer, 0.01 * (step + 1), 0.1)
            optimizer.zero_grad()
            model(torch.randn(4, 7, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-12, atol=1e-14)
