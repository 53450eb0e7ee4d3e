#!/usr/bin/env bash
# torch 2.15.0 with timm 1.0.31: torch.nn.SyncBatchNorm.convert_sync_batchnorm takes the activations out of timm's
# convolutional networks. No warning says so, and the result takes the same weights.
#
# timm puts the activation that follows a batch norm into the norm (BatchNormAct2d, a subclass of BatchNorm2d). The
# conversion that every multi-GPU recipe calls replaces each subclass of BatchNorm2d by a plain SyncBatchNorm. It keeps
# the activation as a child, so that the network prints it and counts it as before, and never calls it. timm has a
# conversion of its own, timm.layers.convert_sync_batchnorm, which calls it.
#
# Seen, for an EfficientNet-B0:
#   activations inside norms: 33, of which a forward pass calls 33; after torch's conversion 33 and 0; after timm's 33 and 33
#   features with the same weights differ by 20.5 after torch's conversion, by 0.0 after timm's
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 timm==1.0.31
CUDA_VISIBLE_DEVICES= "$folder/env/bin/python" - <<'PYTHON'
import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn


def activations(network):
    """How many norms hold an activation, and how many of these a forward pass calls."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    held = [norm.act for norm in norms if not isinstance(getattr(norm, "act", nn.Identity()), nn.Identity)]
    called = []
    for act in held:
        act.register_forward_hook(lambda layer, *_: called.append(layer))
    network(images)
    return len(held), len(called)


def make():
    return timm.create_model("efficientnet_b0", num_classes=0)


torch.manual_seed(0)
network, images = make().eval(), torch.randn(1, 3, 64, 64)
by_torch, by_timm = nn.SyncBatchNorm.convert_sync_batchnorm(make()).eval(), convert_sync_batchnorm(make()).eval()
difference = []
with torch.no_grad():
    for converted in (by_torch, by_timm):
        converted.load_state_dict(network.state_dict())  # strict: every name and shape fits
        difference.append(float((converted(images) - network(images)).abs().max()))
before, torchs, timms = map(activations, (network, by_torch, by_timm))
print(
    f"activations inside norms: {before[0]}, of which a forward pass calls {before[1]}; after torch's conversion "
    f"{torchs[0]} and {torchs[1]}; after timm's {timms[0]} and {timms[1]}"
)
print("features with the same weights differ by {:.1f} after torch's conversion, by {:.1f} after timm's".format(*difference))
assert before == timms == (33, 33) and torchs == (33, 0)
assert difference[0] > 1 and difference[1] == 0
PYTHON
