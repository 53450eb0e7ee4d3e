"""The uniform distribution on the unit sphere, as a ``torch.distributions.Distribution``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vmflearn.sphere.arguments import check_dim, device_and_dtype
from vmflearn.sphere.constraints import check_value, unit_vector
from vmflearn.sphere.expansion import log_normalizer_at_zero
from vmflearn.sphere.generators import accepts_generator
from vmflearn.sphere.sampling import draw


class HypersphericalUniform(Distribution):
    r"""The uniform distribution on the sphere :math:`S^{p-1}`, of density :math:`C_p(0) = 1 / \text{area}`.

    It is the von Mises-Fisher distribution of concentration 0, without a direction to name.

    Parameters
    ----------
    dim : int
        Number of coordinates p, at least 2.
    batch_shape : torch.Size, optional
        Shape of a batch of independent copies.
    dtype : torch.dtype, optional
        Floating-point dtype of samples; default torch's.
    device : torch.device, optional
        Device of samples; default torch's.
    validate_args : bool, optional
        Whether to check the argument of `log_prob`; default yes, as in `VonMisesFisher`.

    Raises
    ------
    ValueError
        ``dim`` not an integer of at least 2, ``dtype`` not floating-point.

    Examples
    --------
    >>> HypersphericalUniform(3).sample((5,)).shape
    torch.Size([5, 3])
    """

    arg_constraints = {}  # noqa: RUF012
    support = unit_vector
    has_rsample = True

    def __init__(
        self,
        dim: int,
        batch_shape: Any = torch.Size(),  # noqa: B008
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        dim = check_dim(dim)
        self._pole = torch.zeros(dim, dtype=dtype, device=device)
        if not self._pole.is_floating_point():
            raise ValueError(f"dtype must be a floating-point dtype, got {dtype}; pass for example torch.float32")
        self._pole[0] = 1
        super().__init__(torch.Size(batch_shape), torch.Size([dim]), validate_args=False)
        self._validate_args = True if validate_args is None else validate_args

    @property
    def dim(self) -> int:
        """Number of coordinates p; the sphere is S^(p-1)."""
        return self._event_shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of samples, means and divergences."""
        return self._pole.dtype

    @property
    def device(self) -> torch.device:
        """Device of samples."""
        return self._pole.device

    def expand(self, batch_shape: Any, _instance: HypersphericalUniform | None = None) -> HypersphericalUniform:
        """Return the distribution with another batch shape; the present one must broadcast to it."""
        new = self._get_checked_instance(HypersphericalUniform, _instance)
        batch_shape = torch.empty(self._batch_shape).expand(torch.Size(batch_shape)).shape
        new._pole = self._pole
        super(HypersphericalUniform, new).__init__(batch_shape, self._event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def to(
        self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> HypersphericalUniform:
        """Return the distribution with samples on another device, or of another floating-point dtype."""
        device, dtype = device_and_dtype(device, dtype)
        return HypersphericalUniform(
            self.dim, self._batch_shape, dtype or self.dtype, device or self.device, self._validate_args
        )

    def __getitem__(self, index: Any) -> HypersphericalUniform:
        """Part of the batch, as indexing tensors of the batch shape takes it."""
        if not self._batch_shape:
            raise TypeError("this HypersphericalUniform has no batch to index: its batch shape is empty")
        batch_shape = torch.empty(()).expand(self._batch_shape)[index].shape
        return HypersphericalUniform(self.dim, batch_shape, self.dtype, self.device, self._validate_args)

    @property
    def mean(self) -> Tensor:
        """The zero vector, (..., dim): the centre of the sphere."""
        return torch.zeros_like(self._pole).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, 1 / dim."""
        return torch.full_like(self._pole, 1 / self.dim).expand(self._extended_shape())

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariances of the coordinates, (..., dim, dim): the identity divided by dim."""
        return torch.diag_embed(self.variance)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Log-density with respect to surface measure, :math:`\log C_p(0)` everywhere; ``value`` (..., dim)."""
        if self._validate_args:
            check_value(value, self.dim)
        shape = torch.broadcast_shapes(value.shape[:-1], self._batch_shape)
        dtype = torch.promote_types(value.dtype, self._pole.dtype)
        return torch.full(shape, log_normalizer_at_zero(self.dim), dtype=dtype, device=value.device)

    @accepts_generator
    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draw unit vectors of shape (\*sample_shape, \*batch_shape, dim); there is no parameter to differentiate.

        ``generator=`` as in `VonMisesFisher.sample`.
        """
        shape = torch.Size(sample_shape) + self._batch_shape
        with torch.no_grad():
            return draw(self._pole, self._pole.new_zeros(()), shape)[0]

    sample = rsample

    def entropy(self) -> Tensor:
        """Differential entropy, the logarithm of the area of the sphere, of shape (...)."""
        return self._pole.new_full(self._batch_shape, -log_normalizer_at_zero(self.dim))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim: {self.dim}, batch_shape: {tuple(self._batch_shape)})"
