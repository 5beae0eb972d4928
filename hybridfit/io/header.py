"""What a FITS header knows of an image: zero point, gain, pixel scale, WCS.

A manifest's row goes before the option for all rows, and both before the header.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

ZEROPOINT_KEYS = ("MAGZERO", "MAGZPT", "MAGZP", "ZEROPT")
GAIN_KEYS = ("GAIN", "EGAIN")
# what a WCS is made of: parsing the hundreds of other cards of a survey's header costs more than
# the rest of reading
WCS_KEYS = re.compile(
    r"NAXIS|WCS|CTYPE|CRPIX|CRVAL|CDELT|CUNIT|CROTA|CD\d|PC\d|PV\d|PS\d|LONPOLE|LATPOLE|RADE|"
    r"EQUINOX|EPOCH|MJD|DATE-OBS|[AB]P?_|[DC][PQ]"
)


def first_number(*values: Any) -> float | None:
    """The first finite number of what may be missing or, in a header, anything."""
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def zeropoint(row: float, option: float | None, header: fits.Header) -> tuple[float, str]:
    """Return the zero point in mag, 0 where none is known, and a note if so."""
    known = first_number(row, option, *(header.get(key) for key in ZEROPOINT_KEYS))
    if known is None:
        return 0.0, "no zero point known: mag = -2.5 log10(flux)"
    return known, ""


def gain(row: float, option: float | None, header: fits.Header) -> float | None:
    """Return the gain in electrons per flux unit, None where none is known."""
    known = first_number(row, option, *(header.get(key) for key in GAIN_KEYS))
    return known if known is not None and known > 0 else None


def pixel_scale(row: float, option: float | None, wcs: WCS | None) -> float:
    """Return arcsec per pixel, the geometric mean of both axes; NaN where it is unknown."""
    known = first_number(row, option)
    if known is None and wcs is not None:
        sides = proj_plane_pixel_scales(wcs)  # degrees
        known = 3600.0 * math.sqrt(abs(float(sides[0]) * float(sides[1])))
    return known if known is not None and known > 0 else math.nan


def celestial_wcs(header: fits.Header, origin: tuple[int, int]) -> tuple[WCS | None, str]:
    """Return the WCS of the stamp that begins at ``origin``, None where there is none; a note."""
    if not all(str(header.get(f"CTYPE{axis}", ""))[4:5] == "-" for axis in (1, 2)):
        return None, ""  # nothing celestial: spare the parsing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = [card for card in header.cards if WCS_KEYS.match(card.keyword)]
            wcs = WCS(fits.Header(chosen), naxis=2)
    except Exception:  # wcslib's errors are many, and positions in pixels do without
        return None, "the WCS in the header cannot be read"
    if not wcs.has_celestial:
        return None, ""
    x, y = origin
    return (wcs.slice((slice(y, None), slice(x, None))) if x or y else wcs), ""
