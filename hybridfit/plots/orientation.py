"""The directions of North and East in an image, and the length of its scale bar."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from astropy.units import deg
from numpy.typing import NDArray

BAR_SHARE = 0.3  # largest fraction of a panel's width for a scale bar
NICE = (1.0, 2.0, 5.0)
LARGEST = 1e6  # pixels and arcsec: limits of meaningful scale bars


class Compass(NamedTuple):
    """Unit vectors (2,) towards North and East, in pixels."""

    north: NDArray[np.float64]
    east: NDArray[np.float64]


class ScaleBar(NamedTuple):
    """A bar's length in pixels and its label."""

    length: float
    label: str


def compass(wcs: Any, x: float, y: float) -> Compass | None:
    """Return the directions of ICRS North and East at a pixel; None if unknown.

    Args:
        wcs: astropy WCS of the cutout, or another with the shared interface; None without one.
        x, y: pixel, counted from 0.
    """
    if wcs is None or not (math.isfinite(x) and math.isfinite(y)):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            here = wcs.pixel_to_world(x, y)
            step = here.separation(wcs.pixel_to_world(x + 1, y))
            ends = [here.icrs.directional_offset_by(angle * deg, step) for angle in (0, 90)]
            north, east = (np.array(wcs.world_to_pixel(end), float) - (x, y) for end in ends)
    except Exception:  # wcslib has many exceptions, and a WCS may not be celestial
        return None
    lengths = np.hypot(*north), np.hypot(*east)
    if not all(math.isfinite(length) and length > 0 for length in lengths):
        return None
    return Compass(north / lengths[0], east / lengths[1])


def scale_bar(width: float, pixel_scale: float = math.nan) -> ScaleBar:
    """Return a bar of round length, at most a third of a panel's width.

    Args:
        width: width of the panel [pix].
        pixel_scale: arcsec per pixel; NaN for a bar in pixels.
    """
    known = 1 / LARGEST < pixel_scale < LARGEST
    unit = pixel_scale if known else 1.0
    longest = BAR_SHARE * width * unit
    if known and longest >= 60:
        minutes = _round_below(longest / 60)
        return ScaleBar(60 * minutes / unit, f"{minutes:g}'")
    length = _round_below(longest)
    return ScaleBar(length / unit, f'{length:g}"' if known else f"{length:g} pix")


def _round_below(value: float) -> float:
    """Return the largest of 1, 2, 5 x 10^k that does not exceed ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(nice * power for nice in NICE if nice * power <= value * (1 + 1e-9))
