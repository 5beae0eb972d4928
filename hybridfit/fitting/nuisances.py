"""Parameters of no interest that are marginalised exactly where they are linear.

The light of neighbours about their best fit is linear in small changes d of their parameters,

    data = model(target) + N d + noise,    prior of d: precision p about -u

with N their derivatives and u where the fit left them in units of their prior. For any target the
best d follows from normal equations, so that chi2, gradient and curvature of the target are those
with d at its best: what neighbours leave open widens the target's posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.fitting.cholesky import scaled_cholesky

JITTER = 1e-9  # of the normal equations, scaled to a unit diagonal


@dataclass(frozen=True)
class Nuisances(Batch):
    """Linear nuisance parameters of B galaxies.

    Args:
        basis: (B, N, H, W) derivatives over each pixel's noise, whitened: ``(N^T N + p)`` becomes
            the unit matrix; 0 where masked.
        pull: (B, N) of the prior, in the same whitened terms.
    """

    basis: Tensor
    pull: Tensor

    @classmethod
    def of(cls, columns: Tensor, precision: Tensor, offset: Tensor) -> Nuisances:
        """Return the nuisances of derivatives.

        Args:
            columns: (B, N, H, W) over each pixel's noise, 0 where masked.
            precision: (B, N) of the priors, 0 for a flat one.
            offset: (B, N) where the parameters are, from the middle of their priors.
        """
        flat = columns.flatten(2)
        matrix = (flat @ flat.mT).double() + torch.diag_embed(precision)
        factor, scale = scaled_cholesky(matrix, JITTER)

        def whitened(right: Tensor) -> Tensor:
            return torch.linalg.solve_triangular(factor, scale[:, :, None] * right, upper=False)

        basis = whitened(flat.double()).to(columns.dtype).view(columns.shape)
        return cls(basis, whitened((precision * offset)[:, :, None])[:, :, 0])

    @property
    def count(self) -> int:
        """Number of nuisance parameters."""
        return int(self.pull.shape[1])

    def gram(self, columns: Tensor) -> Tensor:
        """Return the Gram matrix (B, C, C) float64 with the nuisances at their best.

        Args:
            columns: (B, C, H * W) weighted columns, the residual last.
        """
        along = (columns @ self.basis.flatten(2).mT).double()  # (B, C, N)
        along[:, -1] -= self.pull
        return (columns @ columns.mT).double() - along @ along.mT

    def without(self, columns: Tensor) -> Tensor:
        """Return columns (B, C, H, W), over each pixel's noise, less what nuisances take up."""
        flat, basis = columns.flatten(2), self.basis.flatten(2)
        return (flat - (flat @ basis.mT) @ basis).view(columns.shape)
