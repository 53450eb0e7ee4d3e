import pytest
import torch

from vmflearn.ssl.heads import DINOHead


def test_head_equals_its_formula():
    torch.manual_seed(0)
    head = DINOHead(6, 9, "none", hidden_dim=7, bottleneck_dim=4).double()
    for parameter in head.mlp.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 6, dtype=torch.float64)

    def gelu(z):  # exact, not the tanh approximation
        return 0.5 * z * (1 + torch.erf(z / 2**0.5))

    first, second, third = head.mlp[0], head.mlp[2], head.mlp[4]
    hidden = gelu(gelu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    z = hidden @ third.weight.T + third.bias
    y = z / z.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(head.bottleneck(x), y)
    v = head.prototypes.weight_v
    torch.testing.assert_close(head(x, 0.1), y @ (v / v.norm(dim=-1, keepdim=True)).T / 0.1)


@pytest.mark.parametrize(
    ("n_layers", "batch_norm", "linear", "norm"),
    [(1, False, [0], []), (2, False, [0, 2], []), (3, False, [0, 2, 4], []), (3, True, [0, 3, 6], [1, 4])],
)
def test_state_dict_names_and_shapes(n_layers, batch_norm, linear, norm):
    head = DINOHead(6, 9, hidden_dim=7, bottleneck_dim=4, n_layers=n_layers, batch_norm=batch_norm)
    widths = [6] + [7] * (n_layers - 1) + [4]
    expected = {"prototypes.weight_v": (9, 4), "prototypes.weight_g": (9, 1)}
    for i, layer in enumerate(linear):
        expected |= {f"mlp.{layer}.weight": (widths[i + 1], widths[i]), f"mlp.{layer}.bias": (widths[i + 1],)}
    for layer in norm:
        expected |= {f"mlp.{layer}.{name}": (7,) for name in ("weight", "bias", "running_mean", "running_var")}
        expected |= {f"mlp.{layer}.num_batches_tracked": ()}
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == expected


def test_parameter_counts_are_those_of_dino():
    with torch.device("meta"):
        counts = {
            (in_dim, out_dim): sum(p.numel() for p in DINOHead(in_dim, out_dim).parameters())
            for in_dim in (384, 768)
            for out_dim in (65_536, 8_192)
        }
    assert counts == {
        (384, 65_536): 22_352_128,
        (768, 65_536): 23_138_560,
        (384, 8_192): 7_614_720,
        (768, 8_192): 8_401_152,
    }


def test_initialisation():
    torch.manual_seed(0)
    head = DINOHead(64, 512, hidden_dim=256, bottleneck_dim=16)
    for layer in (head.mlp[0], head.mlp[2], head.mlp[4]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    v = head.prototypes.weight_v  # left as it was created: uniform in +-1/4
    assert v.abs().max().item() == pytest.approx(0.25, rel=1e-2)
    assert v.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_leading_dimensions_are_rows(batch_norm):
    torch.manual_seed(0)
    head = DINOHead(6, 9, hidden_dim=7, bottleneck_dim=4, batch_norm=batch_norm).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    logits = head(x, 0.1)
    assert logits.shape == (2, 5, 9)
    torch.testing.assert_close(logits, head(x.reshape(10, 6), 0.1).reshape(2, 5, 9))


@pytest.mark.parametrize("normalization", ["none", "l2", "vmf"])
def test_autocast_gives_unit_vectors_and_logits_in_float32(normalization):
    torch.manual_seed(0)
    head = DINOHead(32, 9, normalization, hidden_dim=64, bottleneck_dim=16)
    x = torch.randn(5, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.mlp(x).dtype == torch.bfloat16
        y, logits = head.bottleneck(x), head(x, 0.1)
    assert y.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(5))
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters() if p.requires_grad)


def test_frozen_magnitudes():
    assert not DINOHead(6, 9, hidden_dim=7, learn_magnitudes=False).prototypes.weight_g.requires_grad
    assert DINOHead(6, 9, hidden_dim=7).prototypes.weight_g.requires_grad


@pytest.mark.parametrize("name", ["in_dim", "out_dim", "hidden_dim", "bottleneck_dim", "n_layers"])
def test_sizes_below_one_are_named(name):
    sizes = {"in_dim": 6, "out_dim": 9, name: 0}
    with pytest.raises(ValueError, match=f"{name}.* must be at least .*got 0"):
        DINOHead(**sizes)


def test_wrong_width_of_the_features_is_named():
    head = DINOHead(6, 9, hidden_dim=7, bottleneck_dim=4)
    for shape in ((3, 5), ()):
        with pytest.raises(ValueError, match=r"features must have shape \(\.\.\., 6\), got"):
            head(torch.zeros(shape), 0.1)
