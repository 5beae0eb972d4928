"""The other sources of a cutout, and what they mean for its target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.flags import Flag
from hybridfit.data.names import START_NAMES

MOST = 7  # neighbours that are fitted with a target
BLENDED = 0.05  # blendedness from which a target is flagged


@dataclass(frozen=True)
class Neighbours(Batch):
    """The neighbours of B targets that were fitted with them.

    Args:
        values: (B, 7, 7) float64 x, y, mag, r_eff, n, q, pa of each neighbour in cutout pixels; of
            a point NaN from r_eff on, all NaN where there is no further neighbour.
        errors: (B, 7, 7) float64 their standard deviations.
        blendedness: (B,) float64 share of the light in the target's pixels that is the
            neighbours', weighted by the target's own light; 0 without neighbours.
        mag_err: (B,) float64 what the neighbours' uncertainty adds to the error of the target's
            magnitude, in quadrature; mag.
    """

    values: Tensor
    errors: Tensor
    blendedness: Tensor
    mag_err: Tensor

    @property
    def count(self) -> Tensor:
        """(B,) int64 number of neighbours."""
        return torch.isfinite(self.values[:, :, 0]).sum(dim=1)

    @property
    def flags(self) -> Tensor:
        """(B,) int64 bits of `Flag`."""
        return (self.blendedness > BLENDED) * int(Flag.BLENDED)

    @classmethod
    def none(cls, batch: int) -> Neighbours:
        """Return the neighbours of ``batch`` targets without any."""
        missing = torch.full((batch, MOST, len(START_NAMES)), torch.nan, dtype=torch.float64)
        zero = torch.zeros(batch, dtype=torch.float64)
        return cls(missing, missing, zero, zero)
