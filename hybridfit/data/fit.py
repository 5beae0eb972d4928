"""The best fit of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.model.parameters import ParameterSpace


@dataclass(frozen=True)
class Fit(Batch):
    """The best parameters of a batch and their covariance.

    Args:
        space: names, units and priors of the P parameters.
        theta: (B, P) float64, physical parameters in the order of ``space.names``.
        covariance: (B, P, P) float64, of ``theta``, including the sky; NaN where missing.
        chi2: (B,) float64, sum of squared residuals over sigma on the unmasked pixels.
        dof: (B,) int64, unmasked pixels minus free parameters.
        n_iter: (B,) int64, number of accepted and rejected steps.
        flags: (B,) int64, bits of `Flag`.
    """

    space: ParameterSpace
    theta: Tensor
    covariance: Tensor
    chi2: Tensor
    dof: Tensor
    n_iter: Tensor
    flags: Tensor

    def __post_init__(self) -> None:
        shape = (self.theta.shape[0], len(self.space.names))
        if tuple(self.theta.shape) != shape:
            raise ValueError(
                f"theta has shape {tuple(self.theta.shape)}, expected {shape}: one column for "
                f"each of {', '.join(self.space.names)}"
            )
        if tuple(self.covariance.shape) != (*shape, shape[1]):
            raise ValueError(
                f"covariance has shape {tuple(self.covariance.shape)}, "
                f"expected {(*shape, shape[1])}"
            )

    @property
    def error(self) -> Tensor:
        """(B, P) standard deviations, NaN where the covariance is not positive."""
        variance = torch.diagonal(self.covariance, dim1=-2, dim2=-1)
        return torch.where(variance >= 0, variance, torch.nan).sqrt()
