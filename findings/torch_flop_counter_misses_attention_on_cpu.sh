#!/usr/bin/env bash
# torch 2.11.0: torch.utils.flop_counter counts no operation of scaled_dot_product_attention on a CPU, where torch
# 2.15.0 counts it. No warning says so.
#
# On a CPU the function runs as aten::_scaled_dot_product_flash_attention_for_cpu, for which 2.11.0 has no formula;
# operations without one count as nothing. The cost of a Vision Transformer counted on a machine without a GPU is
# then too small, the more so the more tokens it has, and equal models compare differently on CPU and GPU. With
# 16 queries and keys of 8 dimensions in 2 heads, the two matrix products are 2 x 2 x 2 x 16 x 16 x 8 = 16,384
# operations.
#
# Seen:
#   torch 2.11.0: 0 operations of attention
#   torch 2.15.0: 16384 operations of attention
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 2.11.0 2.15.0; do
  python3 -m venv --clear "$folder/env"
  "$folder/env/bin/pip" install --quiet "torch==$version"
  CUDA_VISIBLE_DEVICES= "$folder/env/bin/python" -W ignore - "$version" <<'PYTHON'
import sys

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

q = torch.randn(1, 2, 16, 8)
with FlopCounterMode(display=False) as counter:
    scaled_dot_product_attention(q, q, q)
print(f"torch {sys.argv[1]}: {counter.get_total_flops()} operations of attention")
assert counter.get_total_flops() == {"2.11.0": 0, "2.15.0": 16384}[sys.argv[1]]
PYTHON
done
