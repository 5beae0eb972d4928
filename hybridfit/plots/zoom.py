"""The part of a cutout around a galaxy that is much smaller than the cutout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Pixel = TypeVar("Pixel", np.float32, np.float64, np.bool_)

REACH = 4.0  # half-light radii from the galaxy's centre to the edge of the zoom
LEAST = 12.0  # smallest distance in pixels, and
PSF_REACH = 3.0  # in FWHM of the PSF
SMALL = 0.6  # fraction of the cutout's shorter side: a larger zoom would show nothing new


@dataclass(frozen=True)
class Box:
    """A part of a cutout [pix]: x from ``left`` to ``right``, y from ``low`` to ``high``.

    The upper ends are excluded.
    """

    left: int
    right: int
    low: int
    high: int

    @classmethod
    def of_whole(cls, shape: tuple[int, ...]) -> Box:
        """Return the box of the entire cutout (H, W)."""
        return cls(0, shape[1], 0, shape[0])

    def of(self, plane: NDArray[Pixel]) -> NDArray[Pixel]:
        """Return this part of a plane (H, W)."""
        return plane[self.low : self.high, self.left : self.right]

    def first_pixel(self, origin: tuple[float, float]) -> tuple[float, float]:
        """Return x, y of the part's first pixel [pix], given those of the cutout's."""
        return origin[0] + self.left, origin[1] + self.low


def zoom_box(
    shape: tuple[int, ...], centre: tuple[float, float], r_eff: float, psf_fwhm: float = math.nan
) -> Box | None:
    """Return the square around a galaxy; None if it fills the cutout, or is unknown.

    Args:
        shape: H, W of the cutout.
        centre: x, y of the galaxy [pix].
        r_eff: half-light radius [pix].
        psf_fwhm: FWHM of the PSF [pix]; NaN without one.
    """
    if not all(map(math.isfinite, (*centre, r_eff))):
        return None
    height, width = shape
    half = max(LEAST, REACH * r_eff, PSF_REACH * float(np.nan_to_num(psf_fwhm)))
    if 2 * half + 1 > SMALL * min(height, width):
        return None
    half = math.ceil(half)
    side = 2 * half + 1
    left = min(max(round(centre[0]) - half, 0), width - side)
    low = min(max(round(centre[1]) - half, 0), height - side)
    return Box(left, left + side, low, low + side)
