#!/usr/bin/env bash
# torch 2.15.0 on a CPU: torch.special.polygamma(1, x), the trigamma function, has nine to ten right digits in float64
# where its neighbours, digamma and polygamma(2, x), have sixteen. So has the gradient of digamma, which is computed by
# it: second derivatives of the densities and entropies of Beta and Dirichlet distributions are right to 5e-10 only.
#
# Nothing says so, and a check against finite differences, whose own error is larger, does not see it. Half the digits of
# float64 look like a float32 computation somewhere; it is a short asymptotic series, begun at too small an argument.
# scipy.special.polygamma(1, x) is right to rounding.
#
# Seen, the largest relative errors over x from 0.3 to 100, against mpmath with 40 digits:
#   trigamma: torch 5e-10, scipy 3e-16; digamma: torch 9e-15; polygamma(2): torch 4e-16
#   gradient of digamma, which is trigamma: 5e-10; second derivative of the logarithm of Beta(1, 1)'s normaliser: 6e-10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 scipy==1.17.1 mpmath==1.3.0
CUDA_VISIBLE_DEVICES= "$folder/env/bin/python" - <<'PYTHON'
import mpmath
import torch
from scipy import special

mpmath.mp.dps = 40
points = [0.3, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 7.0, 20.0, 100.0]
x = torch.tensor(points, dtype=torch.float64, requires_grad=True)


def worst(values, order):
    """Largest relative error against psi of this order."""
    exact = [mpmath.psi(order, mpmath.mpf(p)) for p in points]
    return max(float(abs((mpmath.mpf(float(v)) - e) / e)) for v, e in zip(values, exact))


(slope,) = torch.autograd.grad(torch.digamma(x).sum(), x)
trigamma = worst(torch.special.polygamma(1, x).detach(), 1)
scipys = worst(special.polygamma(1, points), 1)
digamma, tetragamma = worst(torch.digamma(x).detach(), 0), worst(torch.special.polygamma(2, x).detach(), 2)
one = torch.ones((), dtype=torch.float64, requires_grad=True)
(first,) = torch.autograd.grad(torch.lgamma(one) - torch.lgamma(one + 1), one, create_graph=True)
(second,) = torch.autograd.grad(first, one)  # psi_1(1) - psi_1(2) = 1 exactly
print(f"trigamma: torch {trigamma:.0e}, scipy {scipys:.0e}; digamma: torch {digamma:.0e}; polygamma(2): torch {tetragamma:.0e}")
print(
    f"gradient of digamma, which is trigamma: {worst(slope, 1):.0e}; second derivative of the logarithm of Beta(1, 1)'s "
    f"normaliser: {abs(float(second) - 1):.0e}"
)
assert trigamma > 1e-10 and worst(slope, 1) > 1e-10
assert scipys < 1e-15 and digamma < 1e-13 and tetragamma < 1e-15
PYTHON
