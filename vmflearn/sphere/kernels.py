r"""Tensor formulas for the von Mises-Fisher normaliser: unchecked, without branches on data.

With :math:`H(\kappa) = {}_0F_1(; p/2; \kappa^2/4)` and :math:`\nu = p/2 - 1`, :math:`s = \sqrt{\nu^2+\kappa^2}`,
:math:`d = s - \nu = \kappa^2 / (s + \nu)`, :math:`\tau = (\nu/s)^2`, :math:`q = (\kappa/s)^2`:

.. math::
    \log H &= d - (\nu + \tfrac12)\log(1 + d/2\nu) - (d/s)\, Q \\
    A = (\log H)' &= \frac{\kappa}{s+\nu} - \frac{\kappa}{s^2}\bigl(\tfrac12 + W\bigr) \\
    A' &= \frac{\nu}{s(s+\nu)} + \frac{1}{s^2}\bigl[(q-\tau)(\tfrac12 + W) + q W_2\bigr]

where Q, W and :math:`W_2` are polynomials in 1/s (DLMF 10.41.3 in logarithms; coefficients in
`vmflearn.sphere.expansion`). The usual identities for A', such as :math:`1 - A^2 - (p-1)A/\kappa`, cancel: at large
concentration no digit is left. Here each derivative has a formula of its own, and automatic differentiation is told to
use it.

Every kernel takes ``kappa`` of any shape and returns the same shape, dtype and device; float16 and bfloat16 are
computed in float32. ``kappa`` may reach 1e18 in float32 and 1e150 in float64, where its square overflows and the result
is NaN; `vmflearn.sphere.flat_limit` goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vmflearn.sphere.arguments import in_transform, is_visible
from vmflearn.sphere.expansion import Plan, PowerSeries, make_plan

# The quantities are log H ("log_h"), kappa - log H ("excess"), A ("length"), 1 - A ("complement") and A' ("slope").
# Each has another for its derivative, up to the sign, and reads some polynomials of the plan.
DERIVATIVE = {"log_h": ("length", 1), "excess": ("complement", 1), "length": ("slope", 1), "complement": ("slope", -1)}
POLYNOMIALS = {
    "log_h": ("rest",),
    "excess": ("rest",),
    "length": ("half_plus_w",),
    "complement": ("half_plus_w",),
    "slope": ("half_plus_w", "w2"),
}
SERIES = {
    "log_h": ("excess",),
    "excess": ("excess",),
    "length": ("excess", "shifted"),
    "complement": ("excess",),
    "slope": ("excess", "slope"),
}
# Elements evaluated at once on a CPU, per thread: few enough for temporaries to stay in the cache.
CHUNK = 65_536
# Up to this many elements the time goes into calls, not into arithmetic.
FEW = 512

Quantities = tuple[str, ...]
Values = tuple[Tensor, ...]


# --- polynomials ---


def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Evaluate a polynomial, lowest coefficient first."""
    if torch.compiler.is_compiling():  # the compiler fuses it, with the coefficients in the code
        total = torch.full_like(x, coefficients[-1])
        for c in coefficients[-2::-1]:
            total = total * x + c
        return total
    if len(coefficients) == 1:
        return torch.full_like(x, coefficients[0])
    if type(x) is not Tensor or in_transform() or has_tangent(x) or (torch.is_grad_enabled() and x.requires_grad):
        scalars = torch.tensor(coefficients, dtype=x.dtype, device=x.device).unbind()
        total = scalars[-1]
        for scalar in scalars[-2::-1]:
            total = torch.addcmul(scalar, total, x)
        return total
    scalars = _scalars(coefficients, x.dtype, x.device)
    total = torch.addcmul(scalars[-2], scalars[-1], x)
    for scalar in scalars[-3::-1]:  # in place: one buffer stays in the cache
        torch.addcmul(scalar, total, x, out=total)
    return total


def _scalar(value: float, like: Tensor) -> Tensor:
    """A number as a tensor of no dimensions."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return torch.full((), value, dtype=like.dtype, device=like.device)
    return _scalars((value,), like.dtype, like.device)[0]


@cache
def _scalars(coefficients: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Values:
    """Coefficients as tensors, for which addcmul takes one pass."""
    with torch.inference_mode(False):
        return torch.tensor(coefficients, dtype=dtype, device=device).unbind()


def polynomials(x: Tensor, *rows: tuple[float, ...]) -> Values:
    """Evaluate several polynomials of one variable; for few elements by a table of powers, which takes fewer calls."""
    if torch.compiler.is_compiling() or not 0 < x.numel() <= FEW:
        return tuple(horner(row, x) for row in rows)
    degrees = max(2, *(len(row) for row in rows))
    table = torch.tensor([(*row, *[0.0] * (degrees - len(row))) for row in rows], dtype=x.dtype, device=x.device)
    powers = torch.linalg.vander(x.reshape(-1, 1), N=degrees)  # (n, 1, degrees)
    return tuple(row.reshape(x.shape) for row in (powers * table).sum(-1).unbind(-1))


# --- the two regimes: each computes the wanted quantities from what they share ---


def _large(kappa: Tensor, plan: Plan, wanted: Quantities) -> Values:
    """Uniform expansion, for s of at least the join. Autograd records the slope alone: the others work in place."""
    nu, results = plan.order, {}
    if nu == 0:
        squared, over_s, base = kappa * kappa, kappa.reciprocal(), kappa
    else:
        squared = torch.addcmul(_scalar(nu * nu, kappa), kappa, kappa)
        over_s = squared.rsqrt()
        base = torch.addcmul(_scalar(nu, kappa), squared, over_s)  # s + nu
    p = _read(plan, POLYNOMIALS, wanted, over_s)
    if "rest" in p:
        d = (kappa / base).mul_(kappa)
        logarithm = (d * (0.5 / nu)).log1p_() if nu else torch.log(kappa)
        factor = _scalar(1.0, kappa) if plan.small else d * over_s
        if "excess" in wanted:  # kappa - d = 2 nu kappa / (kappa + s + nu), without cancellation
            start = (kappa / (kappa + base)).mul_(2 * nu)
            results["excess"] = torch.addcmul(start.add_(logarithm, alpha=nu + 0.5), factor, p["rest"])
        if "log_h" in wanted:
            results["log_h"] = torch.addcmul(d.sub_(logarithm, alpha=nu + 0.5), factor, p["rest"], value=-1)
    if "length" in wanted or "complement" in wanted:
        correction = (kappa * over_s).mul_(over_s).mul_(p["half_plus_w"])
        if "length" in wanted:
            results["length"] = kappa / base - correction
        if "complement" in wanted:
            s = squared * over_s
            results["complement"] = nu * ((1 + nu / (s + kappa)) / base) + correction
    if "slope" in wanted:
        tau, q = (nu * over_s) ** 2, (kappa * over_s) ** 2
        correction = (q - tau) * p["half_plus_w"] + q * p["w2"]
        results["slope"] = over_s * (nu / base + over_s * correction)
    return tuple(results[name] for name in wanted)


def _small(kappa: Tensor, plan: Plan, series: PowerSeries, wanted: Quantities) -> Values:
    """Power series, for kappa up to the join."""
    t, results = kappa / series.unit, {}
    y = t * t
    p = _read(series, SERIES, wanted, y)
    h_minus_1 = y * p["excess"]
    h = 1 + h_minus_1
    if "log_h" in wanted:
        results["log_h"] = torch.log1p(h_minus_1)
    if "excess" in wanted:
        results["excess"] = kappa - torch.log1p(h_minus_1)
    if "length" in wanted:
        results["length"] = kappa / plan.dim * p["shifted"] / h
    if "complement" in wanted:
        (kummer,) = polynomials(t, series.complement)
        results["complement"] = torch.exp(-kappa) * kummer / h
    if "slope" in wanted:
        results["slope"] = p["slope"] / (h * h)
    return tuple(results[name] for name in wanted)


def _read(source: Plan | PowerSeries, needs: dict[str, Quantities], wanted: Quantities, x: Tensor) -> dict[str, Tensor]:
    """Evaluate the polynomials that the wanted quantities need, each once."""
    names = tuple(dict.fromkeys(polynomial for name in wanted for polynomial in needs[name]))
    return dict(zip(names, polynomials(x, *(getattr(source, name) for name in names)), strict=True))


# --- evaluation ---


def _plan(dim: int | Fraction, single: bool) -> Plan:
    """Look the coefficients up; under ``torch.compile`` they become constants of the graph."""
    return make_plan(dim, single)


# What torch.compiler.assume_constant_result does, which imports the whole compiler for it: two seconds.
_plan._dynamo_marked_constant = True  # type: ignore[attr-defined]


def evaluate(kappa: Tensor, dim: int | Fraction, *wanted: str) -> Values:
    """Compute several quantities together, in the dtype of kappa, float32 or float64."""
    plan = _plan(dim if isinstance(dim, Fraction) else int(dim), kappa.dtype == torch.float32)
    return in_chunks(lambda part: _join(part, plan, wanted), kappa)


def _join(kappa: Tensor, plan: Plan, wanted: Quantities) -> Values:
    """Join the two regimes. Their inputs are clamped, so that neither meets a value where it would overflow."""
    if plan.small is None:
        return _large(kappa, plan, wanted)
    small = _small(kappa.clamp(max=plan.join), plan, plan.small, wanted)
    large = _large(kappa.clamp(min=plan.join), plan, wanted)
    below = kappa < plan.join
    return tuple(torch.where(below, a, b) for a, b in zip(small, large, strict=True))


def in_chunks(function: Callable[..., Values], *arguments: Tensor) -> Values:
    """Apply an elementwise function of tensors of one shape piece by piece, where that is faster."""
    first = arguments[0]
    if torch.compiler.is_compiling() or first.device.type != "cpu":
        return function(*arguments)
    size = CHUNK * torch.get_num_threads()
    if first.numel() > FEW:
        keep_freed_memory()
    if first.numel() <= size:
        return function(*arguments)
    pieces = zip(*(argument.reshape(-1).split(size) for argument in arguments), strict=True)
    results = zip(*(function(*piece) for piece in pieces), strict=True)
    return tuple(torch.cat(result).reshape(first.shape) for result in results)


@cache
def keep_freed_memory() -> None:
    """Make the C library keep freed temporaries instead of giving them back to the system and fetching them again.

    Its thresholds for that follow the largest block freed so far (``man mallopt``): free one, without touching it.
    """
    torch.empty(2**24, dtype=torch.uint8)


# --- the differentiable functions ---


class _Quantity(torch.autograd.Function):
    """One quantity, differentiated by the formula of another instead of by autograd through its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kappa: Tensor, dim: int | Fraction, name: str) -> Tensor:
        return evaluate(kappa, dim, name)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int | Fraction, str], output: Tensor) -> None:
        kappa, ctx.dim, ctx.name = inputs
        ctx.save_for_backward(kappa)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (kappa,) = ctx.saved_tensors
        return _times_derivative(grad, kappa, ctx.dim, ctx.name), None, None


class _ForwardQuantity(_Quantity):
    """The same with its derivative carried forward, which ``torch.compile`` does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int | Fraction, str], output: Tensor) -> None:
        _Quantity.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, dim: None, name: None) -> Tensor:
        (kappa,) = ctx.saved_tensors
        return _times_derivative(tangent, kappa, ctx.dim, ctx.name)


def _times_derivative(factor: Tensor, kappa: Tensor, dim: int | Fraction, name: str) -> Tensor:
    derivative, sign = DERIVATIVE[name]
    product = factor * quantity(kappa, dim, derivative)
    return product if sign > 0 else -product


class _QuantityWithSlope(torch.autograd.Function):
    """The same for eager mode: computed together with its derivative, with which it shares most of the work."""

    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dim: int | Fraction, name: str) -> Tensor:
        value, slope = evaluate(kappa, dim, name, DERIVATIVE[name][0])
        ctx.dim, ctx.name = dim, name
        ctx.save_for_backward(kappa, slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        kappa, slope = ctx.saved_tensors
        derivative, sign = DERIVATIVE[ctx.name]
        if torch.is_grad_enabled():  # the gradient will be differentiated, so its slope has to be a function of kappa
            slope = quantity(kappa, ctx.dim, derivative)
        product = grad * slope
        return product if sign > 0 else -product, None, None


def has_tangent(x: Tensor) -> bool:
    """Whether a derivative is carried forward along with the values (``torch.autograd.forward_ad``)."""
    return forward_ad.unpack_dual(x).tangent is not None


def quantity(kappa: Tensor, dim: int | Fraction, name: str) -> Tensor:
    """One of the quantities of `DERIVATIVE`, or the slope, which autograd differentiates through its formula."""
    working = kappa.float() if kappa.dtype in (torch.float16, torch.bfloat16) else kappa
    is_visible(working)  # refuses torch.jit.trace
    if name == "slope":
        value = evaluate(working, dim, name)[0]
    elif torch.compiler.is_compiling():
        value = _Quantity.apply(working, dim, name)
    elif in_transform() or has_tangent(working):
        value = _ForwardQuantity.apply(working, dim, name)
    elif torch.is_grad_enabled() and working.requires_grad:
        value = _QuantityWithSlope.apply(working, dim, name)
    else:
        value = evaluate(working, dim, name)[0]
    return value.to(kappa.dtype)


def log_hypergeometric_kernel(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`\log H(\kappa) = \log C_p(0) - \log C_p(\kappa)`: 0 at 0, increasing, with slope A.

    Unchecked: negative, NaN or infinite ``kappa`` give meaningless values. For training steps, ``torch.compile`` and
    ``vmap``; elsewhere call `vmflearn.sphere.bessel.log_hypergeometric`. In a compiled graph ``dim`` is a
    constant: code that is compiled for several dimensions needs ``dynamic=False``.
    """
    return quantity(kappa, dim, "log_h")


def excess_kernel(kappa: Tensor, dim: int) -> Tensor:
    r""":math:`E(\kappa) = \kappa - \log H(\kappa) \ge 0`, so that the log-density at the mode is log C_p(0) + E."""
    return quantity(kappa, dim, "excess")


def length_kernel(kappa: Tensor, dim: int) -> Tensor:
    """A(kappa) = I_{p/2}(kappa) / I_{p/2-1}(kappa), the mean of mu . x."""
    return quantity(kappa, dim, "length")


def complement_kernel(kappa: Tensor, dim: int) -> Tensor:
    """1 - A(kappa), without cancellation."""
    return quantity(kappa, dim, "complement")


def length_derivative_kernel(kappa: Tensor, dim: int) -> Tensor:
    """A'(kappa), the variance of mu . x; itself differentiated by autograd through its formula."""
    return quantity(kappa, dim, "slope")
