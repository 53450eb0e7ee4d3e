#!/usr/bin/env bash
# torch 2.15.0: inside a transform of torch.func (grad, jvp, vmap, hessian) torch.distributions.Beta and Dirichlet cannot
# be drawn from at all, neither by rsample() nor by sample(), which has no gradient, and even where the parameters are
# constants that the transform knows nothing of. Gamma, of which both are quotients, can: rsample() under grad gives the
# implicit gradient. Outside of transforms all three have the same gradients by autograd.
#
# A good engineer would take the three for alike ("reparametrised": has_rsample is True for each), and a draw without
# gradient for harmless. Their draws go through an autograd.Function of the old style, which torch.func refuses. A Beta
# draw under a transform can be made of two Gamma draws, a / (a + b), whose gradient is the same in distribution.
#
# Seen: RuntimeError, "In order to use an autograd.Function with functorch transforms (vmap, grad, jvp, ...), it must
# override the setup_context staticmethod", for Beta and Dirichlet in all of the cases below; none for Gamma; and the
# mean gradient of a / (a + b) within 0.004 of that of the Beta's mean.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$folder/env/bin/python" - <<'PYTHON'
import torch
from torch.distributions import Beta, Dirichlet, Gamma
from torch.func import grad, jvp, vmap

torch.manual_seed(0)
constant = torch.tensor([2.0, 3.0])
make = {
    "Gamma": lambda p: Gamma(p, 1 + p),
    "Beta": lambda p: Beta(p, 1 + p),
    "Dirichlet": lambda p: Dirichlet(torch.stack([p, 1 + p], dim=-1)),
}
cases = {
    "grad of rsample": lambda dist: grad(lambda p: dist(p).rsample().sum())(constant),
    "sample of constants under grad": lambda dist: grad(lambda p: (p * dist(constant).sample().sum()).sum())(constant),
    "sample of constants under jvp": lambda dist: jvp(
        lambda p: p * dist(constant).sample().sum(), (constant,), (torch.ones(2),)
    ),
    "sample under vmap": lambda dist: vmap(lambda p: dist(p).sample(), randomness="different")(constant),
}
seen = {}
for name, dist in make.items():
    x = constant.clone().requires_grad_()
    assert dist(x).has_rsample and torch.autograd.grad(dist(x).rsample().sum(), x)[0].isfinite().all()
    for case, run in cases.items():
        try:
            run(dist)
        except RuntimeError as error:
            assert "setup_context staticmethod" in str(error), error
            seen[name, case] = "RuntimeError"
        else:
            seen[name, case] = "works"
        print(f"{name:10s} {case:32s} {seen[name, case]}")
for (name, case), found in seen.items():
    assert found == ("works" if name == "Gamma" else "RuntimeError"), (name, case, found)


def quotient(p):
    """A Beta(p, 3) draw out of two Gamma draws."""
    a, b = Gamma(p, torch.ones_like(p)).rsample(), Gamma(torch.full_like(p, 3.0), torch.ones_like(p)).rsample()
    return (a / (a + b)).sum()


slope = grad(quotient)(torch.full((400_000,), 2.0)).mean()  # of the mean p / (p + 3): 3 / (p + 3)^2
print(f"gradient of the mean through two Gamma draws {slope:.4f}, exact {3 / 25:.4f}")
assert abs(slope - 3 / 25) < 0.004
PYTHON
echo "as described: torch.func draws from Gamma, and from neither Beta nor Dirichlet"
