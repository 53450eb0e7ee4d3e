#!/usr/bin/env bash
# torch 2.15.0 with timm 1.0.31: torch.nn.SyncBatchNorm.convert_sync_batchnorm takes the activations out of timm's
# convolutional networks. No warning says so, and the result takes the same weights.
#
# timm puts the activation that follows a batch norm into the norm (BatchNormAct2d, a subclass of BatchNorm2d). The
# conversion that every multi-GPU recipe calls replaces each subclass of BatchNorm2d by a plain SyncBatchNorm: the 49
# norms of an EfficientNet-B0 lose 33 activations, and the network is nearly linear. timm has a conversion of its own,
# timm.layers.convert_sync_batchnorm, which keeps them.
#
# Seen:
#   activations inside norms: 33 of 49 before, 0 of 49 after torch's conversion, 33 of 49 after timm's
#   features with the same weights differ by 17.8 after torch's conversion, by 0.0 after timm's
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
    """How many norms have an activation, of how many norms."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return sum(not isinstance(getattr(norm, "act", nn.Identity()), nn.Identity) for norm in norms), len(norms)


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
(a, n), (b, m), (c, k) = map(activations, (network, by_torch, by_timm))
print(f"activations inside norms: {a} of {n} before, {b} of {m} after torch's conversion, {c} of {k} after timm's")
print("features with the same weights differ by {:.1f} after torch's conversion, by {:.1f} after timm's".format(*difference))
assert a == c > 30 and b == 0
assert difference[0] > 1 and difference[1] == 0
PYTHON
