"""The last layer as a mixture of von Mises-Fisher components (Eqs. 3 and 6).

A prototype w_k is a component with mean direction mu_k = w_k/|w_k| and concentration kappa_k = |w_k|/tau. Its logit is
the log-density of the unit vector y, up to a constant that is the same for every component:

    log C_p(kappa_k) + kappa_k <mu_k, y>  =  <w_k, y>/tau - logH(|w_k|/tau) + log C_p(0)

where logH(kappa) = log C_p(0) - log C_p(kappa). DINO keeps <w_k, y>/tau alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmflearn.sphere.bessel import log_hypergeometric_kernel

NORMALIZATIONS = ("none", "l2", "vmf")


class Prototypes(nn.Module):
    """Scores of a unit vector under every component: the weight-normalised last layer.

    A prototype is stored as direction and magnitude, w = g v/|v| (weight normalisation), and scored by

    ==========  ===============================  ==========================================================
    ``"none"``  <w, y>/tau                       DINO with free magnitudes (Eq. 3)
    ``"l2"``    <v, y>/(abs(v) tau)              DINO with normalised prototypes: all components equally wide
    ``"vmf"``   <w, y>/tau - logH(abs(g)/tau)    DINO-vMF (Eq. 6)
    ==========  ===============================  ==========================================================

    with logH(kappa) = log C_p(0) - log C_p(kappa) >= 0. The constant log C_p(0) of Eq. 6, which is +344 at dim 256, is
    left out: no softmax sees it, and low precision would spend its digits on it. A negative g turns the component's
    mean direction round; its concentration is abs(g)/tau. A zero v, without a direction, is the
    uniform density: kappa = 0.

    Parameters
    ----------
    bottleneck_dim : int
        Dimension p of the unit vectors: at least 1, with ``"vmf"`` at least 2.
    out_dim : int
        Number of components K, at least 2.
    normalization : {"none", "l2", "vmf"}
        Which of the scores above.
    learn_magnitudes : bool
        False freezes g at its value (1 at the start). With ``"l2"`` g takes no part in the scores and is always frozen.

    Attributes
    ----------
    weight_v : Parameter, (out_dim, bottleneck_dim)
        v, uniform in +-1/sqrt(bottleneck_dim) at the start, as in ``torch.nn.Linear``.
    weight_g : Parameter, (out_dim, 1)
        g, one at the start.

    Raises
    ------
    ValueError
        For an unknown normalisation or a size that is too small.
    """

    def __init__(
        self, bottleneck_dim: int, out_dim: int, normalization: str = "vmf", learn_magnitudes: bool = True
    ) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
        smallest = 2 if normalization == "vmf" else 1
        if bottleneck_dim < smallest:
            raise ValueError(
                f"bottleneck_dim must be at least {smallest} with normalization={normalization!r}, got {bottleneck_dim}"
            )
        if out_dim < 2:
            raise ValueError(
                f"out_dim, the number of components, must be at least 2, got {out_dim}: "
                "a single one has probability 1 whatever the input"
            )
        self.bottleneck_dim = bottleneck_dim
        self.out_dim = out_dim
        self.normalization = normalization
        bound = 1 / math.sqrt(bottleneck_dim)
        self.weight_v = nn.Parameter(torch.empty(out_dim, bottleneck_dim).uniform_(-bound, bound))
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=learn_magnitudes and normalization != "l2")

    @property
    def directions(self) -> Tensor:
        """Mean directions mu_k of the components, unit rows, (out_dim, bottleneck_dim)."""
        directions = F.normalize(self.weight_v, dim=-1)
        return directions if self.normalization == "l2" else torch.where(self.weight_g < 0, -directions, directions)

    @property
    def magnitudes(self) -> Tensor:
        """Lengths of the prototypes as the logits see them, (out_dim,): abs(g), and one with ``"l2"``; zero if v is."""
        magnitudes = self.weight_g.squeeze(-1).abs()
        if self.normalization == "l2":
            magnitudes = torch.ones_like(magnitudes)
        # where, not a product: the gradient stays finite, and a zero vector counts as the uniform density.
        return torch.where(self.weight_v.detach().norm(dim=-1) > 0, magnitudes, 0.0)

    def concentrations(self, temperature: float) -> Tensor:
        """Concentrations kappa_k of the components, (out_dim,): magnitude / temperature.

        Raises
        ------
        ValueError
            If the temperature is not a positive, finite number.
        """
        _check_temperature(temperature)
        return self.magnitudes / temperature

    def log_normalizers(self, temperature: float) -> Tensor:
        """The term that `forward` adds to <w, y>/tau, (out_dim,): log C_p(kappa_k) - log C_p(0).

        Zeros unless ``"vmf"``; never positive, in float32 or better, differentiable with derivative -A_p(kappa).

        Raises
        ------
        ValueError
            If the temperature is not a positive, finite number.
        """
        dtype = torch.promote_types(self.weight_v.dtype, torch.float32)
        kappa = self.concentrations(temperature).to(dtype)
        if self.normalization != "vmf":
            return torch.zeros_like(kappa)
        return -log_hypergeometric_kernel(kappa, self.bottleneck_dim)

    def forward(self, y: Tensor, temperature: float) -> Tensor:
        """Complete logits: their softmax gives the responsibilities of a mixture with equal weights.

        Parameters
        ----------
        y : Tensor, (..., bottleneck_dim)
            Unit vectors.
        temperature : float
            tau. It is part of the concentration, so dividing the logits of another temperature would be wrong with
            ``"vmf"``.

        Returns
        -------
        Tensor, (..., out_dim)
            float32, under autocast too; float64 if the input or the parameters are.

        Raises
        ------
        ValueError
            If the last dimension of y is not ``bottleneck_dim`` or the temperature is not a positive, finite number.
        """
        _check_temperature(temperature)
        if y.shape[-1:] != (self.bottleneck_dim,):
            raise ValueError(
                f"y must have shape (..., {self.bottleneck_dim}), got {tuple(y.shape)}: "
                "pass the unit vectors of a bottleneck of that dimension"
            )
        # bf16 would round a logit of 100 by 0.25: a quarter of a nat in a log-density.
        with torch.autocast(y.device.type, enabled=False):
            w, log_c = self.affine(temperature, y.dtype)
            return F.linear(y.to(w.dtype), w, log_c)

    def affine(self, temperature: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
        """The logits' matrix and shift: z = W y + log C, W of shape (out_dim, bottleneck_dim).

        In float32 or better, and as precise as `dtype` and the parameters. Without ``"vmf"`` there is no shift: None.

        Raises
        ------
        ValueError
            If the temperature is not a positive, finite number.
        """
        _check_temperature(temperature)
        dtype = torch.promote_types(torch.promote_types(dtype, self.weight_v.dtype), torch.float32)
        w = F.normalize(self.weight_v.to(dtype), dim=-1)
        if self.normalization != "l2":
            w = self.weight_g.to(dtype) * w
        log_c = self.log_normalizers(temperature).to(dtype) if self.normalization == "vmf" else None
        return w / temperature, log_c

    def extra_repr(self) -> str:
        """Sizes and settings, for ``print(module)``."""
        return (
            f"bottleneck_dim={self.bottleneck_dim}, out_dim={self.out_dim}, normalization={self.normalization!r}, "
            f"learn_magnitudes={self.weight_g.requires_grad}"
        )


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:  # false for NaN as well
        raise ValueError(f"temperature must be a positive, finite number, got {temperature}")
