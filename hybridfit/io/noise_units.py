"""Conversion of noise maps whose header gives another unit than the image's."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.units import UnitConversionError
from numpy.typing import NDArray

from hybridfit.data.quantities import NOISE_POWERS
from hybridfit.data.units import parse_unit, plain_unit
from hybridfit.io.image_header import text_in


def in_unit_of_image(
    plane: NDArray[np.floating], role: str, own: fits.Header, image: fits.Header
) -> NDArray[np.floating]:
    """Return a noise map in the image's unit.

    The map is returned as it is where a unit is missing or not understood, or where no conversion
    exists (a variance with the BUNIT of its image): the noise is checked against the sky later.

    Args:
        plane: (H, W) "sigma", "variance" or "ivar"; other roles are returned as they are.
        role: role of the plane.
        own: header of the plane.
        image: header of the image.
    """
    if role not in NOISE_POWERS:
        return plane
    units = [parse_unit(text_in(header, "BUNIT")) for header in (own, image)]
    if any(unit is None for unit in units):
        return plane
    try:
        mine, wanted = (plain_unit(unit) for unit in units)
        factor = float(mine.to(wanted ** NOISE_POWERS[role]))
    except (UnitConversionError, TypeError, AttributeError):
        return plane
    return plane if factor == 1.0 else plane.astype(np.float64) * factor
