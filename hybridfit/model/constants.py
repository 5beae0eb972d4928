"""The numbers of a compiled scene that differ between galaxies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridfit.batch import Batch


@dataclass(frozen=True)
class Constants(Batch):
    """Priors, fixed values and offsets of ties, of B galaxies.

    Args:
        centre: (B, 2) float64 x, y that the target is expected at, pixels.
        numbers: (B, P, 5) float64 of the free slots' priors, see `hybridfit.model.distributions`.
        offset: (B, C) float64 what is added to each slot: its value where it is fixed, the offset
            of a tie; None where all slots are free.
        linear_offset: (B, L) float64 flux and sky [flux units, flux/pix] with the free ones at 0;
            None where all are free.
        linear_factor: (B, L) float64 of each flux or sky term: how many times the free one that it
            follows; None where all are free.
    """

    centre: Tensor
    numbers: Tensor
    offset: Tensor | None = None
    linear_offset: Tensor | None = None
    linear_factor: Tensor | None = None
