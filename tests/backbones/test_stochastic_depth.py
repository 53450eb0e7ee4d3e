"""Subsets against timm's DropPath: the same expectation, nothing changed at rate 0, and work that is really saved."""

import copy

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vmflearn.backbones.creation import create_backbone
from vmflearn.backbones.stochastic_depth import SubsetBlock, add_to_subset

SMALL = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 2}


def pair(rate, **options):
    """The same network with timm's stochastic depth and with subsets."""
    torch.manual_seed(0)
    timms = create_backbone("vit_tiny_patch16_224", drop_path_rate=rate, **SMALL, **options)
    ours = copy.deepcopy(timms)
    SubsetBlock.adopt(ours)
    return timms, ours


@pytest.mark.parametrize(("n", "rate"), [(20, 0.1), (20, 0.5), (7, 0.1), (5, 0.3), (3, 0.95)])
def test_the_expectation_and_the_number_kept(n, rate):
    """Over many draws the mean is x + branch(x), within five standard errors; each draw keeps exactly its share."""
    torch.manual_seed(1)
    draws = 2000
    x, target = torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    branch = {float(a): b for a, b in zip(x, target, strict=True)}
    sums = torch.zeros(n, dtype=torch.float64)
    kept = max(1, round((1 - rate) * n))  # not always (1 - rate) n: the scale is that of the number
    for _ in range(draws):
        y = add_to_subset(x, lambda part: torch.stack([branch[float(a)] for a in part]), rate) - x
        assert int((y != 0).sum()) == kept
        sums += y
    error = target.abs() * ((n / kept - 1) / draws) ** 0.5
    assert ((sums / draws - target).abs() <= 5 * error + 1e-12).all()


def test_first_two_moments_are_those_of_timm():
    """A sample keeps its branch with probability 1 - p, and then gets it divided by that."""
    torch.manual_seed(2)
    n, rate, draws = 40, 0.25, 3000
    ones, drop = torch.ones(n, 1), DropPath(rate).train()
    ours = torch.stack([add_to_subset(torch.zeros(n, 1), torch.ones_like, rate) for _ in range(draws)])
    timms = torch.stack([drop(ones) for _ in range(draws)])
    for moment in (1, 2):
        a, b = (of.pow(moment).mean() for of in (ours, timms))
        torch.testing.assert_close(a, b, rtol=0.02, atol=0)
    torch.testing.assert_close(ours.unique(), torch.tensor([0.0, 4 / 3]))
    torch.testing.assert_close(timms.unique(), torch.tensor([0.0, 4 / 3]))


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1, "qk_norm": True}])
def test_at_rate_0_and_in_evaluation_nothing_changes(options):
    timms, ours = pair(0.0, **options)
    images = torch.randn(5, 3, 32, 32)
    state = torch.get_rng_state()
    assert torch.equal(ours.train()(images), timms.train()(images))
    assert torch.equal(torch.get_rng_state(), state)
    timms, ours = pair(0.5, **options)
    assert torch.equal(ours.eval()(images), timms.eval()(images))
    assert list(ours.state_dict()) == list(timms.state_dict())


def test_gradients_are_those_of_the_rows_that_were_kept():
    torch.manual_seed(3)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    layer = nn.Linear(4, 4).double()
    torch.manual_seed(4)
    y = add_to_subset(x, layer, 0.5)
    y.square().sum().backward()
    torch.manual_seed(4)
    chosen = torch.randperm(6)[:3]
    reference = x.detach().clone().requires_grad_()
    mask = torch.zeros(6, 1, dtype=torch.float64)
    mask[chosen] = 2.0
    expected = reference + mask * layer(reference)
    expected.square().sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(x.grad, reference.grad)


def test_the_dropped_share_is_not_computed():
    timms, ours = pair(0.5)
    images = torch.randn(20, 3, 32, 32)
    counts = []
    for network in (timms, ours):
        with FlopCounterMode(display=False) as counter:
            network.train()(images)
        counts.append(counter.get_total_flops())
    # rates 0, 1/4 and 1/2 of three blocks: a quarter of what the blocks do; the patches stay
    patches = 20 * 16 * 2 * 3 * 64 * 32
    assert (counts[1] - patches) / (counts[0] - patches) == pytest.approx(0.75, rel=1e-3)


def test_under_autocast_the_residual_stream_keeps_its_type():
    _, ours = pair(0.5)
    with torch.autocast("cpu", torch.bfloat16):
        ours.train()(torch.randn(8, 3, 32, 32)).float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("resnet18", "ResNet"), ("eva02_tiny_patch14_224", "Eva"), ("vit_base_patch16_18x2_224", "VisionTransformer")],
)
def test_another_network_is_refused(name, kind):
    with torch.device("meta"):
        network = create_backbone(name)
    with pytest.raises(ValueError, match=rf"plain blocks; this {kind} is not such a one: use 'sample'"):
        SubsetBlock.adopt(network)
