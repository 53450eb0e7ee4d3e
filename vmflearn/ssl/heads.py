"""DINO's projection head: a multi-layer perceptron, a bottleneck on the unit sphere, and the prototypes (Fig. 1b)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmflearn.ssl.prototypes import Prototypes


class DINOHead(nn.Module):
    """Features -> MLP -> y = z/|z| on the sphere -> logits of the mixture's components.

    Parameters
    ----------
    in_dim : int
        Dimension of the backbone's features.
    out_dim : int
        Number of components K.
    normalization : {"none", "l2", "vmf"}
        Score of a component, see `Prototypes`.
    hidden_dim : int
        Width of the hidden layers.
    bottleneck_dim : int
        Dimension p of the sphere.
    n_layers : int
        Linear layers of the MLP, the one into the bottleneck included; between them GELU.
    batch_norm : bool
        Put batch normalisation before every GELU.
    learn_magnitudes : bool
        False freezes the prototypes' magnitudes at one.

    Attributes
    ----------
    mlp : Sequential
        Weights truncated normal with standard deviation 0.02, biases zero.
    prototypes : Prototypes
        Created after the MLP's initialisation, which therefore does not reach it: v starts as in ``torch.nn.Linear``.

    Raises
    ------
    ValueError
        For sizes below one, and what `Prototypes` raises.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        normalization: str = "vmf",
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        n_layers: int = 3,
        batch_norm: bool = False,
        learn_magnitudes: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"in_dim": in_dim, "hidden_dim": hidden_dim, "bottleneck_dim": bottleneck_dim, "n_layers": n_layers}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.in_dim = in_dim
        layers: list[nn.Module] = []
        width = in_dim
        for _ in range(n_layers - 1):
            layers.append(nn.Linear(width, hidden_dim))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.GELU())
            width = hidden_dim
        layers.append(nn.Linear(width, bottleneck_dim))
        self.mlp = nn.Sequential(*layers)
        self.mlp.apply(_initialize_linear)
        self.prototypes = Prototypes(bottleneck_dim, out_dim, normalization, learn_magnitudes)

    def bottleneck(self, features: Tensor) -> Tensor:
        """Unit vectors y, the space in which the mixture lives.

        Parameters
        ----------
        features : Tensor, (..., in_dim)
            Output of the backbone.

        Returns
        -------
        Tensor, (..., bottleneck_dim)
            Rows of length one (zero if the MLP gives zero); float32, under autocast too; float64 stays float64.

        Raises
        ------
        ValueError
            If the last dimension is not ``in_dim``.
        """
        if features.shape[-1:] != (self.in_dim,):
            raise ValueError(
                f"features must have shape (..., {self.in_dim}), got {tuple(features.shape)}: "
                "build the head with in_dim equal to the backbone's num_features"
            )
        # Batch normalisation takes its statistics over rows, whatever dimensions lead.
        z = self.mlp(features.reshape(-1, self.in_dim))
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return F.normalize(z, dim=-1).reshape(*features.shape[:-1], z.shape[-1])

    def forward(self, features: Tensor, temperature: float) -> Tensor:
        """Complete logits (temperature and normaliser included), (..., out_dim), of features (..., in_dim).

        Raises
        ------
        ValueError
            As `bottleneck` and `Prototypes.forward`.
        """
        return self.prototypes(self.bottleneck(features), temperature)


def _initialize_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
