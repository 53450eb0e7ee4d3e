#!/usr/bin/env bash
# numpy 2.4.6 and torch 2.15.0: a NumPy predicate (np.isnan, np.isfinite, np.less, ...) of a torch tensor is no boolean
# but a tensor of uint8 zeros and ones, so that ~ turns 0 and 1 into 255 and 254, which both count as true. torch's own
# predicates are boolean.
#
# A good engineer would take `~np.isnan(x)` for the mask that it is of an array: NumPy's functions take tensors without a
# word otherwise (a DeprecationWarning speaks of __array_wrap__, not of this). But then `(~np.isfinite(x)).any()` is true
# of finite numbers, `(~np.isnan(x)).sum()` counts hundreds, and np.where(~np.isnan(x), x, 0) keeps every NaN. Whoever
# accepts tensors and arrays should make one of them first: np.asarray(x), or torch.as_tensor(x).
#
# Seen: dtype torch.uint8; ~ of it gives [255, 254, 255]; any() true of three finite numbers; a count of 764 for two; the
# NaN is left in place. With np.asarray(x) in place of x: bool, false, 2, and no NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$folder/env/bin/python" -W ignore::DeprecationWarning - <<'PYTHON'
import numpy as np
import torch

print("numpy", np.__version__, "torch", torch.__version__)
x = torch.tensor([1.0, float("nan"), 2.0])
finite = torch.tensor([1.0, 2.0, 3.0])


def questions(x, finite):
    """What is asked with a mask: its type, its inverse, any, a count, and a choice."""
    known = ~np.isnan(x)
    chosen = np.where(known, x, 0)
    return [
        str(np.isnan(x).dtype),
        np.asarray(known).tolist(),
        bool((~np.isfinite(finite)).any()),
        int(known.sum()),
        int(np.isnan(chosen).sum()),
    ]


of_tensor, of_array = questions(x, finite), questions(np.asarray(x), np.asarray(finite))
names = ("type of np.isnan", "its inverse", "any not finite in 1, 2, 3", "numbers that are known", "NaN left")
for name, one, other in zip(names, of_tensor, of_array, strict=True):
    print(f"{name:28s} tensor: {one!s:24s} array: {other}")
assert of_tensor == ["torch.uint8", [255, 254, 255], True, 764, 1], of_tensor
assert of_array == ["bool", [True, False, True], False, 2, 0], of_array
for predicate in (np.isfinite, np.isinf, np.signbit, lambda x: np.less(x, 1.5), lambda x: x > 1.5):
    print(predicate(x).dtype, end=" ")
assert (x > 1.5).dtype == torch.isnan(x).dtype == torch.bool
assert np.less(x, 1.5).dtype == torch.uint8
print("\nNumPy's are uint8, torch's own are boolean")
PYTHON
